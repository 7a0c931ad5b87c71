"""``verify`` and timers: a whole log passes, and each damage to what is sent later is named."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from repertory import Running
from repertory.actors.headers import BECAUSE, CAUSE, TIMER
from repertory.actors.shard.changelog import CHANGELOG_INDEX, TimerRecord, encode_changelog_record
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_owed
from repertory.bridge.log.record import Record
from repertory.verify import VerificationReport, verify
from tests.apps import ringing
from tests.apps.ringing import Clock, Mended, Remind, Ring, Set, Unset

Damage = Callable[[Record], Iterator[Record]]


class Damaged:
    """A reader of a log with damage."""

    def __init__(self, running: Running, damage: Damage) -> None:
        self._reader, self._damage = running.reader, damage

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """Yield the records with their damage."""
        for record in self._reader.read(topic, partition, from_offset):
            yield from self._damage(record)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A log with a timer that rang, one that recurs, one that is open, one that was stale, and two delayed messages."""
    Mended.yes = False
    system = ringing.made("ring", "exactly-once", partitions=1)
    with system.start() as running:
        tell = running.client.tell
        tell(Clock.set, "a", Set(name="rang", after_s=10))
        tell(Clock.set, "a", Set(name="open", after_s=10_000))
        tell(Clock.set, "a", Set(name="often", after_s=10, every_s=20))
        tell(Clock.remind, "a", Remind(key="b", after_s=15))
        tell(Clock.remind, "a", Remind(key="b", after_s=10_000))
        running.advance(100)
        # In one batch: the timer is due in the past, so it fires at the end of the turn that cancels it later.
        tell(Clock.set, "c", Set(name="stale", after_s=0))
        running.tick()
        running.tick()
        tell(Clock.unset, "c", Unset(name="stale"))
        running.settle()
        yield running


def report(running: Running, damage: Damage) -> VerificationReport:
    """Verify the log with damage."""
    reader: Any = Damaged(running, damage)
    return verify(reader, running.system)


def offenders(running: Running, damage: Damage) -> str:
    """Return what the check of timers finds."""
    (check,) = [check for check in report(running, damage).checks if check.name == "later"]
    assert not check.ok
    return check.detail


def fired(name: str) -> Callable[[Record], bool]:
    """Return a test for the first command of a timer."""
    seen: list[tuple[int, bytes | None]] = []

    def test(record: Record) -> bool:
        header = record.header(TIMER)
        if header is None or not header.endswith(f"/{name}".encode()):
            return False
        seen.append((record.offset, header))
        return (record.offset, header) == seen[0]

    return test


def told(record: Record) -> bool:
    """Tell whether a record is a delayed message."""
    return record.header(BECAUSE) is not None and record.header(TIMER) is None


def timer(name: str) -> Callable[[Record], bool]:
    """Return a test for the records of a timer in the changelog."""
    return lambda record: (record.key or b"").startswith(b"\0timer/") and (record.key or b"").endswith(name.encode())


def altered(is_it: Callable[[Record], bool], **changes: Any) -> Damage:
    """Return a damage: a record is another one."""

    def damage(record: Record) -> Iterator[Record]:
        yield msgspec.structs.replace(record, **changes) if is_it(record) else record

    return damage


def doubled(is_it: Callable[[Record], bool]) -> Damage:
    """Return a damage: a record is there a second time, with a cause of its own."""

    def damage(record: Record) -> Iterator[Record]:
        yield record
        if is_it(record):
            cause = (record.header(CAUSE) or b"").rsplit(b"/", 1)[0] + b"/%d" % (CHANGELOG_INDEX + 9_000)
            headers = tuple((name, cause if name == CAUSE else value) for name, value in record.headers)
            yield msgspec.structs.replace(record, headers=headers)

    return damage


def lost(is_it: Callable[[Record], bool]) -> Damage:
    """Return a damage: a record is gone."""
    return lambda record: iter(() if is_it(record) else (record,))


def test_a_whole_log_passes(running: Running) -> None:
    """The check has looked at timers and delayed messages, and a command without effect is a fate of its own."""
    whole = report(running, lambda record: iter((record,)))
    assert whole.ok, whole
    (check,) = [check for check in whole.checks if check.name == "later"]
    assert check.looked_at >= 8
    assert not check.unverifiable


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (doubled(fired("rang")), "is the command of a timer that has fired before"),
        (doubled(told), "is a delayed message that was sent before"),
        (altered(told, value=encode(Ring(name="x"))), "differs from what command 3 has told"),
        (altered(told, key=b"z"), "is not what command 3 has told"),
        (lost(timer("open")), "is missing: it is due later, or its command has no fate"),
        (lost(lambda record: timer("rang")(record) and record.value is None), "is not open: it was sent"),
        (lost(lambda record: (record.key or b"").startswith(b"\0tell/4")), "is missing"),
    ],
    ids=["fired twice", "sent twice", "other message", "other receiver", "lost", "kept", "not sent"],
)
def test_each_damage_is_named(running: Running, damage: Damage, sentence: str) -> None:
    """With its place."""
    assert sentence in offenders(running, damage)


def test_another_due_time_is_named(running: Running) -> None:
    """The record of an open timer says something else than its command."""

    def damage(record: Record) -> Iterator[Record]:
        if timer("open")(record) and record.value is not None:
            found = decode_owed((record.key or b"").decode(), record.value)
            assert isinstance(found, TimerRecord)
            later = encode_changelog_record(msgspec.structs.replace(found, due_ms=found.due_ms + 1))
            record = msgspec.structs.replace(record, value=later)
        yield record

    assert "and should be TimerRecord" in offenders(running, damage)


def test_a_header_that_no_shard_writes_is_named(running: Running) -> None:
    """What is sent because of nothing."""

    def damage(record: Record) -> Iterator[Record]:
        if told(record):
            headers = tuple((name, b"x" if name == BECAUSE else value) for name, value in record.headers)
            record = msgspec.structs.replace(record, headers=headers)
        yield record

    assert "has headers that no shard writes" in offenders(running, damage)
