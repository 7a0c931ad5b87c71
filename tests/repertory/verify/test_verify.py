"""``repertory verify`` passes the log of a run, and finds each kind of damage that is planted in it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.actors.headers import Headers
from repertory.actors.message import Done
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import SHARD_KEY, STASH_KEY, StashedRecord, encode_changelog_record
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_shard, decode_stashed, decode_state, is_stashed, stashed_offset
from repertory.bridge.codec import Codec
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.running import Running
from repertory.verify import Check, VerificationReport, records_total, verify
from tests.actors.domain import (
    Account,
    Deposit,
    Deposited,
    Pay,
    Split,
    Teller,
    Trip,
    Withdraw,
)
from tests.apps.mixed import NEWS, NEWS_SPEC, Sender, load, system
from tests.support.paths import ROOT

Place = tuple[str, int]


def place_of(topic: str, key: str) -> Place:
    return topic, partition_of(key.encode(), 2)


class WrittenLog(Sender):
    """A running system and its client, which write the log."""

    def __init__(self) -> None:
        backend = connect("memory:", system.settings)
        backend.ensure([NEWS_SPEC])
        self.running = Running(system, backend)
        super().__init__(backend.appender())

    def settle(self) -> None:
        """Work until nothing is left."""
        self.running.settle()


# --- a log that can be damaged ------------------------------------------------------------------------------------


class Copy:
    """A copy of all records and group offsets of a log, to damage and to verify."""

    def __init__(self, records: dict[Place, list[Record]], committed: dict[Place, int], ids: Mapping[str, str]) -> None:
        self.topics = {place: list(found) for place, found in records.items()}
        self.committed = dict(committed)
        self.ids = dict(ids)

    @classmethod
    def of(cls, running: Running) -> Copy:
        """Copy a log."""
        reader, records, committed = running.reader, {}, {}
        for topic in [NEWS, *(spec.name for spec in system.topic_specs())]:
            for partition in range(reader.partition_count(topic) or 0):
                records[topic, partition] = list(reader.read(topic, partition))
                if topic.endswith(".commands"):
                    offset = reader.committed("v", topic, partition)
                    if offset is not None:
                        committed[topic, partition] = offset
        return cls(records, committed, reader.topic_ids([spec.name for spec in system.topic_specs()]))

    def backend(self) -> EmbeddedBackend:
        """Return a log that holds the copy."""
        backend = connect("memory:")
        assert isinstance(backend, EmbeddedBackend)
        backend.ensure([NEWS_SPEC, *system.topic_specs()])
        connection = backend._memory.connection()
        connection.executemany("UPDATE topic SET id = ? WHERE topic = ?", [(i, name) for name, i in self.ids.items()])
        insert, encode_headers = "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", msgspec.msgpack.encode
        for (topic, partition), records in self.topics.items():
            rows = [
                (topic, partition, r.offset, r.key, r.value, encode_headers(r.headers), r.timestamp_ms) for r in records
            ]
            connection.executemany(insert, rows)
            end = records[-1].offset + 1 if records else 0
            connection.execute(
                "UPDATE partition SET next_offset = ? WHERE topic = ? AND partition = ?", (end, topic, partition)
            )
        connection.executemany(
            "INSERT INTO shard (grp, topic, partition, epoch, next_offset) VALUES ('v', ?, ?, 1, ?)",
            [(*place, offset) for place, offset in self.committed.items()],
        )
        return backend

    def report(self, *, decides: bool = True) -> VerificationReport:
        """Verify the copy."""
        with closing(self.backend()) as backend, closing(backend.reader()) as reader:
            return verify(reader, system, decides=decides)

    def failing(self) -> dict[str, Check]:
        """Verify the copy, and return the checks that fail; each must have a place."""
        found = {check.name: check for check in self.report().checks if not check.ok}
        assert all(check.offenders and check.offenders[0].topic for check in found.values())
        return found

    # --- finding ----------------------------------------------------------------------------------------------

    def all(self, suffix: str) -> list[Record]:
        """Return the records of the topics with a suffix; ``.stash``: the stashed commands, ``.state``: all others."""
        changelog, _, kind = suffix.rpartition(".")
        if kind not in ("state", "stash"):
            return [r for (topic, _), records in self.topics.items() if topic.endswith(suffix) for r in records]
        found = [
            r for (topic, _), records in self.topics.items() if topic.endswith(f"{changelog}.state") for r in records
        ]
        return [record for record in found if is_stashed(record) == (kind == "stash")]

    def first(self, suffix: str, test: Callable[[Record], bool] = lambda _: True) -> Record:
        """Return the first record that passes a test."""
        return next(record for record in self.all(suffix) if test(record))

    def last(self, suffix: str, test: Callable[[Record], bool] = lambda _: True) -> Record:
        """Return the last record that passes a test."""
        return [record for record in self.all(suffix) if test(record)][-1]

    # --- breaking ---------------------------------------------------------------------------------------------

    def lose(self, record: Record) -> None:
        """Remove a record; its offset stays empty."""
        self.topics[record.topic, record.partition].remove(record)

    def alter(self, record: Record, **changes: Any) -> Record:
        """Change a record in place."""
        records = self.topics[record.topic, record.partition]
        changed = msgspec.structs.replace(record, **changes)
        records[records.index(record)] = changed
        return changed

    def add(self, record: Record, **changes: Any) -> Record:
        """Append a changed copy of a record to its partition."""
        topic, partition = changes.get("topic", record.topic), changes.get("partition", record.partition)
        records = self.topics[topic, partition]
        end = records[-1].offset + 1 if records else 0
        records.append(msgspec.structs.replace(record, **changes, offset=end))
        return records[-1]

    def swap(self, first: Record, second: Record) -> None:
        """Swap two records."""
        self.alter(first, key=second.key, value=second.value, headers=second.headers)
        self.alter(second, key=first.key, value=first.value, headers=first.headers)

    def shard_record(self, entity: str, partition: int = 0) -> Record:
        """Return the last shard record of a shard."""
        return self.last(f"v.{entity}.state", lambda r: r.key == SHARD_KEY and r.partition == partition)

    def alter_shard(self, entity: str, partition: int = 0, **by: int) -> None:
        """Add to numbers of the last shard record."""
        record = self.shard_record(entity, partition)
        shard = decode_shard(record.value or b"")
        shard = msgspec.structs.replace(shard, **{name: getattr(shard, name) + n for name, n in by.items()})
        headers = with_header(record, "seq", b"%d" % shard.seq)
        self.alter(record, value=encode_changelog_record(shard), headers=headers)


def with_header(record: Record, name: str, value: bytes) -> Headers:
    return tuple((n, value if n == name else v) for n, v in record.headers)


def is_state(record: Record) -> bool:
    return record.key != SHARD_KEY and record.value is not None and decode_state(record.value).snapshot is not None


def cause(record: Record) -> bytes:
    return record.header("cause") or b""


def is_tell(record: Record) -> bool:
    return bool(cause(record)) and record.header("reply-to") is None and record.header("correlation-id") is None


@cache
def clean() -> Copy:
    """Return the log of a long run with all kinds of outcomes, which ends with parked keys and unhandled commands."""
    written = WrittenLog()
    draw = random.Random(11)  # noqa: S311  reproducible on purpose
    with closing(written.running):
        for _ in range(12):
            load(written, draw, 40)
            written.settle()
        written.tell("account", Trip(times=9, error="stop"), "q")
        for amount in (1, 2, 3):
            written.tell("account", Deposit(amount=amount), "q")
        written.ask("account", Deposit(amount=4), "q")
        written.tell("teller", Trip(times=9, error="restart"), "q")
        written.tell("teller", Pay(account="a", amount=1), "q")
        written.ask("account", Withdraw(amount=1_000_000), "a")
        written.tell("account", Withdraw(amount=1_000_000), "a")
        written.settle()
        written.tell("account", Deposit(amount=1), "alone")
        written.settle()
        written.tell("account", Deposit(amount=1), "a")  # Not handled, as the system does not run any more.
        return Copy.of(written.running)


@pytest.fixture
def copy() -> Copy:
    """Return a copy of the clean log."""
    return Copy(clean().topics, clean().committed, clean().ids)


def test_a_clean_log_passes(copy: Copy) -> None:
    """Every check has examined records, every outcome occurs, and every record was read."""
    report = copy.report()
    assert not [str(offender) for check in report.checks for offender in check.offenders]
    assert report.ok and not report.grew
    of_all = [check for check in report.checks if check.name != "later"]
    assert all(check.looked_at > 5 for check in of_all), {c.name: c.looked_at for c in report.checks}
    assert set(report.fates) == {
        "applied", "rejected", "dead-lettered", "parked", "not handled yet", "of an operator"
    }  # fmt: skip
    assert not any(check.unverifiable for check in report.checks)
    read: list[int] = []
    with closing(copy.backend()) as backend, closing(backend.reader()) as reader:
        verify(reader, system, seen=read.append)
        assert sum(read) == records_total(reader, system) + len(copy.all(NEWS))


def test_a_very_long_address_is_no_damage(copy: Copy) -> None:
    """Any client may write a ``reply-to`` of thousands of digits, which Python refuses to parse as a number."""
    asked = copy.first("account.commands", lambda r: r.header("reply-to") is not None and not cause(r))
    copy.add(asked, value=b"\xc1", headers=with_header(asked, "reply-to", b"v.replies/" + b"9" * 5_000))
    assert copy.report().ok


# --- damage -------------------------------------------------------------------------------------------------------

Damage = Callable[[Copy], object]


def events_reordered(copy: Copy) -> None:
    """The events of two commands of one key are swapped; seq and version stay in order."""
    journal = [r for r in copy.all("account.events") if cause(r).endswith(b"/0")]
    first, second = next(
        (a, b)
        for a in journal
        for b in journal
        if a.partition == b.partition and a.key == b.key and a.offset < b.offset and b"Deposited" in (a.value or b"")
        if b"Deposited" in (b.value or b"")
    )
    copy.alter(first, value=second.value, headers=with_header(first, "cause", cause(second)))
    copy.alter(second, value=first.value, headers=with_header(second, "cause", cause(first)))


def applied_though_rejected(copy: Copy) -> None:
    """A rejected withdrawal has an event at the end of the journal."""
    command = copy.last(
        "account.commands", lambda r: b"\xce\x00\x0f\x42\x40" in (r.value or b"") and r.header("reply-to") is None
    )
    forge(copy, command, encode(Deposited(amount=1)), version=1)


def forge(copy: Copy, command: Record, value: bytes, version: int | None = None) -> None:
    """Append an event of a command, with the seq and version that follow."""
    of_key = [r for r in copy.all("account.events") if r.key == command.key and r.partition == command.partition]
    template = of_key[-1] if of_key else copy.first("account.events", lambda r: r.partition == command.partition)
    lives = of_key and b"Stopped" not in (of_key[-1].value or b"")
    following = int(of_key[-1].header("version") or b"0") + 1 if lives else 1
    shard = decode_shard(copy.shard_record("account", command.partition).value or b"")
    copy.add(
        template,
        key=command.key,
        value=value,
        headers=(
            ("cause", f"v.account.commands/{command.partition}/{command.offset}/0".encode()),
            ("seq", b"%d" % shard.seq),
            ("version", b"%d" % following),
        ),
    )
    copy.alter_shard("account", command.partition, seq=1)


def applied_behind_a_stashed_command(copy: Copy) -> None:
    """A deposit that was stashed behind a parked command of its key was applied."""
    waiting = [r for r in copy.all("account.stash") if r.value and decode_stashed(r.value).key == "q"][-1]
    command = copy.first(
        "account.commands", lambda r: r.partition == waiting.partition and STASH_KEY + b"%d" % r.offset == waiting.key
    )
    for record in copy.all("account.stash"):
        if record.key == waiting.key and record.partition == waiting.partition:
            copy.lose(record)
    forge(copy, command, encode(Deposited(amount=3)))


def handled_and_not(copy: Copy) -> None:
    """An event of a command that is not handled according to the shard record."""
    command = copy.topics[place_of("v.account.commands", "a")][-1]
    forge(copy, command, encode(Deposited(amount=1)))


def skipped(copy: Copy) -> None:
    """The last event of a journal is missing, and the shard record does not count it."""
    event = copy.first("account.events", lambda r: r.key == b"alone")
    copy.lose(event)
    copy.alter_shard("account", event.partition, seq=-1)


def moved_back(copy: Copy, name: str) -> None:
    """A shard record is ahead of the next one."""
    records = [r for r in copy.all("account.state") if r.key == SHARD_KEY and r.partition == 0]
    record = records[-3]
    shard = decode_shard(record.value or b"")
    last = decode_shard(records[-1].value or b"")
    changed = msgspec.structs.replace(shard, **{name: getattr(last, name) + 1})
    copy.alter(record, value=encode_changelog_record(changed), headers=with_header(record, "seq", b"%d" % changed.seq))


def alter_stashed(copy: Copy, **changes: Any) -> None:
    record = copy.last("account.stash", lambda r: r.value is not None and decode_stashed(r.value).key == "q")
    changed = msgspec.structs.replace(decode_stashed(record.value or b""), **changes)
    copy.alter(record, value=encode_changelog_record(changed))


def lose_stashed(copy: Copy, entity: str, which: int) -> None:
    """A stashed command of key q is missing."""
    waiting = [r for r in copy.all(f"{entity}.stash") if r.value and decode_stashed(r.value).key == "q"]
    offset = sorted(map(stashed_offset, waiting))[which]
    for record in [r for r in waiting if stashed_offset(r) == offset]:
        copy.lose(record)


def invent_stashed(copy: Copy) -> None:
    """A command that was applied is stashed as well."""
    event = copy.first("account.events")
    offset = cause(event).split(b"/")[2]
    command = copy.first("account.commands", lambda r: r.partition == event.partition and r.offset == int(offset))
    record = StashedRecord(
        key=(command.key or b"").decode(), value=command.value or b"", headers=command.headers,
        timestamp_ms=command.timestamp_ms,
    )  # fmt: skip
    changelog = cause(copy.shard_record("account", event.partition)).rsplit(b"/", 1)
    copy.add(
        copy.first("account.stash"),
        partition=event.partition,
        key=STASH_KEY + offset,
        value=encode_changelog_record(record),
        headers=(("cause", changelog[0] + b"/%d" % (int(changelog[1]) + 1)),),
    )


def alter_state(copy: Copy, entity: str, **changes: Any) -> None:
    record = copy.last(f"{entity}.state", is_state)
    changed = msgspec.structs.replace(decode_state(record.value or b""), **changes)
    copy.alter(record, value=encode_changelog_record(changed))


def alter_budget(copy: Copy, restarts: Callable[[tuple[int, ...]], tuple[int, ...]]) -> None:
    """The latest state record of a parked key that was restarted has another budget."""
    record = copy.last(
        "teller.state", lambda r: r.key == b"q" and r.value is not None and bool(decode_state(r.value).restarts_ms)
    )
    state = decode_state(record.value or b"")
    changed = msgspec.structs.replace(state, restarts_ms=restarts(state.restarts_ms))
    copy.alter(record, value=encode_changelog_record(changed))


def set_shard(entity: str, **fields: Any) -> Damage:
    """Set fields of the last shard record of partition 0."""

    def damage(copy: Copy) -> None:
        record = copy.shard_record(entity)
        shard = msgspec.structs.replace(decode_shard(record.value or b""), **fields)
        copy.alter(record, value=encode_changelog_record(shard))

    return damage


def alter_failed(is_parked: str, **changes: Any) -> Damage:
    """A stashed command that has failed, ``parked`` or ``restarted``, has other fields."""

    def is_due(record: Record) -> bool:
        found = None if record.value is None else decode_stashed(record.value)
        return found is not None and bool(found.error) and found.parked is (is_parked == "parked")

    def damage(copy: Copy) -> None:
        record = copy.last("account.stash", is_due)
        changed = msgspec.structs.replace(decode_stashed(record.value or b""), **changes)
        copy.alter(record, value=encode_changelog_record(changed))

    return damage


def with_headers(suffix: str, change: Callable[[Headers], Headers], test: Callable[[Record], bool]) -> Damage:
    """The last such record has other headers."""

    def damage(copy: Copy) -> None:
        record = copy.last(suffix, test)
        copy.alter(record, headers=change(record.headers))

    return damage


def without(*lost: str) -> Callable[[Headers], Headers]:
    """Lose headers."""
    return lambda headers: tuple(header for header in headers if header[0] not in lost)


def one_more(name: str = "x") -> Callable[[Headers], Headers]:
    """Add a header."""
    return lambda headers: (*headers, (name, b"1"))


def has(*wanted: str) -> Callable[[Record], bool]:
    """Test whether a record is an output with these headers."""
    return lambda record: bool(cause(record)) and {*wanted} <= {name for name, _ in record.headers}


def lose_last_state(copy: Copy, entity: str) -> None:
    """The latest state record of an entity is missing."""
    latest = {(r.partition, r.key): r for r in copy.all(f"{entity}.state") if r.key != SHARD_KEY}
    copy.lose(next(r for r in latest.values() if is_state(r)))


def invent_tell(copy: Copy, cause: bytes) -> None:
    template = copy.first("account.commands", is_tell)
    copy.add(template, headers=with_header(template, "cause", cause))


def ask_reply_doubled(copy: Copy) -> None:
    """An ask has two replies, as outputs of different index."""
    reply = copy.first(".replies")
    copy.add(reply, headers=with_header(reply, "cause", cause(reply).rsplit(b"/", 1)[0] + b"/7"))


def commands_end_early(copy: Copy) -> None:
    place = place_of("v.account.commands", "a")
    copy.topics[place] = [r for r in copy.topics[place] if r.offset < copy.committed[place] - 1]


def move_offset(copy: Copy, by: int) -> None:
    copy.committed["v.account.commands", 0] += by


def no_shard_record(copy: Copy) -> None:
    for record in copy.all("account.state"):
        if record.key == SHARD_KEY and record.partition == 0:
            copy.lose(record)


def publish(copy: Copy) -> None:
    """A published record has the cause of a command that did not publish it."""
    template = copy.first(NEWS)
    copy.add(template, headers=(("cause", cause(template)[:-1] + b"9"),))


def dead_letter_of_an_applied_command(copy: Copy) -> None:
    template = copy.first(".dead-letters")
    copy.add(template, headers=with_header(template, "cause", cause(copy.first("account.events"))))


def tells_reordered(copy: Copy) -> None:
    """Two tells of one router to one partition are swapped."""
    tells = [r for r in copy.all("account.commands") if cause(r).startswith(b"v.router") and is_tell(r)]
    first = tells[0]
    second = next(r for r in tells[1:] if r.partition == first.partition and r.key == first.key)
    copy.swap(first, second)


def published_reordered(copy: Copy) -> None:
    """Two published records of one paper are swapped, with their causes."""
    first = copy.first(NEWS)
    copy.swap(first, copy.last(NEWS, lambda r: r.partition == first.partition and r.key == first.key))


def only_tell_lost(copy: Copy) -> None:
    """The only output of a teller's command is missing."""
    answered = {cause(r).rsplit(b"/", 1)[0] for r in copy.all(".replies")}
    asks = [r for r in copy.all("account.commands") if cause(r).startswith(b"v.teller")]
    copy.lose(next(r for r in asks if cause(r).rsplit(b"/", 1)[0] not in answered))


