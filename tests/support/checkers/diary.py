"""Diaries of the operations of clients at the port, for ``anomalies``: ports that record them, and a reader of diaries.

:class:`RecordedBackend` wraps a log. It adds to each written record a header with a unique value, which distinguishes
the attempts to write it, and changes nothing else. A line is written to the diary's file before the call returns, so
that SIGKILL only loses the outcome of an operation in progress.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal

import msgspec

from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown, TopicMismatch
from repertory.bridge.log.port import (
    Aborted,
    Appender,
    Backend,
    Committed,
    Fenced,
    Fetched,
    Log,
    LogEvent,
    Lost,
    Member,
    OutputsRefused,
    Reader,
    Replayed,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from tests.support.checkers.anomalies import Assign, Op, Poll, Send

#: The header with a record's value.
ENTRY = "entry"
Outcome = Literal["ok", "fail", "info"]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line: the begin of an op, its end, or an assignment. Places are ``topic/partition``."""

    at_s: float
    process: str
    number: int = 0
    outcome: Outcome | Literal["begun", "assigned"]
    sends: Sequence[tuple[str, str, int | None]] = ()  #: place, value, offset
    polls: Sequence[tuple[str, int, str]] = ()  #: place, offset, value
    kept: Sequence[str] = ()


class Diary:
    """The diary of one process. ``name`` is the unique name of the process."""

    def __init__(self, path: Path, name: str) -> None:
        self.name = name
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._ops = self._values = 0
        self._encode = msgspec.json.Encoder().encode
        #: The places that each client reads without interruption.
        self._read: dict[str, set[str]] = defaultdict(set)

    def value(self) -> str:
        """Return a value that no other record has."""
        self._values += 1
        return f"{self.name}-{self._values}"

    def begin(self, process: str, sends: Sequence[Output] = (), polls: Sequence[Record] = ()) -> Op:
        """Record the begin of an op."""
        self._ops += 1
        self._write(process, "begun", self._ops, sends, polls)
        return self._ops

    def end(
        self,
        process: str,
        number: int,
        outcome: Outcome,
        sends: Sequence[Output] = (),
        polls: Sequence[Record] = (),
        offsets: Sequence[int | None] = (),
    ) -> None:
        """Record the outcome of an op."""
        self._write(process, outcome, number, sends, polls, offsets)

    def polled(self, process: str, records: Sequence[Record]) -> None:
        """Record the result of a poll."""
        self.end(process, self.begin(process), "ok", polls=records)

    def moved(self, process: str, place: TopicPartition) -> None:
        """Record that a client may continue at any position of a place."""
        self._read[process].discard(str(place))
        self._write(process, "assigned", kept=tuple(self._read[process]))

    def _write(
        self,
        process: str,
        outcome: Outcome | Literal["begun", "assigned"],
        number: int = 0,
        sends: Sequence[Output] = (),
        polls: Sequence[Record] = (),
        offsets: Sequence[int | None] = (),
        kept: Sequence[str] = (),
    ) -> None:
        self._read[process].update(f"{record.topic}/{record.partition}" for record in polls)
        entry = Entry(
            at_s=time.monotonic(),  # CLOCK_MONOTONIC is the same for all processes of a machine.
            process=process,
            number=number,
            outcome=outcome,
            sends=[
                (f"{output.topic}/{output.partition}", value_of(output), offsets[index] if offsets else None)
                for index, output in enumerate(sends)
            ],
            polls=[(f"{record.topic}/{record.partition}", record.offset, value_of(record)) for record in polls],
            kept=kept,
        )
        os.write(self._file, self._encode(entry) + b"\n")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def value_of(record: Record | Output) -> str:
    """Return the value that identifies a record in a history."""
    values = [value for name, value in record.headers if name == ENTRY]
    return values[-1].decode() if values else "nobody's"


def read(directory: Path) -> list[Op | Assign]:
    """Return the history in a directory of diaries, in the order in which ops ended; those that did not end are last.

    Incomplete lines of killed processes are discarded.
    """
    decode = msgspec.json.Decoder(Entry).decode
    begun: dict[tuple[str, int], Entry] = {}
    ended: list[tuple[float, Op | Assign]] = []
    for path in sorted(directory.iterdir()):
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            entry = decode(line)
            if entry.outcome == "assigned":
                ended.append((entry.at_s, Assign(entry.process, frozenset(entry.kept))))
            elif entry.outcome == "begun":
                begun[path.name, entry.number] = entry
            else:
                start = begun.pop((path.name, entry.number))
                ended.append((entry.at_s, _op(entry, entry.outcome, invoked=start.at_s, completed=entry.at_s)))
    ended.sort(key=lambda one: one[0])
    return [*(op for _, op in ended), *(_op(entry, "info", invoked=entry.at_s) for entry in begun.values())]


