"""Fuzzing of all code that takes bytes from outside: a million inputs from a seed.

``python -m tests.campaigns.fuzz --inputs 1000000 --seed 1`` (``make chaos`` runs it). Inputs are valid ones with a few
errors in them (``tests/campaigns/byte_mutator.py``). The docstring of each target has its allowed outcomes; any other
outcome is a finding, which is printed with the command that reproduces it.
"""

from __future__ import annotations

import argparse
import datetime
import decimal
import enum
import os
import sys
import time
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from random import Random
from typing import Annotated, Any, Literal, Self

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from repertory import Backoff, Command, Context, Directive, Entity, Message, command, restart
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import (
    ABOUT,
    ATTEMPTS,
    CAUSE,
    CORRELATION_ID,
    ERROR_MESSAGE,
    ERROR_TYPE,
    MESSAGE_ID,
    REPLY_KEY,
    REPLY_TO,
    RETRY_OF,
    SEQ,
    SOURCE_OFFSET,
    SOURCE_PARTITION,
    SOURCE_TOPIC,
    VERSION,
    Headers,
)
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.placement import partition_of
from repertory.actors.shard.config import Limits
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.record import Record
from repertory.bridge.node.report_stream import LINE_BYTES_MAX, ReportLines
from repertory.bridge.node.status import NodeStatus, decode_node
from repertory.bridge.reports import IncidentReport, NodeReport, ShardAborted
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.failed import dead_letter
from repertory.bridge.system.system import ActorSystem
from repertory.inspect.readable import readable, readable_key
from repertory.inspect.shards import shard_status
from repertory.supervision.process.reports import NodeStopped, WorkerFailed, WorkerStarted, WorkerWaits
from repertory.supervision.process.transport import FrameError, ReceiveBuffer, Serializer, frame
from repertory.verify import verify
from repertory.verify.produced import cause_of
from tests.actors.domain import (
    Account,
    Bag,
    Close,
    Deposit,
    Desk,
    Hold,
    Pay,
    Put,
    Release,
    Split,
    Teller,
    Trip,
    Withdraw,
)
from tests.actors.shard.bench import SYSTEM, Bench
from tests.campaigns.byte_mutator import Mutator
from tests.campaigns.fuzz_sockets import FrameAccepted, frames_at_every_port
from tests.support.paths import ROOT

PARTITIONS = 2
CANARY = "canary"
POLICY = restart(
    max_restarts=1,
    backoff=Backoff(first_s=0.01, factor=1, jitter=0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP},
)
ADDRESSES: Headers = (
    (REPLY_TO, b"t.replies/0"), (CORRELATION_ID, b"c"), (ABOUT, b"debit"), (MESSAGE_ID, b"m"),
)  # fmt: skip
NAMES = (REPLY_TO, REPLY_KEY, CORRELATION_ID, ABOUT, MESSAGE_ID, CAUSE, SEQ, VERSION, ATTEMPTS, SOURCE_PARTITION,
         SOURCE_OFFSET, SOURCE_TOPIC, ERROR_TYPE, ERROR_MESSAGE, RETRY_OF, "é", "")  # fmt: skip
#: Headers to which a client may give any value. A forged `cause` is damage, which `verify` reports.
CLIENT_NAMES = tuple(name for name in NAMES if name != CAUSE)
ENDLESS = b"t.replies/" + b"9" * 4_400
VALUES = (b"t.replies/0", b"t.replies/7", b"t.replies/8", ENDLESS, b"t.account.commands", b"t.teller.commands",
          b"t.account.commands/0/3/0", b"t.account.commands/1/99999/4294967296", b"t.account.events", b"k",
          b"0")  # fmt: skip

LOG = ROOT / "target" / "fuzz.log"

console = Console(soft_wrap=True)


class Wrong(Exception):
    """The runtime mishandled an input."""


def keys_of(partition: int, count: int, prefix: str = "k") -> list[str]:
    """Return keys that belong on a partition."""
    every = (f"{prefix}-{n}" for n in range(1_000))
    return [key for key in every if partition_of(key.encode(), PARTITIONS) == partition][:count]


