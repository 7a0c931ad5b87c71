"""Histories of port operations: drawn from a seed, played on any log, with outcomes that do not depend on offsets.

A :class:`Player` plays one history on one log, from one thread, with up to three members. The outcome of a step is
*canonical*: the position of a record is its index among the committed records of its partition (on Kafka, transaction
markers and aborted records take offsets too), a refusal is the class of its error, and of a rebalance only the result
counts: every shard has exactly one member, and the shares are even. So two logs with the same guarantees have equal
outcomes.

Where the port leaves the behaviour open, the player goes on until the result is determined again. Which member owns a
shard is not part of a history: its steps name shards, and the player uses their current owners. If the owner of a
commit is killed, its successor looks for the commit and repeats it if it is absent, as the runtime does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from random import Random
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

from repertory.actors.headers import Headers
from repertory.bridge.log.errors import LogError
from repertory.bridge.log.port import (
    Aborted,
    Assigned,
    Claimed,
    Committed,
    Fenced,
    Fetched,
    LogEvent,
    Lost,
    Member,
    OutputsRefused,
    Replayed,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from tests.support.logs.log_driver import Driver, LogHarness

TOPICS = ("commands", "events", "state")
PARTITIONS = 2
SLOTS = 3
#: A step that a rebalance voids is repeated at most so often.
ATTEMPTS = 20
#: Polls of all members after which no further event is expected.
QUIET_POLLS = 5
#: In outcomes a larger value is replaced by its size and checksum.
BRIEF_BYTES = 40
#: How long `follow` waits for a record that does not arrive.
FOLLOW_S = 20.0

Event = TypeVar("Event", bound=LogEvent)

# --- the steps ------------------------------------------------------------------------------------------------
#
# Numbers that are positions in a partition (``start``, ``end``, ``next``) are taken modulo the number of its records.


class Message(NamedTuple):
    """The content of a record; its value is ``value``, repeated ``times`` times."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    times: int = 1

    def to(self, where: TopicPartition) -> Output:
        """Return the output for a partition."""
        return Output(*where, self.key, self.value and self.value * self.times, self.headers)


class Write(NamedTuple):
    """A record and its target. The topic ``missing`` does not exist, and only partitions 0 and 1 do."""

    topic: str
    partition: int
    message: Message


class Append(NamedTuple):
    """A client appends, ``times`` times, so that batches and fetches end within the appended records."""

    writes: tuple[Write, ...]
    times: int = 1


class Claim(NamedTuple):
    """The owner of a shard claims it, even if it has claimed it already."""

    partition: int
    topics: tuple[str, ...] = ()


class Replay(NamedTuple):
    """A shard that is claimed and has not begun reads a range."""

    partition: int
    topic: str
    start: int
    end: int


class Begin(NamedTuple):
    """A shard that is claimed begins to fetch commands."""

    partition: int
    start: int


class Fetch(NamedTuple):
    """A shard fetches all available commands."""

    partition: int


class Pause(NamedTuple):
    """A shard pauses fetching, or resumes it."""

    partition: int
    resume: bool = False


class Commit(NamedTuple):
    """Shards commit, concurrently if there are several, and wait for the outcomes.

    ``then``: what happens to the owner of the first shard right after it requested the commit.
    """

    parts: tuple[tuple[int, int, tuple[Write, ...]], ...]  #: partition, next offset, writes
    then: str = ""  #: "crash" or "close"


class Join(NamedTuple):
    """A member joins, if the slot is free; else a second worker tries to use the slot."""

    slot: int


class Leave(NamedTuple):
    """A member leaves gracefully."""

    slot: int


class Crash(NamedTuple):
    """A member is killed, and another is started in its slot."""

    slot: int


class Sleep(NamedTuple):
    """The owner of a shard sleeps past its session, loses the shard to another member, wakes up and commits."""

    partition: int
    writes: tuple[Write, ...]


class Read(NamedTuple):
    """A reader reads a partition."""

    topic: str
    partition: int
    start: int


class Follow(NamedTuple):
    """A reader follows both partitions of a topic."""

    topic: str
    starts: tuple[int, int]


class Ensure(NamedTuple):
    """Topics are ensured: the name and partition count of each."""

    specs: tuple[tuple[str, int], ...]


Step = Append | Claim | Replay | Begin | Fetch | Pause | Commit | Join | Leave | Crash | Sleep | Read | Follow | Ensure