def lost(suffix: str, test: Callable[[Record], bool] = lambda _: True) -> Damage:
    return lambda copy: copy.lose(copy.last(suffix, test))


def doubled(suffix: str) -> Damage:
    return lambda copy: copy.add(copy.last(suffix))


def altered(suffix: str, value: bytes, test: Callable[[Record], bool] = lambda _: True) -> Damage:
    return lambda copy: copy.alter(copy.last(suffix, test), value=value)


def renumbered(suffix: str, name: str, by: int, test: Callable[[Record], bool] = lambda _: True) -> Damage:
    def damage(copy: Copy) -> None:
        record = copy.last(suffix, test)
        number = int(record.header(name) or b"") + by
        copy.alter(record, headers=with_header(record, name, b"%d" % number))

    return damage


def restated(suffix: str, name: str, value: bytes, test: Callable[[Record], bool] = lambda _: True) -> Damage:
    def damage(copy: Copy) -> None:
        record = copy.last(suffix, test)
        copy.alter(record, headers=with_header(record, name, value))

    return damage


def of_cause(suffix: str, value: bytes) -> Damage:
    return restated(suffix, "cause", value)


NO_COMMAND = StashedRecord(key="q", value=b"", headers=(), timestamp_ms=0)
NOWHERE = b"v.account.commands/0/999999/0"
DAMAGES: dict[str, tuple[str, Damage]] = {
    # events
    "an event is lost": (  # Not the first of its partition, which retention may have deleted.
        "single writer", lambda c: c.lose(c.first("account.events", lambda r: r.offset > 0))
    ),
    "the last event is lost": ("shard records", lost("account.events")),
    "an event is lost and is not counted": ("completeness", skipped),
    "an event is doubled": ("duplicates", doubled("account.events")),
    "an event is altered": ("decisions", altered("account.events", encode(Deposited(amount=77)))),
    "an event is altered, and a snapshot is not": (
        "states", lambda c: c.alter(c.first("account.events"), value=encode(Deposited(amount=77)))
    ),
    "an event is garbled": ("states", altered("account.events", b"\xc1")),
    "events are reordered": ("order", events_reordered),
    "an event has no cause": ("single writer", of_cause("account.events", b"")),
    "an event has the cause of another": ("single writer", of_cause("account.events", b"v.teller.commands/0/1/0")),
    "an event has the cause of a changelog record": (
        "single writer", of_cause("account.events", b"v.account.commands/0/1/4294967296")
    ),
    "an event has no command": ("atomicity", of_cause("account.events", b"v.account.commands/1/999999/0")),
    "a seq is skipped": ("single writer", renumbered("account.events", "seq", 1)),
    "a version is skipped": ("single writer", renumbered("account.events", "version", 1)),
    "an event is on the wrong partition": (
        "single writer", lambda c: c.add(c.last("account.events"), partition=1 - c.last("account.events").partition)
    ),
    "a rejected command was applied": ("decisions", applied_though_rejected),
    "a command was applied behind a stashed one": ("order", applied_behind_a_stashed_command),
    "a command left an event and is not handled": ("atomicity", handled_and_not),
    # commands
    "a command is lost": (
        "atomicity", lambda c: c.lose(c.first("account.commands", lambda r: b"Split" in (r.value or b"")))
    ),
    "a command is altered": (
        "decisions",
        lambda c: c.alter(
            c.first("account.commands", lambda r: b"Split" in (r.value or b"")), value=encode(Split(amounts=(9, 9)))
        ),
    ),
    "the end of the commands is lost": ("shard records", commands_end_early),
    # tells
    "one of two tells is lost": ("atomicity", lost("account.commands", lambda r: cause(r).startswith(b"v.router"))),
    "the only tell is lost": ("completeness", only_tell_lost),
    "a tell is altered": (
        "decisions",
        altered("account.commands", encode(Deposit(amount=55)), lambda r: cause(r).startswith(b"v.router")),
    ),
    "a tell is doubled": ("duplicates", lambda c: c.add(c.first("account.commands", is_tell))),
    "a tell has lost its cause": ("atomicity", lambda c: c.alter(c.last("account.commands", is_tell), headers=())),
    "a tell names no command": ("tells", lambda c: invent_tell(c, NOWHERE)),
    "a tell names no shard": ("tells", lambda c: invent_tell(c, b"v.account.commands/7/0/0")),
    "a tell is one too many": ("decisions", lambda c: invent_tell(c, b"v.router.commands/0/0/5")),
    "tells are reordered": ("order", tells_reordered),
    # replies
    "a reply is lost": ("completeness", lost(".replies", lambda r: b"InsufficientFunds" in (r.value or b""))),
    "a reply beside an event is lost": ("atomicity", lost(".replies", lambda r: b"Deposited" in (r.value or b""))),
    "a reply is altered": ("decisions", altered(".replies", encode(Done()), lambda r: b"Funds" in (r.value or b""))),
    "a reply is doubled": ("duplicates", doubled(".replies")),
    "a reply is given again by another output": ("replies", ask_reply_doubled),
    "a reply without an ask": ("replies", restated(".replies", "correlation-id", b"?")),
    "a reply without a cause": ("replies", of_cause(".replies", b"")),
    "a reply with a garbled cause": ("replies", of_cause(".replies", b"c")),
    "a reply without a command": ("replies", of_cause(".replies", NOWHERE)),
    # published
    "what was published is lost": ("atomicity", lost(NEWS)),
    "what was published is doubled": ("duplicates", doubled(NEWS)),
    "what was published is altered": ("decisions", altered(NEWS, b"fake")),
    "what was published is reordered": ("order", published_reordered),
    "something was published by no decision": ("decisions", publish),
    # states
    "a snapshot is altered": ("states", lambda c: alter_state(c, "account", snapshot=encode(Account(balance=-5)))),
    "a snapshot is garbled": ("states", lambda c: alter_state(c, "account", snapshot=b"\xc1")),
    "a state record is garbled": ("states", altered("account.state", b"\xc1", is_state)),
    "a living entity has ended": ("states", lambda c: alter_state(c, "account", snapshot=None, ended=True)),
    "a living entity is a tombstone": ("states", lambda c: c.alter(c.last("account.state", is_state), value=None)),
    "the last snapshot is lost": ("states", lambda c: lose_last_state(c, "account")),
    "a snapshot of no event": ("states", renumbered("account.state", "seq", -1, is_state)),
    "a snapshot of another version": ("states", renumbered("account.state", "version", 1, is_state)),
    "a state is altered": ("states", lambda c: alter_state(c, "teller", snapshot=encode(Teller(asked=999)))),
    "the last state is lost": ("states", lambda c: lose_last_state(c, "teller")),
    "a state's version is skipped": ("single writer", renumbered("teller.state", "version", 3, is_state)),
    "a state's seq is skipped": ("single writer", renumbered("teller.state", "seq", 3, is_state)),
    "a state is doubled": ("single writer", lambda c: c.add(c.first("teller.state", is_state))),
    "a state comes back": ("states", lambda c: c.add(c.first("teller.state", is_state))),
    "a state is on the wrong partition": (
        "single writer", lambda c: c.add(c.last("teller.state"), partition=1 - c.last("teller.state").partition)
    ),
    "a state of a router": (
        "restore", lambda c: c.add(c.first("teller.state", is_state), topic="v.router.state")
    ),
    # shard records
    "next is ahead": ("shard records", lambda c: c.alter_shard("account", next=1)),
    "next is behind": ("shard records", lambda c: c.alter_shard("account", next=-1)),
    "seq is ahead": ("shard records", lambda c: c.alter_shard("account", seq=1)),
    "seq is behind": ("shard records", lambda c: c.alter_shard("account", seq=-1)),
    "seq of a stateful shard is ahead": ("shard records", lambda c: c.alter_shard("teller", seq=1)),
    "the changelog count is ahead": ("shard records", lambda c: c.alter_shard("account", changelog=1)),
    "the tail is behind the end": ("shard records", lambda c: c.alter_shard("account", tail_start=1_000)),
    "the tail begins too late": ("restore", lambda c: c.alter_shard("account", tail_offset=10_000)),
    "a snapshot is missing below the tail": ("restore", lambda c: c.alter_shard("account", tail_start=9)),
    "the tail begins too early": ("shard records", lambda c: c.alter_shard("account", tail_start=-1)),
    "a shard without a journal has a tail": ("shard records", set_shard("teller", tail_offset=1)),
    "next moved back": ("shard records", lambda c: moved_back(c, "next")),
    "seq moved back": ("shard records", lambda c: moved_back(c, "seq")),
    "tail_start moved back": ("shard records", lambda c: moved_back(c, "tail_start")),
    "tail_offset moved back": ("shard records", lambda c: moved_back(c, "tail_offset")),
    "a shard record is garbled": ("shard records", lambda c: c.alter(c.shard_record("account"), value=b"\xc1")),
    "a shard record is doubled": ("single writer", lambda c: c.add(c.shard_record("account"))),
    "no shard record": ("shard records", no_shard_record),
    "the last shard record is lost": ("shard records", lambda c: c.lose(c.shard_record("account"))),
    "the group's offset moved back": ("shard records", lambda c: move_offset(c, -1)),
    "the group's offset is ahead": ("shard records", lambda c: move_offset(c, 1)),
    "a state counts restarts out of order": ("states", lambda c: alter_state(c, "account", restarts_ms=(2, 1))),
    "a budget is erased": ("states", lambda c: alter_budget(c, lambda _: ())),
    "a budget lost a restart": ("states", lambda c: alter_budget(c, lambda restarts: restarts[1:])),
    "a budget has one restart more": ("states", lambda c: alter_budget(c, lambda restarts: (*restarts, restarts[-1]))),
    "a suspect is planted": ("shard records", set_shard("account", suspect=3, deaths=1)),
    "a suspect that is to come is planted": (
        "shard records", lambda c: set_shard("account", suspect=c.committed["v.account.commands", 0], deaths=2)(c)
    ),
    "deaths are planted": ("shard records", set_shard("account", deaths=1)),
    "an owner is planted": ("shard records", set_shard("account", owner="node/9")),
    "a shard is closed": ("shard records", set_shard("account", closed=True)),
    "an announcement is planted": ("shard records", set_shard("account", guarded=3)),
    "guarded commands are planted": ("shard records", set_shard("account", guarded_below=1 << 40)),
    "an epoch is planted": ("shard records", set_shard("account", epoch=1)),
    "a mode is planted": ("shard records", set_shard("account", nontransactional=True)),
    "seen commands are planted": ("shard records", set_shard("account", seen=1)),
    "the ids of the topics are erased": ("shard records", set_shard("account", topic_ids={})),
    "a living state has ended": ("states", lambda c: alter_state(c, "account", ended=True)),
    "a state has a first stashed command, and none": ("stash", lambda c: alter_state(c, "account", stashed_first=3)),
    "a state has a seq, and is none": ("states", lambda c: alter_state(c, "account", snapshot=None)),
    # headers
    "an ask has lost what it is about": (
        "decisions", with_headers("account.commands", without("about"), has("about", "reply-to"))
    ),
    "an ask has lost its asker": ("atomicity", with_headers("account.commands", without("reply-key"), has("reply-to"))),
    "a reply has lost what it is about": (
        "decisions", with_headers("teller.commands", without("about"), has("about", "correlation-id"))
    ),
    "a tell has a header more": ("atomicity", with_headers("account.commands", one_more(), is_tell)),
    "a reply has an epoch": ("replies", with_headers(".replies", one_more("epoch"), has("cause"))),
    "what was published has a header more": ("atomicity", with_headers(NEWS, one_more(), has("cause"))),
    "an event has a header more": ("single writer", with_headers("account.events", one_more(), has("cause"))),
    "an event has an epoch": ("single writer", with_headers("account.events", one_more("epoch"), has("cause"))),
    "a dead letter has a header more": ("dead letters", with_headers(".dead-letters", one_more(), has("cause"))),
    "a state has a header more": ("single writer", with_headers(".state", one_more(), has("version"))),
    "a shard record has a header more": (
        "single writer", with_headers(".state", one_more(), lambda r: r.key == SHARD_KEY)
    ),
    "a stash record has a header more": ("single writer", with_headers(".stash", one_more(), has("cause"))),
    # stash
    "a parked command is retried": ("stash", alter_failed("parked", parked=False)),
    "a parked command has another attempt": ("stash", alter_failed("parked", attempt=9)),
    "a parked command has no error": ("stash", alter_failed("parked", error="")),
    "a command behind others has a reason": ("stash", lambda c: alter_stashed(c, reason="x")),
    "a restarted command has another attempt": ("stash", alter_failed("restarted", attempt=9)),
    "a restarted command is due later": ("stash", alter_failed("restarted", due_ms=1 << 50)),
    "a command that has left the stash was another": ("stash", alter_failed("restarted", timestamp_ms=1)),
    "the first stashed command is lost": ("completeness", lambda c: lose_stashed(c, "account", 0)),
    "the second stashed command is lost": ("completeness", lambda c: lose_stashed(c, "account", 1)),
    "a stashed command is lost and still counted": ("stash", lambda c: lose_stashed(c, "account", 2)),
    "an applied command is stashed": ("completeness", invent_stashed),
    "a state counts a stash that is empty": (
        "stash", lambda c: alter_state(c, "account", stashed=1, stashed_first=3)
    ),
    "a stashed command is altered": ("stash", lambda c: alter_stashed(c, value=encode(Deposit(amount=1_000)))),
    "a stashed command has another key": ("stash", lambda c: alter_stashed(c, key="r")),
    "a stash record is garbled": (
        "stash", altered("account.stash", b"\xc1", lambda r: r.value is not None)
    ),
    "a stash record has no offset": (
        "stash", lambda c: c.alter(c.last("account.stash"), key=STASH_KEY + b"first")
    ),
    "a stash record has no command": (
        "stash",
        lambda c: c.alter(c.last("account.stash"), key=STASH_KEY + b"99999", value=encode_changelog_record(NO_COMMAND)),
    ),
    "a state record is lost": ("shard records", lambda c: c.lose(c.last("account.state", is_state))),
    # dead letters
    "a dead letter is lost": ("completeness", lost(".dead-letters", lambda r: "reply-to" not in dict(r.headers))),
    "a dead letter is doubled": ("duplicates", doubled(".dead-letters")),
    "a second dead letter": (
        "dead letters",
        lambda c: c.add(
            c.last(".dead-letters"),
            headers=with_header(c.last(".dead-letters"), "cause", cause(c.last(".dead-letters"))[:-1] + b"6"),
        ),
    ),
    "a dead letter is altered": ("dead letters", altered(".dead-letters", b"fake")),
    "a dead letter has another source": ("dead letters", restated(".dead-letters", "source-offset", b"0")),
    "a dead letter has no attempts": ("dead letters", restated(".dead-letters", "attempts", b"0")),
    "a dead letter has other attempts": ("dead letters", restated(".dead-letters", "attempts", b"7")),
    "a dead letter has another error": (
        "dead letters",
        restated(".dead-letters", "error-type", b"KeyError", lambda r: r.header("error-type") == b"DecodeError"),
    ),
    "a dead letter without a cause": ("dead letters", of_cause(".dead-letters", b"")),
    "a dead letter without a command": ("dead letters", of_cause(".dead-letters", NOWHERE)),
    "a dead letter of an applied command": ("dead letters", dead_letter_of_an_applied_command),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found(copy: Copy, name: str) -> None:
    """The check of the broken promise fails, and has the place."""
    check, damage = DAMAGES[name]
    damage(copy)
    failing = copy.failing()
    assert check in failing, {n: [str(o) for o in c.offenders] for n, c in failing.items()}


@pytest.mark.parametrize("lost", ["about", "reply-key", "correlation-id"])
def test_a_codec_that_loses_a_header_is_found(copy: Copy, lost: str) -> None:
    """The headers are not taken from the codec, which lost one when the log was written and loses it now."""
    told, replied = Codec._told, Codec._replied

    def losing(write: Any) -> Any:
        def write_less(self: Codec, *given: Any) -> Output:
            output = write(self, *given)
            return msgspec.structs.replace(output, headers=without(lost)(output.headers))

        return write_less

    for record in copy.all(".commands"):
        if cause(record):
            copy.alter(record, headers=without(lost)(record.headers))
    with patch.object(Codec, "_told", losing(told)), patch.object(Codec, "_replied", losing(replied)):
        assert copy.failing()


def test_a_failed_check_names_the_first_and_counts_the_others(copy: Copy) -> None:
    """A check lists five offenders and counts all of them."""
    for record in copy.all(".replies"):
        copy.alter(record, value=b"fake")
    check = copy.failing()["decisions"]
    assert len(check.offenders) == 5
    assert check.wrong == len(copy.all(".replies")) - sum(r.value == encode(Done()) for r in clean().all(".none"))
    first = check.offenders[0]
    assert (first.topic, first.key) == ("v.replies", None)
    assert str(first).startswith(f"v.replies/{first.partition}@{first.offset}: ")


# --- legal changes ------------------------------------------------------------------------------------------------


def cut(copy: Copy, suffix: str, share: float = 0.5) -> None:
    """Delete older records of each partition, as retention does."""
    for (topic, _), records in copy.topics.items():
        if topic.endswith(suffix):
            del records[: int(len(records) * share)]


@pytest.mark.parametrize(
    "suffix", ["account.commands", "paper.commands", ".commands", ".replies", ".dead-letters", NEWS]
)
def test_what_was_deleted_cannot_be_judged(copy: Copy, suffix: str) -> None:
    """Older commands, replies and dead letters may be deleted: what depends on them is counted as unverifiable."""
    cut(copy, suffix, 0.3)
    report = copy.report()
    assert report.ok, [str(o) for check in report.checks for o in check.offenders]
    assert any(check.unverifiable for check in report.checks)


def cut_journal(copy: Copy, entity: str = "account") -> None:
    """Delete the events below the tail, which a restore does not read."""
    for partition in range(2):
        tail_start = decode_shard(copy.shard_record(entity, partition).value or b"").tail_start
        assert tail_start > 10
        place = f"v.{entity}.events", partition
        copy.topics[place] = [r for r in copy.topics[place] if int(r.header("seq") or b"") >= tail_start]


@pytest.mark.parametrize("also", [(), (".commands",), ("account.commands",), (".replies", NEWS), (".dead-letters",)])
def test_a_journal_whose_beginning_was_deleted_begins_with_its_snapshots(copy: Copy, also: tuple[str, ...]) -> None:
    """What the shard still reads is checked: alone, and with other topics that were cut."""
    cut_journal(copy)
    for suffix in also:
        cut(copy, suffix, 0.3)
    report = copy.report()
    assert report.ok, [str(o) for check in report.checks for o in check.offenders]
    checks = {check.name: check for check in report.checks}
    assert checks["states"].unverifiable and checks["states"].looked_at
    assert checks["restore"].looked_at > 5


def test_a_journal_that_has_lost_its_tail_is_found(copy: Copy) -> None:
    """Retention that took what a restore must read."""
    cut(copy, "account.events", 0.98)
    assert "restore" in copy.failing()


def test_compaction_after_retention_is_no_damage(copy: Copy) -> None:
    """Both at once: only the last snapshot of each key is left to begin with."""
    cut_journal(copy)
    for (topic, _), records in copy.topics.items():
        if topic.endswith(".state"):
            last = {record.key: record for record in records}
            records[:] = [record for record in records if last[record.key] is record and record.value is not None]
    report = copy.report()
    assert report.ok, [str(o) for check in report.checks for o in check.offenders]


@pytest.mark.parametrize(
    ("check", "damage"),
    [
        ("single writer", lambda c: c.lose(c.all("account.events")[3])),
        ("decisions", lambda c: c.alter(c.last("account.events"), value=encode(Deposited(amount=77)))),
        ("states", lambda c: alter_state(c, "account", snapshot=encode(Account(balance=-5)))),
    ],
)
def test_damage_behind_a_journal_that_was_cut_is_found(copy: Copy, check: str, damage: Damage) -> None:
    """The rest of the journal has no gap, and agrees with the commands and the snapshots."""
    cut_journal(copy)
    damage(copy)
    assert check in copy.failing()


def test_damage_behind_what_was_deleted_is_found(copy: Copy) -> None:
    """The remaining commands are decided on the state that follows from the journal before them."""
    cut(copy, "account.commands", 0.3)
    copy.alter(copy.last("account.events", lambda r: r.key != b"alone"), value=encode(Deposited(amount=77)))
    assert "decisions" in copy.failing()


def test_compaction_is_no_damage(copy: Copy) -> None:
    """Compaction may delete all but the last state and stash record of each key, and all tombstones."""
    for (topic, _), records in copy.topics.items():
        if topic.endswith(".state"):
            last = {record.key: record for record in records}
            records[:] = [record for record in records if last[record.key] is record and record.value is not None]
    report = copy.report()
    assert report.ok, [str(o) for check in report.checks for o in check.offenders]


def test_what_others_publish_is_no_damage(copy: Copy) -> None:
    """A topic outside the system has other writers too, with whatever headers."""
    ours = cause(copy.first(NEWS))
    for headers in (
        (),
        (("cause", b"\xff"),),
        (("cause", b"other.account.commands/0/1/0"),),
        (("cause", ours), ("trace", b"1")),
        (("cause", ours), ("epoch", b"3")),
    ):
        copy.add(copy.first(NEWS), headers=headers)
    assert copy.report().ok


def test_an_offset_that_expired_is_no_damage(copy: Copy) -> None:
    """The shard record is authoritative; the group's offset is committed again."""
    copy.committed.clear()
    assert copy.report().ok


def test_an_empty_log_passes() -> None:
    """A system that never ran has broken no promise."""
    report = Copy({}, {}, {}).report()
    assert report.ok
    assert (report.fates, report.records) == ({}, 0)


def test_without_deciding_again_the_other_checks_still_run(copy: Copy) -> None:
    """Changed code may decide differently; gaps, duplicates and wrong snapshots are found without it."""
    report = copy.report(decides=False)
    assert report.ok
    assert {check.name: check for check in report.checks}["decisions"].unverifiable > 100
    copy.add(copy.last("account.events"))
    report = copy.report(decides=False)
    assert {check.name for check in report.checks if not check.ok} >= {"duplicates", "single writer", "order"}


def test_a_log_that_grows_meanwhile_is_reported(copy: Copy) -> None:
    """A report has ``grew`` if records were added during the verification."""
    with closing(copy.backend()) as backend, closing(backend.reader()) as reader, closing(backend.appender()) as late:
        output = Output("v.account.commands", 0, b"a", encode(Deposit(amount=1)))
        report = verify(reader, system, on_command=lambda r: None if r.offset else late.append([output]) and None)
    assert report.grew


def test_a_fold_that_is_not_pure_is_found() -> None:
    """The same journal must fold to the same state."""
    drawn = iter(range(1_000_000))

    class Roll(Command):
        """Roll."""

    class Rolled(Event):
        """Rolled."""

    class Die(Entity):
        """An entity whose event handler is not pure."""

        eyes: int = 0

        @command
        def roll(self, _cmd: Roll) -> Rolled:
            """Roll."""
            return Rolled()

        @event
        def rolled(self, _evt: Rolled) -> Self:
            """Depend on something else than state and event."""
            return self.replace(eyes=next(drawn))

    dice = ActorSystem("dice")
    dice.host(Die, partitions=1)
    with dice.start("memory:") as running:
        running.client.tell(Die.roll, "d", Roll())
        running.settle()
        report = verify(running.reader, dice)
    assert {check.name for check in report.checks if not check.ok} >= {"states"}


# --- crashes ------------------------------------------------------------------------------------------------------


class CrashError(Exception):
    """The worker dies here."""


POINTS = ("polled", "queued", "decided", "handed-over", "commit-heard", "claiming", "claimed", "restoring", "restored")


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32), crashes=st.lists(st.tuples(st.sampled_from(POINTS), st.integers(1, 8)), max_size=6))
def test_a_log_passes_after_crashes_at_any_point(seed: int, crashes: list[tuple[str, int]]) -> None:
    """The log stays consistent when the worker loses its memory at any kill point of the loop."""
    written, draw, plan = WrittenLog(), random.Random(seed), list(crashes)  # noqa: S311  as above
    with closing(written.running):

        def fault(point: str) -> None:
            if plan and plan[0][0] == point:
                plan[0] = (point, plan[0][1] - 1)
                if plan[0][1] <= 0:
                    plan.pop(0)
                    raise CrashError

        written.running.on_kill_point = fault
        for _ in range(4):
            load(written, draw, 25)
            while True:
                try:
                    written.settle()
                    break
                except CrashError:
                    written.running.crash()
        plan.clear()
        report = verify(written.running.reader, system)
    assert report.ok, [str(o) for check in report.checks for o in check.offenders]
    assert not any(check.unverifiable for check in report.checks)