KEYS = keys_of(0, 4)
(CANARY_KEY,) = keys_of(0, 1, CANARY)


# --- inputs -------------------------------------------------------------------------------------------------------


class Colour(enum.Enum):
    """One of three colours."""

    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Inner(msgspec.Struct, frozen=True):
    """A struct within a command."""

    name: str
    below: tuple[Inner, ...] = ()


class Anything(Command):
    """A command with a field of each type that MessagePack and msgspec support."""

    i: int = 0
    f: float = 0.0
    s: str = ""
    b: bytes = b""
    t: tuple[int, str] = (1, "a")
    many: tuple[float, ...] = ()
    d: dict[str, int] = {}  # noqa: RUF012  msgspec copies such defaults
    keyed: dict[str, Inner] = {}  # noqa: RUF012
    inner: Inner | None = None
    when: datetime.datetime | None = None
    day: datetime.date | None = None
    lasts: datetime.timedelta | None = None
    id: uuid.UUID | None = None
    price: decimal.Decimal = decimal.Decimal(0)
    colour: Colour = Colour.RED
    word: Literal["a", "b", 3] = "a"
    either: int | str | None = None
    any: Any = None
    in_flight: frozenset[int] = frozenset()
    short: Annotated[str, msgspec.Meta(max_length=5, pattern="^[a-z]*$")] = "abc"
    small: Annotated[int, msgspec.Meta(ge=-5, lt=100)] = 0


class Keeper(Entity):
    """A stateful entity that keeps its last command, so that this is written, read and sent on."""

    last: Anything = Anything()

    @command
    def take(self, cmd: Anything, ctx: Context) -> Self:
        """Keep the command, and send some to another entity."""
        if cmd.i == 7:
            ctx.tell(Keeper.take, KEYS[cmd.small % len(KEYS)], msgspec.structs.replace(cmd, i=0))
        return self.replace(last=cmd)

    @command
    def trip(self, cmd: Trip, ctx: Context) -> Self:
        """Raise as the command says."""
        if ctx.attempt <= cmd.times:
            raise {"stop": ValueError, "resume": KeyError}.get(cmd.error, RuntimeError)("told to")
        return self

    @command
    def close(self, _cmd: Close, ctx: Context) -> None:
        """End."""
        ctx.stop()


ENTITIES: tuple[type[Entity], ...] = (Account, Teller, Desk, Bag, Keeper)
#: A command for each of them that cannot fail because of earlier inputs.
PLAIN: Mapping[type[Entity], Message] = {
    Account: Deposit(amount=1), Teller: Pay(account="a", amount=1), Desk: Hold(), Bag: Put(item="x"),
    Keeper: Anything(),
}  # fmt: skip


def message_for(entity: type[Entity], chance: Random) -> Message:
    """Draw a valid command."""
    amount = chance.choice((0, 1, 5, -1, 2**63 - 1, chance.randrange(1000)))
    trip = Trip(times=chance.choice((0, 1, 9)), error=chance.choice(("restart", "resume", "stop")))
    choices: list[Message]
    if entity is Account:
        choices = [Deposit(amount=amount), Withdraw(amount=amount), Split(amounts=(amount, 1)), trip, Close()]
    elif entity is Teller:
        choices = [Pay(account="a", amount=amount), trip, Close()]
    elif entity is Desk:
        choices = [Hold(), Release()]
    elif entity is Bag:
        choices = [Put(item="x"), Put(item="é" * 20)]
    else:
        choices = [anything(chance), anything(chance), trip, Close()]
    return chance.choice(choices)


def anything(chance: Random) -> Anything:
    """Draw a command with values of all types."""
    moment = datetime.datetime.fromtimestamp(chance.randrange(1 << 31), datetime.UTC)
    inner = Inner("a", (Inner("b"), Inner("c", (Inner("d"),))))
    return Anything(
        i=chance.choice((7, 1 << 60)), f=chance.random(), s="text", b=b"bytes", many=(0.5, 1e300), d={"a": 1},
        inner=inner, when=moment, day=moment.date(), lasts=datetime.timedelta(seconds=chance.randrange(9999)),
        id=uuid.UUID(int=chance.getrandbits(128)), price=decimal.Decimal("1.50"), colour=chance.choice(list(Colour)),
        word="b", either=chance.choice((1, "x", None)), any=chance.choice((None, {"a": [1, 2.5, b"x"]}, [[[]]])),
        in_flight=frozenset({1, 2}), short="abc", small=chance.randrange(5),
    )  # fmt: skip


