"""Relays under faults, in virtual time: what a seed draws happens to their log, their processes and their topic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import cast

from repertory import Route, SourceRecord, route
from repertory.actors.headers import SOURCE
from repertory.bridge import kill_points
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Append, Member, OutputsRefused, Reader, Transaction
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.sources.loop import SourceLog, SourceLoop
from repertory.bridge.sources.position import RETRY, SKIP, SourcePlace, SourceRequest, encode_source
from repertory.bridge.sources.topics_seen import TopicsSeen
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.sourcing import read_positions, routing_of
from repertory.simulation.commit_monitor import CommitMonitor
from repertory.simulation.faulty_log import FaultyLog
from repertory.simulation.killable import KillableBackend
from repertory.simulation.output_refusals import OutputRefusals
from repertory.simulation.pending import Pending
from repertory.simulation.virtual import Violation, VirtualClock
from repertory.verify.findings import Finding
from repertory.verify.relayed import RelayedCommands
from tests.apps import fed
from tests.apps.fed import Book, Line, Note, line

PARTITIONS, KEYS = 4, "abc"
#: Those of a relay and of its transactions.
POINTS = (*kill_points.SOURCE_POINTS, "begun", "producing", "producing-dead-letter", "offset-sent", "committed")
STEPS, SETTLING_STEPS = 150, 3_000
#: What happens, and how often.
_WEIGHTS = {
    "produce": 30, "tick": 60, "fate": 6, "delay": 6, "claims": 2, "lose": 3, "kill": 5, "ask": 4, "refuse": 1,
    "wait": 8, "late": 4, "away": 1,
}  # fmt: skip


class Killed(BaseException):
    """The process dies here."""


class Refused:
    """The log refuses the commands of some records for good, and a batch of which one is refused as a whole."""

    def __init__(self) -> None:
        self.origins: set[bytes] = set()

    def refusal(self, sent: Transaction | Append) -> OutputsRefused | None:
        """Return the refusal of a transaction, None if nothing in it is refused."""
        assert isinstance(sent, Transaction)
        of_sources = [each for each in sent.records if each.topic.endswith(".commands")]
        guilty = [each for each in of_sources if origin(each) in self.origins]
        if not guilty:
            return None
        place = (guilty[0].topic, guilty[0].partition)
        batch = [each for each in of_sources if (each.topic, each.partition) == place]
        return OutputsRefused(sent.shard, batch, "simulated: refused for good", len(batch) == 1)


def origin(output: Output) -> bytes:
    """Return the record that a command comes from, ``name/partition/offset``."""
    return dict(output.headers)[SOURCE].rpartition(b"/")[0]


class RelayMonitor(CommitMonitor):
    """As for shards, but operators write to the topic of the positions too."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(reader, {})
        self._written: Counter[TopicPartition] = Counter()

    def landed(self, worker: str, transaction: Transaction) -> bool:
        """See ``CommitMonitor``."""
        shard = transaction.shard
        records = self._reader.read(*shard)
        count = sum(1 for each in records if each.value is None or not (each.key or b"").startswith(b"\0request"))
        if count == self._written[shard]:
            return False
        self._written[shard] = count
        self.commits += 1
        if self._claimers.get(shard) != worker:
            raise Violation("one writer", f"{worker} committed to {shard}, claimed by {self._claimers.get(shard)}")
        return True


class Process:
    """One incarnation of a process that relays."""

    def __init__(self, world: RelayWorld, slot: int, incarnation: int) -> None:
        self.slot, self.incarnation, system, backend = slot, incarnation, world.system, world.backend
        inner = backend.log_of(Member("fed.sources", "node", slot), ["fed.sources"])
        self.log = FaultyLog(
            inner, backend.appender(), f"{slot}#{incarnation}", world.clock, world.monitor,
            cast("OutputRefusals", world.refused),
            piece=world.random.choice((0, 1, 3)), markers=world.random.choice((0, 2)),
        )  # fmt: skip
        follower = backend.follower()
        logs = {"lines": SourceLog(follower, TopicsSeen(follower, is_local=True))}
        self.loop = SourceLoop(
            self.log, list(system.sources.values()), logs, routing_of(system), world.clock,
            turn_max_s=1.0, poll_timeout_s=0.05, began=lambda _: 0,
        )  # fmt: skip
        #: The point at which it dies, and how often it passes that before.
        self.kill_at: tuple[str, int] | None = None

    def reached(self, point: str, _later_s: float) -> None:
        """Die at a point if that is armed."""
        if self.kill_at is not None and self.kill_at[0] == point:
            self.kill_at = (point, self.kill_at[1] - 1)
            if self.kill_at[1] < 0:
                self.kill_at = None
                raise Killed(point)