# --- drawing them ---------------------------------------------------------------------------------------------


def history(seed: int, *, steps: int = 24, sleeps: bool = False) -> list[Step]:
    """Return the history of a seed. With ``sleeps`` members sleep past their sessions, which takes seconds on Kafka.

    The generator tracks the player's state (members, shards that have begun), so that few steps have no effect. Steps
    without an effect are allowed too: a history may be truncated anywhere.
    """
    return _Generator(Random(seed), sleeps=sleeps).drawn(steps)  # noqa: S311 - not a secret


class _Generator:
    """Draws one history. All choices depend on ``random`` alone."""

    def __init__(self, random: Random, *, sleeps: bool) -> None:
        self._random = random
        self._members: set[int] = set()
        self._kinds: dict[Callable[[], list[Step]], int] = {
            self._append: 4,
            self._commit: 6,
            self._restore: 2,
            self._fetch: 4,
            self._pause: 2,
            self._read: 3,
            self._commit_at_once: 2,
            self._lose_a_commit: 2,
            self._join: 2,
            self._leave: 1,
            self._crash: 1,
            self._follow: 1,
            self._ensure: 1,
            self._sleep: 1 if sleeps else 0,
        }

    def drawn(self, steps: int) -> list[Step]:
        found: list[Step] = [*self._join(), *self._append(), *self._append()]
        for partition in range(PARTITIONS):
            found += self._restored(partition)
        while len(found) < steps:
            (kind,) = self._random.choices(list(self._kinds), list(self._kinds.values()))
            found += kind()
        return found

    # --- shards ---

    def _restore(self) -> list[Step]:
        """Return what the runtime does with a shard that is assigned to it; sometimes it stops half way."""
        whole = self._restored(self._partition())
        return whole[: self._random.randint(1, len(whole))] if self._random.random() < 0.3 else whole

    def _restored(self, partition: int) -> list[Step]:
        topics = tuple(topic for topic in ("state", "events") if self._random.random() < 0.7)
        replays = [Replay(partition, topic, self._place(), self._place()) for topic in topics]
        return [Claim(partition, topics), *replays, Begin(partition, self._place()), Fetch(partition)]

    def _fetch(self) -> list[Step]:
        return [Fetch(self._partition())]

    def _pause(self) -> list[Step]:
        partition = self._partition()
        between: list[Step] = [Fetch(partition), *self._append()][: self._random.randint(0, 4)]
        return [Pause(partition), *between, Pause(partition, resume=True), Fetch(partition)]

    # --- commits ---

    def _commit(self) -> list[Step]:
        partition = self._partition()
        writes = self._writes(0, 5)
        if self._random.random() < 0.15:
            writes.insert(self._random.randint(0, len(writes)), self._doomed())
        return [Commit(((partition, self._place(), tuple(writes)),))]

    def _commit_at_once(self) -> list[Step]:
        """The shards write to different partitions: two transactions on one partition have no defined order."""
        parts = []
        for partition in range(PARTITIONS):
            writes = [write._replace(partition=partition) for write in self._writes(0, 4)]
            parts.append((partition, self._place(), tuple(writes)))
        return [Commit(tuple(parts))]

    def _lose_a_commit(self) -> list[Step]:
        """The commit writes at least one record: whether an empty commit has happened cannot be determined."""
        part = (self._partition(), self._place(), tuple(self._writes(1, 4)))
        return [Commit((part,), self._random.choice(["crash", "close"]))]

    def _sleep(self) -> list[Step]:
        joins = [step for _ in range(2 - len(self._members)) for step in self._join()]
        return [*joins, Sleep(self._partition(), tuple(self._writes(0, 3)))]

    # --- members ---

    def _join(self) -> list[Step]:
        slot = self._random.randrange(SLOTS)  # Sometimes the slot of a member.
        self._members.add(slot)
        return [Join(slot)]

    def _leave(self) -> list[Step]:
        """If the last member leaves, the next one joins at once."""
        slot = self._random.choice(sorted(self._members))
        self._members.discard(slot)
        return [Leave(slot), *([] if self._members else self._join())]

    def _crash(self) -> list[Step]:
        return [Crash(self._random.choice(sorted(self._members)))]

    # --- clients and readers ---

    def _append(self) -> list[Step]:
        if self._random.random() < 0.15:
            return [Append((*self._writes(0, 2), self._doomed(), *self._writes(0, 2)))]
        if self._random.random() < 0.15:
            small = [write for write in self._writes(1, 3) if write.message.times == 1]
            return [Append(tuple(small), self._random.choice([300, 700]))]
        return [Append(tuple(self._writes(0, 6)))]

    def _read(self) -> list[Step]:
        topic = self._random.choice([*TOPICS, *TOPICS, "missing"])
        return [Read(topic, self._random.choice([0, 1, 0, 1, 0, 1, PARTITIONS, -1]), self._place())]

    def _follow(self) -> list[Step]:
        return [Follow(self._random.choice([*TOPICS, "missing"]), (self._place(), self._place()))]

    def _ensure(self) -> list[Step]:
        names = self._random.sample(["events", "one", "two"], self._random.randint(0, 3))
        return [Ensure(tuple((name, self._random.randint(1, 3)) for name in names))]

    # --- parts of steps ---

    def _partition(self) -> int:
        return self._random.randrange(PARTITIONS)

    def _place(self) -> int:
        return self._random.randrange(10_000)

    def _writes(self, least: int, most: int) -> list[Write]:
        count = self._random.randint(least, most)
        return [Write(self._random.choice(TOPICS), self._partition(), self._message()) for _ in range(count)]

    def _doomed(self) -> Write:
        """Return a write to a partition that does not exist."""
        if self._random.random() < 0.5:
            return Write("missing", self._partition(), self._message())
        return Write(self._random.choice(TOPICS), self._random.choice([-1, PARTITIONS, 1_000]), self._message())

    def _message(self) -> Message:
        names = ["cause", "", "a", "a", "\N{GREEK SMALL LETTER LAMDA}", "x" * 300, "\N{PERFORMING ARTS}\x01"]
        headers = tuple((name, self._bytes(5)) for name in self._random.choices(names, k=self._random.randint(0, 3)))
        key = None if self._random.random() < 0.2 else self._bytes(6)
        if self._random.random() < 0.05:
            return Message(key, b"\xff\0large", headers, self._random.randint(1_000, 120_000))
        return Message(key, None if self._random.random() < 0.2 else self._bytes(12), headers)

    def _bytes(self, size_max: int) -> bytes:
        return self._random.randbytes(self._random.randint(0, size_max))