# --- targets ------------------------------------------------------------------------------------------------------


class Session:
    """Some inputs for one target, drawn from one source. ``outcomes`` counts their outcomes."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.mutator = Mutator(chance)
        self.outcomes: Counter[str] = Counter()


def bench_for(session: Session) -> tuple[type[Entity], Bench]:
    """Make a shard, with tight bounds in some cases."""
    chance = session.chance
    entity = chance.choice(ENTITIES)
    limits = Limits(
        batch_records_max=chance.choice((1, 3, 1_000)), snapshot_window_records=chance.choice((1, 5, 1_000)),
        stash_per_key_max=chance.choice((1, 1_000)), stash_per_shard_max=chance.choice((3, 1_000)),
        dead_letter_overflow=True,
    )  # fmt: skip
    others = set(ENTITIES) - {entity}
    return entity, Bench(entity, policy=POLICY, limits=limits, partitions=PARTITIONS, others=others)


def commands(session: Session) -> Iterator[None]:
    """Records of a commands topic: each is handled, or dead-lettered with its bytes; the shard continues."""
    entity, bench = bench_for(session)
    mutator, chance = session.mutator, session.chance
    for _ in range(40):
        key, value, headers = drawn_command(session, entity, bench)
        bench.tell(value, key, headers)
        if chance.random() < 0.4:
            bench.run()
        if chance.random() < 0.05:
            bench.crash()
        yield
    canary = bench.tell(PLAIN[entity], CANARY_KEY)
    bench.settle()
    if mutator.chance(0.5):
        bench.crash()
    before = {key: cell.data for key, cell in bench.shard.cells.items() if cell.version}
    bench.crash()
    if before != {key: cell.data for key, cell in bench.shard.cells.items() if cell.version}:
        raise Wrong("the restored state differs from the state in memory")
    judge(session, bench, canary)


def drawn_command(session: Session, entity: type[Entity], bench: Bench) -> tuple[bytes | None, bytes | None, Headers]:
    """Draw a record's key, value and headers: a valid command or control command, with errors in it."""
    mutator, chance = session.mutator, session.chance
    key: bytes | None = chance.choice(KEYS).encode()
    message = message_for(entity, chance)
    parked = [(w.envelope.offset, k) for k in bench.shard.stash for w in bench.shard.stash.queue(k)]
    if parked and mutator.chance(0.3):
        offset, name = chance.choice(parked)
        key = name.encode()
        message = chance.choice((RetryParked(offset=offset), DropParked(offset=offset, reason="told to")))
    value: bytes | None = encode(message)
    headers: Headers = ADDRESSES if mutator.chance(0.3) else ()
    if mutator.chance(0.8):
        assert value is not None
        value = mutator.packed(value)
    elif mutator.chance(0.2):
        value = chance.choice((None, b"", chance.randbytes(chance.randrange(200))))
    if mutator.chance(0.15):
        key = mutator.key(key, [name.encode() for name in KEYS])
    if mutator.chance(0.2):
        headers = mutator.headers(headers, NAMES, VALUES)
    return key, value, headers


def judge(session: Session, bench: Bench, canary: int) -> None:
    """Check the outcome of each command."""
    dead: dict[int, Record] = {}
    for letter in bench.dead_letters:
        offset = letter.number(SOURCE_OFFSET)
        if offset in dead:
            raise Wrong(f"the command {offset} has two dead letters")
        dead[offset] = letter
    if canary in dead or CANARY_KEY not in {*bench.shard.cells, *bench.shard.stash}:
        raise Wrong("a valid command was not handled after the others")
    for record in bench.topics[bench.codec.commands]:
        if record.partition != bench.config.id.partition:
            continue
        if record.offset >= bench.shard.record.next:
            raise Wrong(f"the command {record.offset} was not handled")
        if (found := dead.get(record.offset)) is None:
            if isinstance(bench.codec.decode(record), Undecodable):
                raise Wrong(f"the command {record.offset} cannot be decoded and was not dead-lettered")
            session.outcomes["handled"] += 1
            continue
        if (found.key, found.value) != (record.key, record.value):
            raise Wrong(f"the dead letter of {record.offset} does not have its bytes")
        session.outcomes[f"dead letter: {(found.header(ERROR_TYPE) or b'').decode()}"] += 1
    session.outcomes["replies"] += len(bench.replies)


