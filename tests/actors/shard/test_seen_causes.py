"""What other shards have sent: known again by its cause, also after a restore, in bounded memory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.headers import Headers
from repertory.actors.shard.seen_causes import SeenCauses, Stamp

SOURCE = "bank.teller.commands/1"


def headers(offset: int, index: int = 0, epoch: int = 1, source: str = SOURCE) -> Headers:
    """Return the headers of a message from a shard."""
    return (("cause", f"{source}/{offset}/{index}".encode()), ("epoch", b"%d" % epoch))


def made(size: int = 10) -> SeenCauses:
    """Return an empty one, of a log with one topic of two partitions."""
    return SeenCauses(size, lambda topic, partition: topic == "bank.teller.commands" and partition < 2)


def take(seen: SeenCauses, found: Headers) -> bool:
    """Take a message in as a shard does; tell whether it was new."""
    stamp = seen.stamp(found)
    assert stamp is not None
    repeats = seen.repeats(stamp)
    seen.note(stamp)
    return not repeats


def test_what_comes_again_is_known_by_its_cause() -> None:
    """A message is new once; another output of the same command, or of another partition, is another message."""
    seen = made()
    assert take(seen, headers(5))
    assert take(seen, headers(5, index=1))
    assert take(seen, headers(5, source="bank.teller.commands/0"))
    assert not take(seen, headers(5))
    assert not take(seen, headers(5, epoch=2))


def test_causes_may_come_in_any_order() -> None:
    """A command that waited is handled after younger ones: a lower cause is no repetition."""
    seen = made()
    assert take(seen, headers(7))
    assert take(seen, headers(3))
    assert not take(seen, headers(7))


def test_what_an_older_owner_still_sends_is_left_to_the_present_one() -> None:
    """Once a successor is heard of, what comes of its predecessor is dropped: it will come again, or did."""
    seen = made()
    assert take(seen, headers(1, epoch=1))
    assert take(seen, headers(2, epoch=2))
    assert not take(seen, headers(9, epoch=1))
    assert take(seen, headers(9, epoch=2)), "what was dropped is not remembered"


def test_memory_is_bounded_by_source() -> None:
    """Only the last causes of each source partition are kept; a busy one does not push out those of another."""
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
def test_who_is_no_shard_of_the_log_is_never_taken_for_a_repetition(found: Headers) -> None:
    """Clients, shards that work exactly once, an operator's retry, and strangers who write such headers."""
    assert made().stamp(found) is None


STAMPS = st.builds(
    lambda partition, epoch, offset, index: headers(offset, index, epoch, f"bank.teller.commands/{partition}"),
    st.integers(0, 1), st.integers(1, 3), st.integers(0, 30), st.integers(0, 2),
)  # fmt: skip


@given(before=st.lists(STAMPS, max_size=60), size=st.integers(1, 20), after=st.lists(STAMPS, max_size=30))
def test_a_successor_remembers_what_the_shard_did(before: list[Headers], size: int, after: list[Headers]) -> None:
    """What was written down at any moment, and what came since, is all that memory held."""
    seen = made(size)
    at = len(before) // 2
    written = {}
    for number, found in enumerate(before):
        if number in (at // 2, at):  # Only what changed is written each time.
            written |= {each.source: each.record for each in seen.written()}
        take(seen, found)
    successor = made(size)
    for source, record in written.items():
        successor.load(source, record)
    for found in before[at:] if before else ():
        take(successor, found)
    assert [take(successor, found) for found in after] == [take(seen, found) for found in after]


def test_a_stamp_keeps_command_and_output_apart() -> None:
    """No two outputs have one number."""
    assert made().stamp(headers(1, 0)) == Stamp(SOURCE, 1, 1 << 32)
    assert made().stamp(headers(0, 1)) == Stamp(SOURCE, 1, 1)