# --- playing them ---------------------------------------------------------------------------------------------

Outcome = tuple[object, ...]


class _ShardState:
    """A shard, as its owner sees it. ``live``: the claim of ``holder`` is still valid."""

    def __init__(self, shard: TopicPartition) -> None:
        self.shard = shard
        self.holder: Driver | None = None
        self.live = False
        self.phase = ""  # The phase within the history: "", "claimed" or "begun".
        self.topics: tuple[str, ...] = ()
        self.paused = False
        self.position = 0  # Position of the first command that is not part of an outcome yet.
        self.fetched: list[Record] = []
        self.answers: list[LogEvent] = []


class _Wanted(NamedTuple):
    """A commit in flight. ``firsts``: per topic, the position of its first record; None if it has to be refused."""

    assigned: _ShardState
    transaction: Transaction
    firsts: dict[str, int] | None


class Player:
    """Plays histories on one harness. ``outcomes`` are those of the steps so far."""

    def __init__(self, world: LogHarness) -> None:
        self.world = world
        self.outcomes: list[Outcome] = []
        world.make(PARTITIONS)
        self._names = {"commands": world.commands, "events": world.events, "state": world.state}
        self._assigned = {p: _ShardState(world.shard(p)) for p in range(PARTITIONS)}
        self._members: dict[int, Driver] = {}
        #: Offsets of the committed records, as the log reported them; `_stale` partitions are read when needed.
        self._known: dict[TopicPartition, list[int]] = {}
        self._stale: set[TopicPartition] = set()
        #: Events of members about shards that they do not hold.
        self._unexpected: list[tuple[Driver, LogEvent]] = []
        self._moves: dict[type[Step], Callable[[Any], Outcome]] = {
            Append: self._append,
            Claim: self._claim,
            Replay: self._replay,
            Begin: self._begin,
            Fetch: lambda step: self._fetched(self._assigned[step.partition]),
            Pause: lambda step: self._paused(self._assigned[step.partition], resume=step.resume),
            Commit: self._commit,
            Join: self._join,
            Leave: self._leave,
            Crash: self._crash,
            Sleep: self._sleep,
            Read: self._read,
            Follow: self._follow,
            Ensure: self._ensure,
        }

    def play(self, history: Iterable[Step]) -> list[Outcome]:
        """Play all steps, then read everything; return the outcomes."""
        for step in history:
            self.outcomes.append((type(step).__name__, *self._moves[type(step)](step)))
        self._drain()
        self.outcomes += self._everything()
        return self.outcomes

    # --- positions and offsets --------------------------------------------------------------------------------

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._names.get(topic, f"{self.world.group}.missing"), partition)

    def _offsets(self, where: TopicPartition) -> list[int]:
        """Return the offsets of the committed records, in order."""
        known = self._known.setdefault(where, [])
        if where in self._stale:
            start = known[-1] + 1 if known else 0
            known += [record.offset for record in self.world.reader.read(*where, start)]
            self._stale.discard(where)
        return known

    def _offset(self, where: TopicPartition, place: int) -> int:
        """Return the offset after the ``place`` first records."""
        return self._offsets(where)[place - 1] + 1 if place else 0

    def _count(self, where: TopicPartition, offset: int | None) -> int | None:
        """Return the number of records below an offset."""
        return None if offset is None else sum(known < offset for known in self._offsets(where))

    def _within(self, where: TopicPartition, number: int) -> int:
        return number % (len(self._offsets(where)) + 1)

    # --- members and shards -----------------------------------------------------------------------------------

    def _absorb(self) -> None:
        """Distribute the members' events to shards, and check the rules that every log has to keep."""
        for driver in self.world.drivers:
            events, driver.pending = driver.pending, []
            for event in events:
                assigned = self._assigned[event.shard.partition]
                if isinstance(event, Assigned):
                    continue
                if assigned.holder is not driver or not assigned.live:
                    self._unexpected.append((driver, event))
                    assert not isinstance(event, Claimed | Replayed | Fetched), f"{event} after the claim was void"
                    continue
                match event:
                    case Fetched(_, records):
                        assert assigned.phase == "begun", event
                        assigned.fetched += records
                    case Lost() | Aborted() | OutputsRefused() | Fenced():
                        assigned.live = False
                        assigned.answers.append(event)
                    case _:
                        assigned.answers.append(event)

    def _until(self, check: Callable[[], Event | bool | None], what: str) -> Event:
        def absorbed() -> Event | bool | None:
            self._absorb()
            return check()

        return self.world.until(absorbed, lambda: what)

    def _settled(self) -> None:
        """Wait for even shares; which member then owns which shard is up to the log."""
        if self._members:
            self.world.settled(*self._members.values())
            self._absorb()

    def _owner(self, shard: TopicPartition) -> Driver:
        def found() -> Driver | None:
            return next((d for d in self._members.values() if shard in d.owned and not d.asleep), None)

        return self._until(found, f"an owner of {shard}")  # type: ignore[type-var]  # returns a driver, not an event

    def _held(self, assigned: _ShardState) -> Driver:
        """Have the owner claim the shard and reach the phase of the history; return the owner."""
        for _ in range(ATTEMPTS):
            owner = self._owner(assigned.shard)
            if (assigned.live and assigned.holder is owner) or self._claimed(assigned, owner):
                return owner
        raise AssertionError(f"{assigned.shard} cannot be held")

    def _claimed(self, assigned: _ShardState, owner: Driver) -> Claimed | None:
        assigned.holder, assigned.live, assigned.answers = owner, True, []
        owner.log.claim(assigned.shard, [self._names[topic] for topic in assigned.topics])
        answer = self._answer(assigned, f"a claim of {assigned.shard}")
        if not isinstance(answer, Claimed):
            return None
        if assigned.phase == "begun":
            start = assigned.position + len(assigned.fetched)
            owner.log.begin(assigned.shard, self._offset(assigned.shard, start))
            if assigned.paused:
                owner.log.pause(assigned.shard)
        return answer

    def _answer(self, assigned: _ShardState, what: str) -> LogEvent:
        self._until(lambda: bool(assigned.answers), what)
        return assigned.answers.pop(0)

    # --- steps of a shard -------------------------------------------------------------------------------------

    def _claim(self, step: Claim) -> Outcome:
        assigned = self._assigned[step.partition]
        if not self._members:
            return ("nobody",)
        assigned.phase, assigned.topics, assigned.paused, assigned.fetched = "claimed", step.topics, False, []
        for _ in range(ATTEMPTS):
            claimed = self._claimed(assigned, self._owner(assigned.shard))
            if claimed is not None:
                ends = {topic: self._count(self._place(topic, step.partition), claimed.ends[self._names[topic]])
                        for topic in step.topics}  # fmt: skip
                return (
                    *(
                        self._count(assigned.shard, o)
                        for o in (claimed.committed, claimed.start_offset, claimed.end_offset)
                    ),
                    ends,
                )
        raise AssertionError(f"{assigned.shard} cannot be claimed")

    def _replay(self, step: Replay) -> Outcome:
        assigned, where = self._assigned[step.partition], self._place(step.topic, step.partition)
        if not self._members or assigned.phase != "claimed":
            return ("not now",)
        start, end = sorted((self._within(where, step.start), self._within(where, step.end)))
        for _ in range(ATTEMPTS):
            owner, records = self._held(assigned), []
            assigned.answers = []
            owner.log.replay(assigned.shard, where.topic, self._offset(where, start), self._offset(where, end))
            while isinstance(answer := self._answer(assigned, f"a replay of {where}"), Replayed):
                records += answer.records
                if answer.complete:
                    return tuple(_contents(records))
        raise AssertionError(f"{where} cannot be replayed")

    def _begin(self, step: Begin) -> Outcome:
        assigned = self._assigned[step.partition]
        if not self._members or assigned.phase != "claimed":
            return ("not now",)
        owner = self._held(assigned)
        assigned.phase, assigned.position = "begun", self._within(assigned.shard, step.start)
        owner.log.begin(assigned.shard, self._offset(assigned.shard, assigned.position))
        return (assigned.position,)

    def _fetched(self, assigned: _ShardState) -> Outcome:
        if not self._members:
            return ("nobody",)
        if assigned.phase != "begun" or assigned.paused:
            self._quiet()  # Records fetched before a pause may still arrive; they are part of a later outcome.
            return ("nothing",)
        wanted = len(self._offsets(assigned.shard)) - assigned.position

        def all_there() -> bool:
            self._held(assigned)
            return len(assigned.fetched) >= wanted

        self._until(all_there, f"{wanted} records of {assigned.shard}")
        records, assigned.fetched = assigned.fetched, []
        assigned.position += len(records)
        return tuple(_contents(records))

    def _paused(self, assigned: _ShardState, *, resume: bool) -> Outcome:
        if not self._members or assigned.phase != "begun":
            return ("not now",)
        owner = self._held(assigned)
        assigned.paused = not resume
        (owner.log.resume if resume else owner.log.pause)(assigned.shard)
        return ()

    def _quiet(self) -> None:
        for _ in range(QUIET_POLLS):
            for driver in self.world.drivers:
                driver.poll()
            self._absorb()

    # --- commits ----------------------------------------------------------------------------------------------

    def _outputs(self, writes: Iterable[Write]) -> list[Output]:
        return [write.message.to(self._place(write.topic, write.partition)) for write in writes]

    def _commit(self, step: Commit) -> Outcome:
        if not self._members or any(not self._assigned[partition].phase for partition, _, _ in step.parts):
            return ("not now",)
        wanted = [self._wanted(self._assigned[partition], next_, writes) for partition, next_, writes in step.parts]
        for each in wanted:
            owner = self._held(each.assigned)
            each.assigned.answers = []
            owner.log.commit(each.transaction)
        if step.then:
            self._end(wanted[0].assigned, step.then)
        return tuple(self._outcome(each, is_known=not step.then) for each in wanted)

    def _wanted(self, assigned: _ShardState, next_: int, writes: Sequence[Write]) -> _Wanted:
        """Return a transaction and the positions of its first records."""
        transaction = Transaction(
            assigned.shard, self._offset(assigned.shard, self._within(assigned.shard, next_)), self._outputs(writes)
        )
        if any(write.topic == "missing" or write.partition not in range(PARTITIONS) for write in writes):
            return _Wanted(assigned, transaction, None)
        places = [self._place(write.topic, write.partition) for write in writes]
        return _Wanted(assigned, transaction, {place.topic: len(self._offsets(place)) for place in reversed(places)})

    def _end(self, assigned: _ShardState, how: str) -> None:
        """Kill or close the owner of a commit in flight, and start it again: who the owner is differs between logs."""
        slot = next(slot for slot, driver in self._members.items() if driver is assigned.holder)
        self._restart(slot, crash=how == "crash")

    def _outcome(self, wanted: _Wanted, *, is_known: bool) -> Outcome:
        """Wait for an outcome; if it is unknown, let the next claim decide, and repeat a commit that did not happen."""
        assigned, transaction, firsts = wanted
        answer: LogEvent | None = None
        for _ in range(ATTEMPTS):
            if is_known:
                answer = self._answer(assigned, f"the outcome of {transaction}")
                if isinstance(answer, Committed):
                    self._note(transaction, answer)
                    assert answer.first_offsets.keys() == (firsts or {}).keys(), f"{answer}, not {firsts}"
                    return ("committed", self._committed(assigned.shard))
                if firsts is None:
                    return ("refused", self._committed(assigned.shard))
            owner = self._held(assigned)
            if self._happened(transaction):
                return ("committed", self._committed(assigned.shard))
            assigned.answers, is_known = [], True
            owner.log.commit(transaction)
        raise AssertionError(f"{transaction} is aborted every time: {answer}")

    def _note(self, transaction: Transaction, answer: Committed) -> None:
        """Note the offsets of the records; per topic the log reports only the partition of the first record."""
        places = [TopicPartition(output.topic, output.partition) for output in transaction.records]
        reported = {place.topic: place for place in reversed(places)}
        for place, count in Counter(places).items():
            if reported[place.topic] == place:
                first = answer.first_offsets[place.topic]
                self._offsets(place).extend(range(first, first + count))
            else:
                self._stale.add(place)

    def _happened(self, transaction: Transaction) -> bool:
        """Return whether a transaction is in the log after all; the next claim has decided it."""
        places = {TopicPartition(output.topic, output.partition) for output in transaction.records}
        before = {where: len(self._offsets(where)) for where in places}
        self._stale |= places
        grown = {where for where in places if len(self._offsets(where)) > before[where]}
        assert grown in (set(), places), f"half of {transaction} is there: {grown}"
        if places:
            return bool(grown)
        return self.world.reader.committed(self.world.group, *transaction.shard) == transaction.next_offset

    def _committed(self, shard: TopicPartition) -> int | None:
        return self._count(shard, self.world.reader.committed(self.world.group, *shard))

    # --- members ----------------------------------------------------------------------------------------------

    def _join(self, step: Join) -> Outcome:
        slot = step.slot
        if slot in self._members:
            second = self.world.backend.log(Member(self.world.group, "here", slot), [self.world.commands])
            try:
                return _refusal(lambda: second.poll(5.0))
            finally:
                second.close()
        self._members[slot] = self.world.join(slot)
        self._settled()
        return ("settled",)

    def _leave(self, step: Leave) -> Outcome:
        if step.slot not in self._members:
            return ("nobody",)
        self._members.pop(step.slot).close()
        self._void()
        self._settled()
        return ("settled",)

    def _crash(self, step: Crash) -> Outcome:
        if step.slot not in self._members:
            return ("nobody",)
        self._restart(step.slot, crash=True)
        return ("settled",)

    def _restart(self, slot: int, *, crash: bool) -> None:
        driver = self._members.pop(slot)
        if crash:
            self.world.drivers.remove(driver)
            driver.log.abandon()
        else:
            driver.close()
        self._void()
        self._members[slot] = self.world.join(slot)
        self._settled()

    def _void(self) -> None:
        """Void the claims of members that have left."""
        for assigned in self._assigned.values():
            if assigned.holder not in self.world.drivers:
                assigned.holder, assigned.live = None, False

    def _sleep(self, step: Sleep) -> Outcome:
        assigned = self._assigned[step.partition]
        if len(self._members) < 2 or not assigned.phase:
            return ("not now",)
        sleeper = self._held(assigned)
        sleeper.asleep = True
        assert self._held(assigned) is not sleeper
        self._unexpected.clear()
        sleeper.log.commit(Transaction(assigned.shard, self._offset(assigned.shard, 0), self._outputs(step.writes)))
        sleeper.asleep = False

        def answered() -> bool:
            kinds = (Lost, Aborted, OutputsRefused, Fenced, Committed)
            return any(d is sleeper and isinstance(e, kinds) and e.shard == assigned.shard for d, e in self._unexpected)

        self._until(answered, f"the answer to {assigned.shard}'s sleeping owner")
        assert not any(isinstance(event, Committed) for _, event in self._unexpected), self._unexpected
        self._settled()
        return ("refused", self._committed(assigned.shard))

    # --- clients and readers ----------------------------------------------------------------------------------

    def _append(self, step: Append) -> Outcome:
        outputs = self._outputs(step.writes) * step.times
        for output in outputs:
            self._offsets(TopicPartition(output.topic, output.partition))
        try:
            offsets = self.world.appender.append(outputs)
        except LogError as refusal:
            return (type(refusal).__name__,)
        places = []
        for output, offset in zip(outputs, offsets, strict=True):
            known = self._offsets(TopicPartition(output.topic, output.partition))
            places.append(len(known))
            known.append(offset)
        return tuple(places)

    def _read(self, step: Read) -> Outcome:
        where, reader = self._place(step.topic, step.partition), self.world.reader
        known = where in {self._place(t, p) for t in self._names for p in range(PARTITIONS)}
        start = self._offset(where, self._within(where, step.start)) if known else step.start
        read = _refusal(lambda: tuple(_contents(reader.read(*where, start))))
        # After the read, which waits for transaction markers: they may be written a little after `Committed`.
        bounds = _refusal(lambda: tuple(self._count(where, bound) for bound in reader.bounds(*where)))
        committed = reader.committed(self.world.group, *where)
        count = reader.partition_count(where.topic)
        return (*read, bounds, self._count(where, committed) if known else committed, count)

    def _follow(self, step: Follow) -> Outcome:
        where = [self._place(step.topic, p) for p in range(PARTITIONS)]
        if step.topic == "missing":
            return _refusal(lambda: tuple(self.world.reader.follow(where[0].topic, {0: 0}, FOLLOW_S)))
        starts = [self._within(place, start) for place, start in zip(where, step.starts, strict=True)]
        positions = {p: self._offset(place, starts[p]) for p, place in enumerate(where)}
        wanted = sum(len(self._offsets(place)) - starts[p] for p, place in enumerate(where))
        records = list(islice(self.world.reader.follow(where[0].topic, positions, FOLLOW_S), wanted)) if wanted else []
        return tuple(tuple(_contents(r for r in records if r.partition == p)) for p in range(PARTITIONS))

    def _ensure(self, step: Ensure) -> Outcome:
        prefix = f"{self.world.group}."
        specs = [TopicSpec(self._names.get(name, prefix + name), count, {}) for name, count in step.specs]
        return _refusal(lambda: tuple(name.removeprefix(prefix) for name in self.world.backend.ensure(specs)))

    # --- the end ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Have every shard that has begun fetch the remaining commands."""
        for assigned in self._assigned.values():
            if self._members and assigned.phase == "begun":
                if assigned.paused:
                    self._paused(assigned, resume=True)
                self.outcomes.append(("the rest", *self._fetched(assigned)))

    def _everything(self) -> list[Outcome]:
        """Read all committed records; their offsets have to be those that the log reported."""
        found: list[Outcome] = []
        for topic in self._names:
            for partition in range(PARTITIONS):
                where = self._place(topic, partition)
                records = list(self.world.reader.read(*where))
                assert [record.offset for record in records] == self._offsets(where), where
                assert all((record.topic, record.partition) == where for record in records)
                found.append(("in the end", topic, partition, *_contents(records)))
        return [*found, ("in the end", *(self._committed(assigned.shard) for assigned in self._assigned.values()))]


def _contents(records: Iterable[Record]) -> list[tuple[object, ...]]:
    """Return the contents of records; large values are replaced by size and checksum, so that outcomes are readable."""
    return [(record.key, _brief(record.value), record.headers) for record in records]


def _brief(value: bytes | None) -> object:
    return (len(value), crc32(value)) if value and len(value) > BRIEF_BYTES else value


def _refusal(call: Callable[[], Sequence[object]]) -> Outcome:
    """Return the result of a call, or the class of its refusal."""
    try:
        return tuple(call())
    except LogError as refusal:
        return (type(refusal).__name__,)