def headers(session: Session) -> Iterator[None]:
    """Headers: a delivery, and a dead letter that can be shown; only numbers may raise DecodeError."""
    mutator, chance = session.mutator, session.chance
    _, bench = bench_for(session)
    valid: Headers = (*ADDRESSES, (CAUSE, b"t.account.commands/0/3/0"), (SEQ, b"4"), (VERSION, b"1"),
                      (ATTEMPTS, b"2"), (SOURCE_PARTITION, b"0"), (SOURCE_OFFSET, b"7"))  # fmt: skip
    for _ in range(40):
        found = mutator.headers(valid, NAMES, VALUES)
        record = Record(bench.codec.commands, 0, 7, b"k", b"\x80", found, 1)
        delivery = bench.codec.decode(record)
        session.outcomes["asked" if delivery.sender is not None else "not asked"] += 1
        if not isinstance(delivery, Envelope | Undecodable):
            raise Wrong(f"{delivery!r} is not a delivery")
        shown = dead_letter(record)
        session.outcomes["has a cause" if cause_of(record) is not None else "has no cause"] += 1
        if shown.source_offset < -1:
            raise Wrong(f"a dead letter has the source offset {shown.source_offset}")
        for name in (SEQ, VERSION):
            try:
                record.number(name)
            except DecodeError as error:
                sentence(error)
                session.outcomes["no number"] += 1
        if chance.random() < 0.2:
            readable_key(found[0][1] if found else None)
        yield


def used_shard(session: Session) -> tuple[type[Entity], Bench]:
    """Return a shard that has handled some valid commands, failures among them."""
    entity, bench = bench_for(session)
    for _ in range(session.chance.randrange(3, 25)):
        headers: Headers = ADDRESSES if session.chance.random() < 0.3 else ()
        if session.chance.random() < 0.2:
            headers = session.mutator.headers(headers, CLIENT_NAMES, VALUES)
        bench.tell(message_for(entity, session.chance), session.chance.choice(KEYS), headers)
        if session.chance.random() < 0.5:
            bench.run()
    bench.run()
    return entity, bench


def spoil(session: Session, bench: Bench, entity: type[Entity], *, everything: bool) -> None:
    """Change one to three records of a shard's history, or its position."""
    mutator, chance = session.mutator, session.chance
    own = [bench.codec.state, bench.codec.events]
    names = [name for name in (bench.topics if everything else own) if bench.topics[name]]
    for _ in range(chance.choice((1, 1, 2, 3))):
        topic = chance.choice(names)
        records = bench.topics[topic]
        at = chance.randrange(len(records)) if records else 0
        match chance.randrange(12):
            case 0:
                del records[at : at + 1]
            case 1 if records:
                records[at:at] = [records[at]]
            case 2:
                bench.committed = chance.choice((None, bench.committed, 0, (bench.committed or 0) + 1))
                bench.low = chance.choice((bench.low, bench.low, 1))
            case 3 if records:
                other = chance.choice(names)
                bench.topics[other].append(
                    msgspec.structs.replace(records[at], topic=other, offset=bench.ends[other])
                )  # fmt: skip
                bench.ends[other] += 1
            case 4 if records:
                keys = [name.encode() for name in (*KEYS, "\0shard", "0", "3")]
                records[at] = msgspec.structs.replace(records[at], key=mutator.key(records[at].key, keys))
            case 5 | 6 if records:
                found = mutator.headers(records[at].headers, NAMES, VALUES)
                records[at] = msgspec.structs.replace(records[at], headers=found)
            case 7 if records:
                records[at] = msgspec.structs.replace(records[at], value=None)
            case _ if records:
                value = mutator.packed(records[at].value or b"\x80")
                records[at] = msgspec.structs.replace(records[at], value=value)