class RelayWorld:
    """Two processes, a foreign topic, and what a seed draws."""

    def __init__(self, seed: int) -> None:
        self.random, self.clock = Random(seed), VirtualClock()  # noqa: S311 - reproducible on purpose
        batch = self.random.choice((1, 2, 5, 100))
        self.system = fed.made("fed").configured(Settings(batch_records_max=batch))
        self.system._sources.clear()
        self.system.source("lines", fed.TOPIC, self.from_line)
        self.backend = KillableBackend("memory:", self.system.settings, clock=self.clock)
        self.system.prepare(self.backend)
        self.reader, self.appender = self.backend.reader(), self.backend.appender()
        self.monitor = RelayMonitor(self.reader)
        self.refused, self.is_broken = Refused(), True
        self.records: list[tuple[int, int, Line]] = []
        self.offsets: Counter[int] = Counter()
        self.orphans: list[tuple[Process, Pending]] = []
        self.lives = 0
        self.processes = {slot: self.started(slot) for slot in range(2)}
        self.faults: Counter[str] = Counter()

    def from_line(self, record: SourceRecord) -> list[Route]:
        """Be a source's function; what is broken is mended at the end."""
        found = record.json(Line)
        if found.how == "value":
            raise ValueError("means nothing")
        if found.how == "boom" and self.is_broken:
            raise RuntimeError("out of order")
        return [
            route(Book.note, key, Note(partition=record.partition, offset=record.offset, index=index))
            for index, key in enumerate(found.keys)
        ]

    def started(self, slot: int) -> Process:
        """Start a process."""
        self.lives += 1
        return Process(self, slot, self.lives)

    # --- what happens -----------------------------------------------------------------------------------------

    def step(self) -> None:
        """Do what is drawn."""
        process = self.processes[self.random.randrange(2)]
        what = self.random.choices([*_WEIGHTS], [*_WEIGHTS.values()])[0]
        self.faults[what] += 1
        match what:
            case "produce":
                self.produce()
            case "tick":
                self.tick(process)
            case "ask":
                self.ask()
            case "wait":
                self.clock.advance(self.random.choice((0.01, 0.5, 6.0)))
            case "refuse" if self.records:
                self.refuse(*self.random.choice(self.records)[:2])
            case "late" if self.orphans:
                old, pending = self.orphans.pop(self.random.randrange(len(self.orphans)))
                old.log.arrive(pending)
            case _:
                self.hurt(process, what)

    def hurt(self, process: Process, what: str) -> None:
        """Arm a fault of one process."""
        match what:
            case "fate":
                process.log.fates.append(self.random.choice(("fenced", "abort", "unknown-lost", "unknown-written")))
            case "delay":
                process.log.delay_s = self.random.choice((0.01, 0.2, 3.0))
            case "claims":
                process.log.failing_claims = self.random.randrange(3)
            case "lose" if process.log.owned:
                process.log.lose(self.random.choice(process.log.owned), twice=self.random.random() < 0.3)
            case "kill":
                process.kill_at = (self.random.choice(POINTS), self.random.randrange(4))
            case "away":
                process.log.unavailable = True

    def refuse(self, partition: int, offset: int) -> None:
        """Refuse the commands of a record from now on, unless they are in the log, or on their way to it."""
        found = b"lines/%d/%d" % (partition, offset)
        pending = [each for _, each in self.orphans]
        for process in self.processes.values():
            pending += process.log.pending
        sent = {dict(each.headers).get(SOURCE, b"") for one in pending for each in one.transaction.records}
        if found in {each.rpartition(b"/")[0] for each in sent}:
            return
        if not any(each[:2] == (partition, offset) for each in self.relayed()):
            self.refused.origins.add(found)

    def produce(self) -> None:
        """Append a record to the foreign topic."""
        partition, keys = self.random.randrange(PARTITIONS - 1), self.random.sample(KEYS, self.random.randrange(4))
        how = self.random.choices(("", "value", "boom"), (10, 2, 1))[0]
        self.appender.append([Output(fed.TOPIC, partition, None, line(keys, how))])
        self.records.append((partition, self.offsets[partition], Line(keys, how)))
        self.offsets[partition] += 1

    def tick(self, process: Process) -> bool:
        """Run a tick of a process, which may die in it; another one then takes its slot."""
        try:
            with kill_points.observed_by(process.reached):
                return process.loop.tick(0.0)
        except (Killed, LogUnavailable):
            self.faults["died"] += 1
            self.orphans += [(process, pending) for pending in process.log.pending]
            process.log.abandon()
            self.processes[process.slot] = self.started(process.slot)
            return True

    def ask(self) -> None:
        """Be an operator: have what has stopped skipped or tried again; the skip may be of another record."""
        known = read_positions(self.reader, "fed").known
        stopped = [(place, each.stopped) for place, each in known.items() if each.stopped is not None]
        if not stopped:
            return
        place, stop = self.random.choice(stopped)
        offset = stop.offset + (self.random.random() < 0.2)
        request = SourceRequest(self.random.choice((RETRY, SKIP)), "drawn", "ann", 1, offset)
        self.appender.append([Output("fed.sources", place.relay, place.request_key, encode_source(request))])

    # --- the end ----------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """End all faults, mend what is broken, and work until all is relayed."""
        self.is_broken = False
        for process in self.processes.values():
            process.log.heal()
            process.kill_at = None
        for _ in range(SETTLING_STEPS):
            busy = [self.tick(process) for process in [*self.processes.values()]]
            self.clock.advance(0.05 if any(busy) else 2.0)
            known = read_positions(self.reader, "fed").known
            places = [SourcePlace("lines", fed.TOPIC, partition) for partition in range(PARTITIONS - 1)]
            at = [None if place not in known else known[place].next for place in places]
            if at == [self.offsets[partition] for partition in range(PARTITIONS - 1)] and not any(busy):
                return
        raise AssertionError(f"it never came to rest: {at} of {self.offsets}")

    def relayed(self) -> Iterator[tuple[int, int, int]]:
        """Yield partition, offset and index of each command in the log, in the order of its partition."""
        for partition in range(2):
            for record in self.reader.read("fed.book.commands", partition):
                _, *numbers = (record.header(SOURCE) or b"").split(b"/")
                source_partition, offset, index = map(int, numbers)
                yield source_partition, offset, index

    def wrong(self) -> list[str]:
        """Return what is wrong with the log: each record has its commands, once and in order, or one dead letter."""
        skipped = {
            (place.partition, each.first)
            for place, position in read_positions(self.reader, "fed").known.items()
            for each in position.accepted
        }
        letters = Counter(
            tuple(map(int, (record.header(SOURCE) or b"").split(b"/")[1:]))
            for record in self.reader.read("fed.dead-letters", 0)
        )
        found, count = Counter(self.relayed()), []
        for partition, offset, given in self.records:
            place = (partition, offset)
            is_refused = b"lines/%d/%d" % place in self.refused.origins and bool(given.keys)
            is_letter = (given.how == "value" or is_refused) and place not in skipped
            commands = 0 if is_letter or place in skipped else len(given.keys)
            if letters[place] != is_letter:
                count.append(f"{place} has {letters[place]} dead letters")
            made = {index: times for (*at, index), times in found.items() if tuple(at) == place}
            if made != dict.fromkeys(range(commands), 1):
                count.append(f"{place} has the commands {made}, not {commands}")
        finding = Finding("sources")
        check = RelayedCommands(self.reader, self.system, finding, decides=True)
        for partition in range(2):
            for record in self.reader.read("fed.book.commands", partition):
                check.command(record)
        for record in self.reader.read("fed.dead-letters", 0):
            check.letter(record)
        check.check()
        return [*count, *map(str, finding.check().offenders)]


def run(seed: int) -> Counter[str]:
    """Run a seed, and return how often each fault happened. Raises AssertionError for a log that is wrong."""
    world = RelayWorld(seed)
    for _ in range(STEPS):
        world.step()
    world.settle()
    wrong = world.wrong()
    assert not wrong, f"seed {seed}: {wrong[:5]}"
    world.backend.close()
    return world.faults + world.monitor.probes