def _op(entry: Entry, outcome: Outcome, **times: float) -> Op:
    sends = [Send(place, value, offset) for place, value, offset in entry.sends]
    reads: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for place, offset, value in entry.polls:
        reads[place].append((offset, value))
    return Op(entry.process, outcome, *([Poll(reads)] if reads else []), *sends, **times)


# --- the ports ------------------------------------------------------------------------------------------------


class RecordedAppender:
    """Each append is an op. After an append with an unknown outcome, the client gets a new name."""

    def __init__(self, inner: Appender, diary: Diary, process: str) -> None:
        self._inner, self._diary, self._name = inner, diary, process
        self._unknowns = 0

    def append(self, outputs: Sequence[Output]) -> Sequence[int]:
        """See ``Appender.append``."""
        numbered, process = _with_values(outputs, self._diary), f"{self._name}/{self._unknowns}"
        number = self._diary.begin(process, numbered)
        try:
            offsets = self._inner.append(numbered)
        except (LogUnavailable, TopicMismatch):
            self._diary.end(process, number, "fail", numbered)
            raise
        except OutcomeUnknown:
            self._diary.end(process, number, "info", numbered)
            self._unknowns += 1
            raise
        known = [offset if offset >= 0 else None for offset in offsets]
        self._diary.end(process, number, "ok", numbered, offsets=known)
        return offsets

    def close(self) -> None:
        """See ``Appender.close``."""
        self._inner.close()