def changelog(session: Session) -> Iterator[None]:
    """A shard's own topics: a restore returns a working shard, or raises `Inconsistent` with a sentence."""
    entity, bench = used_shard(session)
    topics = {name: list(records) for name, records in bench.topics.items()}
    ends, committed = dict(bench.ends), bench.committed
    for _ in range(30):
        bench.topics.clear()
        bench.topics.update({name: list(records) for name, records in topics.items()})
        bench.ends.clear()
        bench.ends.update(ends)
        bench.committed, bench.low = committed, 0
        spoil(session, bench, entity, everything=False)
        try:
            bench.crash(batch=session.chance.choice((1, 1_000)))
        except Inconsistent as error:
            sentence(error)
            session.outcomes["Inconsistent"] += 1
        else:
            session.outcomes["restored"] += 1
            bench.tell(PLAIN[entity], CANARY_KEY)
            bench.settle()
        yield


def sentence(error: Exception) -> None:
    """Check that an error has a message of bounded length that can be printed."""
    text = str(error)
    if not 10 < len(text) < 4_000:
        raise Wrong(f"{type(error).__name__} has the message {text!r:.200}")
    text.encode()


class ListReader:
    """A reader of the records in a bench's lists, which may be damaged."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def partition_count(self, topic: str) -> int | None:
        """See ``Reader``."""
        return 8 if topic.endswith(".replies") else 1 if topic.endswith((".dead-letters", ".control")) else PARTITIONS

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """See ``Reader``."""
        return {}

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See ``Reader``."""
        return (self._bench.low if topic.endswith(".commands") else 0), self._bench.ends[topic]

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """See ``Reader``."""
        for record in self._bench.topics.get(topic, ()):
            if record.partition == partition and record.offset >= from_offset:
                yield record

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """See ``Reader``."""
        for partition, offset in positions.items():
            yield from self.read(topic, partition, offset)

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """See ``Reader``."""
        return self._bench.committed if partition == 0 and topic == self._bench.codec.commands else None

    def close(self) -> None:
        """See ``Reader``."""


def system_of(bench: Bench) -> ActorSystem:
    """Return the system whose shard the bench runs."""
    system = ActorSystem(SYSTEM)
    for entity in ENTITIES:
        system.host(entity, partitions=PARTITIONS, supervise=POLICY)
    return system


def readers(session: Session) -> Iterator[None]:
    """Operator reads: a result, or DecodeError with a sentence; `verify` reports findings and never raises."""
    entity, bench = used_shard(session)
    system, reader = system_of(bench), ListReader(bench)
    hosted = system.hosted[entity]
    report = verify(reader, system)
    if not report.ok:
        raise Wrong(f"verify reports damage in an undamaged log: {[c.offenders for c in report.checks if not c.ok]}")
    for _ in range(4):
        spoil(session, bench, entity, everything=True)
        for ask in (
            lambda: [entity_state(reader, system, hosted, key) for key in KEYS],
            lambda: shard_status(reader, system, hosted, 0),
        ):
            try:
                ask()
                session.outcomes["answered"] += 1
            except DecodeError as error:
                sentence(error)
                session.outcomes["DecodeError"] += 1
        for record in [record for records in list(bench.topics.values()) for record in records]:
            readable(record.value).encode("utf-8", "surrogatepass")
            readable_key(record.key).encode()
            dead_letter(record)
        report = verify(reader, system)
        session.outcomes["verify: as promised" if report.ok else "verify: found"] += 1
        yield


