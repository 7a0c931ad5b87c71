"""Repeated messages of other shards are detected by their cause, also after a restore, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.headers import Headers
from repertory.actors.shard.seen_causes import SeenCauses, Stamp
from repertory.bridge.changelog_codec import decode_seen

SOURCE = "bank.teller.commands/1"


def headers(offset: int, index: int = 0, epoch: int = 1, source: str = SOURCE) -> Headers:
    """Return the headers of a message from a shard."""
    return (("cause", f"{source}/{offset}/{index}".encode()), ("epoch", b"%d" % epoch))


def made(size: int = 10) -> SeenCauses:
    """Return an empty `SeenCauses` for a log with one topic of two partitions."""
    return SeenCauses(size, lambda topic, partition: topic == "bank.teller.commands" and partition < 2)


def take(seen: SeenCauses, found: Headers) -> bool:
    """Receive a message as a shard does; return whether it is new."""
    stamp = seen.stamp(found)
    assert stamp is not None
    repeats = seen.repeats(stamp)
    seen.note(stamp)
    return not repeats


def test_a_repetition_is_detected_by_its_cause() -> None:
    """A message is new once. Another output of the same command, or of another partition, is another message."""
    seen = made()
    assert take(seen, headers(5))
    assert take(seen, headers(5, index=1))
    assert take(seen, headers(5, source="bank.teller.commands/0"))
    assert not take(seen, headers(5))
    assert not take(seen, headers(5, epoch=2))


def test_causes_can_arrive_in_any_order() -> None:
    """A stashed command is handled after later ones, so a lower cause is not a repetition."""
    seen = made()
    assert take(seen, headers(7))
    assert take(seen, headers(3))
    assert not take(seen, headers(7))


def test_messages_of_a_replaced_owner_are_dropped() -> None:
    """Once a successor is known, messages of its predecessor are dropped: the successor sends them itself."""
    seen = made()
    assert take(seen, headers(1, epoch=1))
    assert take(seen, headers(2, epoch=2))
    assert not take(seen, headers(9, epoch=1))
    assert take(seen, headers(9, epoch=2)), "a dropped message is not remembered"


def test_memory_is_bounded_for_each_source() -> None:
    """Only the last causes of each source partition are kept; a busy source does not displace those of another."""
    seen = made(3)
    take(seen, headers(0, source="bank.teller.commands/0"))
    for offset in range(4):
        take(seen, headers(offset))
    assert take(seen, headers(0)), "the oldest of four is forgotten"
    assert not take(seen, headers(3))
    assert not take(seen, headers(0, source="bank.teller.commands/0"))


@pytest.mark.parametrize(
    "found",
    [
        (),
        (("cause", b"bank.teller.commands/1/5/0"),),
        (("epoch", b"1"),),
        (*headers(5), ("retry-of", b"bank.dead-letters/0/3")),
        (("cause", b"bank.teller.commands/1/5/x"), ("epoch", b"1")),
        (("cause", b"bank.teller.commands/1/5/0"), ("epoch", b"-1")),
        (("cause", b"5/0"), ("epoch", b"1")),
        (("cause", b"\xff/1/5/0"), ("epoch", b"1")),
        headers(5, source="bank.teller.commands/2"),
        headers(5, source="no.such.topic/0"),
        headers(10**20),
    ],
)
def test_messages_from_outside_are_never_repetitions(found: Headers) -> None:
    """Clients, shards that work exactly once, an operator's retry, and invalid or invented headers."""
    assert made().stamp(found) is None


STAMPS = st.builds(
    lambda partition, epoch, offset, index: headers(offset, index, epoch, f"bank.teller.commands/{partition}"),
    st.integers(0, 1), st.integers(1, 3), st.integers(0, 30), st.integers(0, 2),
)  # fmt: skip


@given(before=st.lists(STAMPS, max_size=60), size=st.integers(1, 20), after=st.lists(STAMPS, max_size=30))
def test_a_successor_remembers_the_same_causes(before: list[Headers], size: int, after: list[Headers]) -> None:
    """The records written at any moment and the messages since then restore the whole memory."""
    seen = made(size)
    at = len(before) // 2
    written = {}
    for number, found in enumerate(before):
        if number in (at // 2, at):  # Only changed sources are written each time.
            written |= {each.key.removeprefix("\0seen/"): decode_seen(each.value or b"") for each in seen.written()}
        take(seen, found)
    successor = made(size)
    for source, record in written.items():
        successor.load(source, record)
    for found in before[at:] if before else ():
        take(successor, found)
    assert [take(successor, found) for found in after] == [take(seen, found) for found in after]


def test_stamps_of_different_outputs_differ() -> None:
    """Different outputs have different numbers."""
    assert made().stamp(headers(1, 0)) == Stamp(SOURCE, 1, 1 << 32)
    assert made().stamp(headers(0, 1)) == Stamp(SOURCE, 1, 1)