# --- the command --------------------------------------------------------------------------------------------------


def repertory(*arguments: str | Path, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    command = [sys.executable, "-c", "from repertory.cli.app import main; main()", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **extra}
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=False, env=environment)


def test_the_command_shows_a_table_and_writes_a_report(tmp_path: Path) -> None:
    """The exit code is 0 if all promises hold, else 1, with the place of the offender in the table and the report."""
    from tests.apps.counting import Add, Counter  # noqa: PLC0415  the system's name comes from the environment
    from tests.apps.counting import system as counting  # noqa: PLC0415

    log, json_file = f"sqlite:{tmp_path / 'count.db'}", tmp_path / "report.json"
    with counting.start(log) as running:
        running.client.tell_all([(Counter.add, f"c-{n % 7}", Add(by=n)) for n in range(100)])
        running.settle()
    call = ("verify", "tests.apps.counting:system", "--log", log, "--json", json_file)
    done = repertory(*call, COUNTING_NAME=counting.name)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout
    assert "100 applied" in done.stdout
    report = json.loads(json_file.read_text())
    assert report["ok"] and report["fates"] == {"applied": 100}
    assert [check["name"] for check in report["checks"]][:3] == ["order", "duplicates", "completeness"]
    with closing(connect(log)) as backend, closing(backend.reader()) as reader, closing(backend.appender()) as late:
        record = next(reader.read(f"{counting.name}.counter.events", 1))
        late.append([Output(record.topic, 1, record.key, record.value, record.headers)])
    done = repertory(*call, COUNTING_NAME=counting.name)
    assert done.returncode == 1, done.stderr
    assert "FAILED" in done.stdout
    assert f"{counting.name}.counter.events/1@" in done.stdout
    report = json.loads(json_file.read_text())
    assert not report["ok"]
    wrong = {check["name"]: check["offenders"] for check in report["checks"] if not check["ok"]}
    assert wrong["duplicates"][0]["topic"] == f"{counting.name}.counter.events"


def test_bad_input_is_one_sentence(tmp_path: Path) -> None:
    """A log on which the system never ran, a report that cannot be written, and another partition count."""
    log = f"sqlite:{tmp_path / 'never.db'}"
    done = repertory("verify", "tests.apps.counting:system", "--log", log)
    assert done.returncode == 64
    assert "never.db" in done.stderr and "Traceback" not in done.stderr
    assert repertory("topics", "tests.apps.counting:system", "--log", log, "--create").returncode == 0
    done = repertory("verify", "tests.apps.counting:system", "--log", log, "--json", tmp_path / "no" / "report.json")
    assert done.returncode == 64
    assert "report.json" in done.stderr and "Traceback" not in done.stderr
    done = repertory("verify", "tests.apps.counting:system", "--log", log, COUNTING_PARTITIONS="5")
    assert done.returncode == 64
    assert "partitions" in done.stderr