def reports(session: Session) -> Iterator[None]:
    """The report stream of a node: each valid line is returned, all others are counted; status can be made of them."""
    mutator, chance = session.mutator, session.chance
    stream, incidents = ReportLines(), NodeStatus("node", 1, "1", 0)
    for number in range(40):
        report = msgspec.structs.replace(chance.choice(VALID_REPORTS), at_s=float(number))
        odd = {name: chance.choice(ODD) for name in FIELDS if mutator.chance(0.1)}
        line = msgspec.json.encode({**msgspec.to_builtins(report), **odd})
        if is_whole := mutator.chance(0.5):
            data = line + b"\n"
        else:
            data = mutator.damaged(line) if mutator.chance(0.7) else encode(message_for(Keeper, chance))
            longest = LINE_BYTES_MAX // max(1, len(data)) + 1
            data = data * chance.choice((1,) * 30 + (longest,)) + b"\n"
        found: list[NodeReport] = []
        lost, size = stream.lost, chance.choice((7, 4_096, 100_000)) if len(data) < 9_000 else 4_096
        while data:
            for got in stream.feed(data[:size]):
                found.append(got)
                incidents.take(got)
            data = data[size:]
        if is_whole and len(found) + stream.lost - lost != 1:
            raise Wrong(f"report {number} was returned {len(found)} times, and {stream.lost - lost} lines were lost")
        if is_whole and not odd and found != [report]:
            raise Wrong(f"{report} was returned as {found}")
        session.outcomes["report" if found else "lost line"] += 1
        yield
    record = msgspec.msgpack.encode(incidents.record(1))
    decode_node(record)
    try:
        decode_node(mutator.packed(record)).restarts_since(0)
    except DecodeError as error:
        sentence(error)
        session.outcomes["no record of a node"] += 1


#: Values in place of a number in a report, and the fields that get them.
ODD = (None, True, -1, 0.5, 1e308, -1e308, 1 << 63, -(1 << 63), "x", "", "9" * 5_000)
FIELDS = ("event", "at_s", "dropped", "pid", "delay_s", "where", "next")
VALID_REPORTS: tuple[NodeReport, ...] = (
    IncidentReport(worker="worker-0", where="a/1@2", error="E", reason="no", outcome="parked", next="it is parked"),
    WorkerStarted(worker="worker-0", incarnation=1, pid=7),
    WorkerWaits(worker="worker-0", incarnation=1, delay_s=0.5),
    WorkerFailed(worker="worker-0", incarnation=1, error_type="E", message="no", where="worker-0#1", traceback=""),
    NodeStopped(pid=1, exit_code=0, sentence="", killed=0, left=0),
    ShardAborted(worker="worker-0", shard="a/1", reason="no", routine=False, next="it starts over"),
)

SERIALIZER = Serializer(bytes(range(32)))


def frames(session: Session) -> Iterator[None]:
    """Frames of the process tree: the sent value, an incomplete frame, or `FrameError`, which closes the connection."""
    for _ in range(40):
        value, data = drawn_frame(session.mutator)
        buffer = ReceiveBuffer(SERIALIZER.loads)
        try:
            while data and not buffer.isDone():
                size = min(session.chance.choice((1, 20, 4_096)), buffer.remainingAmount())
                buffer.addMore(data[:size])
                data = data[size:]
            got = buffer.completed()
        except FrameError as error:
            sentence(error)
            session.outcomes["FrameError"] += 1
        else:
            if got is not None and got[0] != value:
                raise Wrong(f"{got[0]!r:.200} was received but never sent")
            session.outcomes["incomplete" if got is None else "received"] += 1
        yield


def drawn_frame(mutator: Mutator) -> tuple[object, bytes]:
    """Draw a value, and a frame of it with errors in its length, its signature or its pickle."""
    chance = mutator.source
    value = ("Ping", chance.randrange(100), "x" * chance.choice((0, 100, 20_000)))
    body = SERIALIZER.dumps(value)
    match chance.randrange(7):
        case 0:
            return value, frame(body)
        case 1:
            return value, mutator.damaged(frame(body)[:12]) + frame(body)[12:]
        case 2:
            return value, frame(mutator.damaged(body))
        case 3:
            length = chance.choice(
                (b"-5", b"0", b"32", b"1048577", b"99999999999999999999", b" 64", b"6_4", b"", b"\xb2")
            )
            return value, length + b">" + body
        case 4:
            return value, frame(Serializer(bytes(32)).dumps(value))
        case 5:
            return value, frame(body) * 2
        case _:
            return value, mutator.damaged(frame(body))