class RecordedReader:
    """Each read is an op of a new client; so is each record that is followed."""

    def __init__(self, inner: Reader, diary: Diary, process: str) -> None:
        self._inner, self._diary, self._name = inner, diary, process
        self._clients = 0

    def partition_count(self, topic: str) -> int | None:
        """See ``Reader.partition_count``."""
        return self._inner.partition_count(topic)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """See ``Reader.topic_ids``."""
        return self._inner.topic_ids(topics)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See ``Reader.bounds``."""
        return self._inner.bounds(topic, partition)

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """See ``Reader.read``."""
        records = list(self._inner.read(topic, partition, from_offset))
        self._diary.polled(self._client(), records)
        return iter(records)

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """See ``Reader.follow``."""
        client = self._client()
        for record in self._inner.follow(topic, positions, timeout_s):
            self._diary.polled(client, [record])
            yield record

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """See ``Reader.committed``."""
        return self._inner.committed(group, topic, partition)

    def close(self) -> None:
        """See ``Reader.close``."""
        self._inner.close()

    def _client(self) -> str:
        self._clients += 1
        return f"{self._name}/{self._clients}"


class _Consumed:
    """The commands of a shard that were fetched and not committed, and the op that commits some of them."""

    def __init__(self) -> None:
        self.fetched: list[Record] = []
        self.op: tuple[int, Sequence[Output], Sequence[Record], bool] | None = (
            None  # number, sends, polls, whether it must be aborted
        )


class RecordedLog:
    """Records a worker's log as several clients: one fetches, one restores, and one per shard consumes and commits.

    The last ones run Jepsen's transactions: they poll the commands below ``next_offset`` and send the outputs. Commands
    that they did not commit are read again. Some transactions are doomed: the record that `doom` returns is added to
    them, so that they must be aborted.
    """

    def __init__(
        self, inner: Log, diary: Diary, process: str, doomed: float, doom: Callable[[TopicPartition], Output]
    ) -> None:
        self._inner, self._diary, self._doom = inner, diary, doom
        self._process, self._fetcher, self._restorer = process, f"{process}/fetch", f"{process}/restore"
        self._random, self._doomed = Random(process), doomed  # noqa: S311 - which transactions are doomed, not a secret
        self._shards: dict[TopicPartition, _Consumed] = defaultdict(_Consumed)

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """See ``Log.poll``. The owner did not write the record of a doomed transaction: it hears of an abort."""
        events = self._inner.poll(timeout_s)
        for event in events:
            self._on(event)
        return [
            Aborted(event.shard, event.reason, routine=False) if isinstance(event, OutputsRefused) else event
            for event in events
        ]

    def _on(self, event: LogEvent) -> None:
        match event:
            case Fetched(shard, records):
                self._diary.polled(self._fetcher, records)
                self._shards[shard].fetched += records
            case Replayed(_, _, records):
                if records:
                    self._diary.polled(self._restorer, records)
            case Committed(shard, first_offsets):
                self._decided(shard, "ok", first_offsets)
            case Aborted(shard) | OutputsRefused(shard) | Fenced(shard) | Lost(shard):
                self._decided(shard, "info")
                if isinstance(event, Fenced | Lost):
                    self._diary.moved(self._consumer(shard), shard)  # Another client continues there.

    def _decided(self, shard: TopicPartition, outcome: Outcome, first_offsets: Mapping[str, int] | None = None) -> None:
        consumed = self._shards[shard]
        if consumed.op is None:
            return
        (number, sends, polls, doomed), consumed.op = consumed.op, None
        if outcome == "ok":
            consumed.fetched = consumed.fetched[len(polls) :]
        elif doomed:
            outcome = "fail"
        first = dict(first_offsets or {})
        offsets = [first.pop(output.topic, None) for output in sends]
        self._diary.end(self._consumer(shard), number, outcome, sends, polls, offsets)
        if outcome == "info":
            self._diary.moved(self._consumer(shard), shard)  # It may have happened nevertheless.

    def _consumer(self, shard: TopicPartition) -> str:
        return (
            f"{self._process}/commit {shard}"  # One client per shard, because the transactions of two shards overlap.
        )

    def claim(self, shard: TopicPartition, topics: Sequence[str]) -> None:
        """See ``Log.claim``. The outcome of a commit in flight is no longer reported."""
        self._decided(shard, "info")
        self._inner.claim(shard, topics)

    def replay(self, shard: TopicPartition, topic: str, from_offset: int, to_offset: int) -> None:
        """See ``Log.replay``."""
        self._diary.moved(self._restorer, TopicPartition(topic, shard.partition))
        self._inner.replay(shard, topic, from_offset, to_offset)

    def begin(self, shard: TopicPartition, next_offset: int) -> None:
        """See ``Log.begin``."""
        self._diary.moved(self._fetcher, shard)
        self._shards[shard].fetched = []
        self._inner.begin(shard, next_offset)

    def pause(self, shard: TopicPartition) -> None:
        """See ``Log.pause``."""
        self._inner.pause(shard)

    def resume(self, shard: TopicPartition) -> None:
        """See ``Log.resume``."""
        self._inner.resume(shard)

    def commit(self, transaction: Transaction) -> None:
        """See ``Log.commit``."""
        consumed = self._shards[transaction.shard]
        sends = _with_values(transaction.records, self._diary)
        polls = [record for record in consumed.fetched if record.offset < transaction.next_offset]
        doomed = self._random.random() < self._doomed
        consumed.op = (self._diary.begin(self._consumer(transaction.shard), sends, polls), sends, polls, doomed)
        last = [self._doom(transaction.shard)] if doomed else []
        self._inner.commit(Transaction(transaction.shard, transaction.next_offset, [*sends, *last]))

    @property
    def is_sure(self) -> bool:
        """See ``Log.is_sure``."""
        return self._inner.is_sure

    @property
    def is_member(self) -> bool:
        """See ``Log.is_member``."""
        return self._inner.is_member

    def partition_count(self, topic: str) -> int | None:
        """See ``Log.partition_count``."""
        return self._inner.partition_count(topic)

    def close(self) -> None:
        """See ``Log.close``."""
        self._inner.close()

    def withdraw(self, topics: Sequence[str]) -> None:
        """See ``Log.withdraw``."""
        self._inner.withdraw(topics)

    def abandon(self) -> None:
        """See ``Log.abandon``."""
        self._inner.abandon()


class RecordedBackend:
    """A backend whose ports write a diary. ``doomed``: the share of a worker's transactions that must be aborted."""

    def __init__(self, inner: Backend, diary: Diary, *, doomed: float = 0.0) -> None:
        self.url, self._inner, self._diary, self._doomed = inner.url, inner, diary, doomed
        self._ports = 0

    def topics(self) -> Mapping[str, int]:
        """See ``Backend.topics``."""
        return self._inner.topics()

    def ensure(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """See ``Backend.ensure``."""
        return self._inner.ensure(specs)

    def log(self, member: Member, subscriptions: Sequence[str]) -> RecordedLog:
        """See ``Backend.log``."""
        doom = _too_large if self.url.startswith("kafka:") else _nowhere
        log = self._inner.log(member, subscriptions)
        return RecordedLog(log, self._diary, self._process("log"), self._doomed, doom)

    def reader(self) -> RecordedReader:
        """See ``Backend.reader``."""
        return RecordedReader(self._inner.reader(), self._diary, self._process("reader"))

    def appender(self) -> RecordedAppender:
        """See ``Backend.appender``."""
        return RecordedAppender(self._inner.appender(), self._diary, self._process("appender"))

    def close(self) -> None:
        """See ``Backend.close``."""
        self._inner.close()
        self._diary.close()

    def _process(self, kind: str) -> str:
        self._ports += 1
        return f"{self._diary.name}/{kind}{self._ports}"


def _nowhere(shard: TopicPartition) -> Output:
    """Return a record for a topic that does not exist."""
    return Output(f"{shard.topic}.nowhere", 0, None, None)


def _too_large(shard: TopicPartition) -> Output:
    """Return a record that the broker refuses but librdkafka sends: the other records are written by then."""
    return Output(*shard, None, bytes(1_200_000))


def _with_values(outputs: Sequence[Output], diary: Diary) -> list[Output]:
    """Return the records with their values."""
    return [
        Output(
            output.topic, output.partition, output.key, output.value, (*output.headers, (ENTRY, diary.value().encode()))
        )
        for output in outputs
    ]