def unsigned_frame(mutator: Mutator) -> bytes:
    """Draw bytes from a sender without the key of the node."""
    return drawn_frame(mutator)[1] if mutator.chance(0.8) else mutator.source.randbytes(mutator.source.randrange(60))


#: The weight of each target; targets that build a whole history take longer.
TARGETS: Mapping[str, tuple[int, Callable[[Session], Iterator[None]]]] = {
    "commands": (40, commands),
    "headers": (15, headers),
    "changelog": (10, changelog),
    "readers": (10, readers),
    "reports": (10, reports),
    "frames": (15, frames),
}


# --- a run --------------------------------------------------------------------------------------------------------


class Found(Exception):
    """A finding: an input with an outcome that is not allowed. The message has the command that reproduces it."""


def sessions(seed: int, only: str | None = None, first: int = 0) -> Iterator[tuple[str, Session, Iterator[None]]]:
    """Yield sessions without end. Each is a function of the seed and its number."""
    names = list(TARGETS) if only is None else [only]
    number = first
    while True:
        source = Random(f"{seed}/{number}")  # noqa: S311 - an input, not a secret
        name = source.choices(names, [TARGETS[each][0] for each in names])[0]
        session = Session(source)
        yield name, session, TARGETS[name][1](session)
        number += 1


def fuzz(
    inputs: int, seed: int, only: str | None = None, first: int = 0, seen: Callable[[], None] = lambda: None
) -> dict[str, Counter[str]]:
    """Run a number of inputs; return their outcomes by target. Raises Found at the first finding."""
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in TARGETS}
    left = inputs
    for number, (name, session, run) in enumerate(sessions(seed, only, first), first):
        try:
            for _ in run:
                left -= 1
                outcomes[name]["inputs"] += 1
                seen()
        except (Exception, RecursionError, MemoryError) as error:
            again = f"python -m tests.campaigns.fuzz --seed {seed} --first {number} --inputs 1" + (
                f" --only {only}" if only else ""
            )
            raise Found(f"{name}: {type(error).__name__}: {error!s:.500}; reproduce it: {again}") from error
        outcomes[name].update(session.outcomes)
        if left <= 0:
            return outcomes
    raise AssertionError("sessions never end")


def main() -> int:
    """Run and return the exit code: 0 if there is no finding."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the first session")
    parser.add_argument("--sockets", type=int, default=0, help="frames at the ports of a running node")
    parser.add_argument("--only", choices=list(TARGETS))
    options = parser.parse_args()
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("wb") as log:
        os.dup2(log.fileno(), sys.stderr.fileno())  # The node's log lines about bad frames would hide the progress.
    columns = (TextColumn("inputs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    started_s = time.monotonic()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=options.inputs)
        advance = partial(progress.advance, task)
        try:
            outcomes = fuzz(options.inputs, options.seed, options.only, options.first, advance)
            table = figures(outcomes, time.monotonic() - started_s)
            if options.sockets:
                done = frames_at_every_port(options.sockets, options.seed, unsigned_frame)
                for what, count in sorted(done.items()):
                    table.add_row("real sockets", what, f"{count:,}")
        except (Found, FrameAccepted) as found:
            progress.stop()
            console.print("".join(traceback.format_exception(found)), markup=False, highlight=False)
            console.print(f"FOUND: {found}", markup=False, highlight=False)
            return 1
    console.print(table)
    console.print(
        f"seed {options.seed}, {options.inputs:,} inputs, {options.sockets:,} over sockets: no finding",
        highlight=False,
    )
    return 0


def figures(outcomes: Mapping[str, Counter[str]], seconds: float) -> Table:
    """Return the outcomes as a table."""
    table = Table("target", "outcome", "count", title="fuzzed")
    for name, counted in outcomes.items():
        table.add_row(name, "inputs", f"{counted['inputs']:,}")
        for what, count in sorted(counted.items()):
            if what != "inputs":
                table.add_row("", what, f"{count:,}")
    total = sum(counted["inputs"] for counted in outcomes.values())
    table.add_row("all", "inputs per second", f"{total / seconds:,.0f}")
    return table


if __name__ == "__main__":
    sys.exit(main())
