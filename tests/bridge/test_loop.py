"""The message path: crashes change nothing that a reader sees, and a failing key or shard does not stop the others."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory import Backoff, Directive, Entity, Message, Policy, Strategy, restart
from repertory.actors.entity import resolved
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import ShardRecord
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_state
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.loop import DOUBTS_MAX
from repertory.bridge.recovery import Recovery
from repertory.bridge.region import RegionEscalated
from repertory.bridge.system.running import Running
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem
from tests.actors.domain import Account, Close, Deposit, Escalating, Pay, Router, Split, Teller, Trip, Withdraw


class TickingClock:
    """Advances a little at each reading: nothing sleeps, and every timeout passes."""

    def __init__(self) -> None:
        self._now_ms = 0

    def _tick(self) -> int:
        self._now_ms += 1
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds since the beginning of the test."""
        return self._tick() / 1000

    def epoch_ms(self) -> int:
        """A moment in 2023, advancing a little at each reading."""
        return 1_700_000_000_000 + self._tick()


class Crash(Exception):
    """Ends the worker at this point."""


POLICY = restart(
    max_restarts=2,
    within_s=36_000,
    backoff=Backoff(first_s=0.02, factor=1, max_s=0.02, jitter=0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP, Escalating: Directive.ESCALATE},
)

#: Parks no key. For entities with more than one sender: the order of their commands, and so their budget, may vary.
PATIENT = msgspec.structs.replace(POLICY, max_restarts=1_000)

#: (entity, key, message or raw bytes, whether the sender asks for a reply)
Sent = tuple[type[Entity], str, Message | bytes, bool]


def without_offsets(value: bytes | None) -> str:
    """Return a message without the offset of a parked command, which depends on other senders to the partition."""
    return re.sub("by command [0-9]+", "", str(msgspec.msgpack.decode(value or b"")))


class LoopHarness:
    """A system in memory with its own clock."""

    kind_of_log: type[EmbeddedBackend] = EmbeddedBackend

    def __init__(
        self,
        entities: Sequence[type[Entity]],
        *,
        partitions: int = 2,
        limits: Settings,
        policy: Policy = POLICY,
        **more: Any,
    ) -> None:
        self.system = ActorSystem("bank", settings=limits, **more)
        for entity in entities:
            self.system.host(entity, partitions=partitions, supervise=policy if entity is Account else PATIENT)
        clock = TickingClock()
        self.backend = self.kind_of_log("memory:", limits, clock=clock)
        self.running = Running(self.system, self.backend, clock)
        self.appender = self.backend.appender()
        self.partitions = partitions
        self._asked = 0

    def send(self, sent: Sequence[Sent]) -> None:
        """Append commands as a client does."""
        outputs = []
        for entity, key, message, asked in sent:
            topic = f"bank.{resolved(entity).name}.commands"
            data = message if isinstance(message, bytes) else encode(message)
            partition = partition_of(key.encode(), self.partitions)
            headers: tuple[tuple[str, bytes], ...] = ()
            if asked:
                headers = (("reply-to", b"bank.replies/3"), ("correlation-id", b"%d" % self._asked))
                self._asked += 1
            outputs.append(Output(topic, partition, key.encode(), data, headers))
        self.appender.append(outputs)

    def records(self, topic: str) -> Iterator[Record]:
        """Yield all records of a topic."""
        for partition in range(self.running.reader.partition_count(topic) or 0):
            yield from self.running.reader.read(topic, partition)

    def topics(self) -> list[str]:
        """Name all topics of the system."""
        return [spec.name for spec in self.system.topic_specs()]

    def seen(self) -> dict[str, Any]:
        """Return everything that must not depend on crashes, batches, limits and the interleaving of keys."""
        found: dict[str, Any] = {}
        for hosted in self.system.hosted.values():
            name = hosted.behaviour.name
            events: dict[bytes | None, list[Any]] = {}
            for record in self.records(f"bank.{name}.events"):
                events.setdefault(record.key, []).append((record.value, record.header("version")))
            found[f"{name} events"] = events
            found[f"{name} states"] = self.states(name, journaled=hosted.behaviour.journaled)
        found["told"] = Counter(
            (topic, record.key, without_offsets(record.value))
            for topic in self.topics() if topic.endswith(".commands")
            for record in self.records(topic) if record.header("cause")
        )  # fmt: skip
        found["replies"] = Counter(
            (r.header("correlation-id"), without_offsets(r.value)) for r in self.records("bank.replies")
        )
        found["dead letters"] = Counter(
            (r.key, r.value, r.header("error-type"), r.header("attempts")) for r in self.records("bank.dead-letters")
        )
        found["memory"] = sorted(
            (str(assigned.config.id), key, cell.data, cell.version if assigned.config.behaviour.journaled else 0)
            for assigned in self.running.loop.region if assigned.shard
            for key, cell in assigned.shard.cells.items() if cell.version
        )  # fmt: skip
        found["stashed"] = sorted(
            (str(each.config.id), key, [(w.envelope.value, w.record.attempt) for w in each.shard.stash.queue(key)])
            for each in self.running.loop.region if each.shard
            for key in each.shard.stash
        )  # fmt: skip
        return found

    def states(self, name: str, *, journaled: bool) -> dict[bytes | None, bytes | None]:
        """Return the latest state of each stateful entity; when a journaled one is snapshotted depends on batches."""
        found: dict[bytes | None, bytes | None] = {}
        for record in self.records(f"bank.{name}.state"):
            if not (record.key or b"").startswith(b"\0") and not journaled:
                found[record.key] = decode_state(record.value).snapshot if record.value else None
        return {key: snapshot for key, snapshot in found.items() if snapshot is not None}

    def causes(self) -> list[bytes]:
        """Return the causes of all records in the log."""
        found = [record.header("cause") for topic in self.topics() for record in self.records(topic)]
        return [cause for cause in found if cause is not None]

    def settle(self, crashes: Sequence[int] = (), *, nodes: int = 0) -> int:
        """Work until nothing is left, crashing at the n-th kill point for each n; return the number of crashes.

        ``nodes``: so many named nodes take turns, each after a crash of the one before it; 0: nodes without names.
        """
        left = list(crashes)
        countdown = [left.pop(0) if left else -1]

        def fault(_point: str) -> None:
            countdown[0] -= 1
            if countdown[0] == 0:
                raise Crash

        self.running.on_kill_point = fault
        crashed = 0
        while True:
            try:
                self.restore()
                self.running.settle(timeout_s=3_600)
            except Crash:
                crashed += 1
                if nodes:
                    self.running.owner = f"node-{crashed % nodes}"
                countdown[0] = left.pop(0) if left else -1
                self.running.crash()
            else:
                self.running.on_kill_point = None
                return crashed

    def restore(self) -> None:
        """Work until every shard is restored: ``settle`` does not see stashed commands of shards that are not."""
        shards = len(self.system.hosted) * self.partitions
        while sum(assigned.shard is not None for assigned in self.running.loop.region) < shards:
            self.running.tick()

    def close(self) -> None:
        """Close the system."""
        self.running.close()


amounts = st.integers(1, 9)
#: Each account has one sender: otherwise the order of its commands would not be determined.
ACCOUNTS = st.tuples(
    st.just(Account),
    st.sampled_from(["a", "b", "c"]),
    st.one_of(
        st.builds(Deposit, amount=amounts),
        st.builds(Withdraw, amount=st.integers(1, 20)),
        st.builds(Split, amounts=st.lists(amounts, max_size=3).map(tuple)),
        st.just(Close()),
        st.builds(Trip, times=st.integers(0, 3), error=st.sampled_from(["restart", "resume", "stop"])),
        st.just(b"\xc1"),
    ),
    st.booleans(),
)
TELLERS = st.tuples(
    st.just(Teller),
    st.sampled_from(["t", "u"]),
    st.one_of(
        st.builds(Pay, account=st.sampled_from(["till"]), amount=st.integers(-9, 9)),
        st.builds(Trip, times=st.integers(0, 2), error=st.sampled_from(["restart"])),
        st.builds(Trip, times=st.just(1), error=st.just("resume")),
        st.just(b"?"),
    ),
    st.booleans(),
)
ROUTERS = st.tuples(
    st.just(Router),
    st.sampled_from(["r", "s"]),
    st.one_of(st.builds(Deposit, amount=amounts), st.builds(Trip, times=st.integers(0, 2))),
    st.booleans(),
)


def own_till(sent: Sent) -> Sent:
    """Give each teller its own till."""
    entity, key, message, asked = sent
    return (entity, key, Pay(account=f"till-{key}", amount=message.amount), asked) if isinstance(message, Pay) else sent


SENT = st.lists(st.one_of(ACCOUNTS, TELLERS, ROUTERS).map(own_till), min_size=1, max_size=30)
#: Kill points between one crash and the next.
CRASHES = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 80)), max_size=25)
ALL = (Account, Teller, Router)
CALM = Settings()


@given(
    chunks=st.lists(SENT, min_size=1, max_size=3),
    crashes=CRASHES,
    partitions=st.integers(1, 3),
    limits=st.builds(
        Settings,
        batch_records_max=st.integers(1, 5),
        mailbox_records_max=st.integers(1, 6),
        snapshot_window_bytes_max=st.just(1),
        snapshot_window_records=st.integers(1, 6),
    ),
)
@settings(max_examples=120, deadline=None)
def test_crashes_change_nothing_that_a_reader_sees(
    chunks: list[list[Sent]], crashes: list[int], partitions: int, limits: Settings
) -> None:
    """Wherever workers crash, the committed topics equal those of a run without faults, up to the order of keys."""
    calm = LoopHarness(ALL, partitions=partitions, limits=CALM)
    faulty = LoopHarness(ALL, partitions=partitions, limits=limits)
    for sent in chunks:
        calm.send(sent)
        faulty.send(sent)
        faulty.settle(crashes[: len(crashes) // 2])
    faulty.settle(crashes[len(crashes) // 2 :])
    calm.settle()
    expected, found = calm.seen(), faulty.seen()
    for name, value in expected.items():
        assert found[name] == value, name
    causes = faulty.causes()
    assert len(causes) == len(set(causes))
    faulty.running.crash()
    faulty.settle()
    assert faulty.seen() == found
    calm.close()
    faulty.close()


@given(sent=SENT, crashes=CRASHES, nodes=st.integers(1, 3), batch=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_crashing_nodes_change_nothing_that_a_reader_sees(
    sent: list[Sent], crashes: list[int], nodes: int, batch: int
) -> None:
    """Whichever node takes over, and whichever commands it guards, the commits equal those of a run without faults."""
    calm = LoopHarness(ALL, limits=CALM)
    faulty = LoopHarness(
        ALL, limits=Settings(batch_records_max=batch, deaths_max=1_000)
    )  # Crashes here are not caused by a command.
    for world in (calm, faulty):
        world.send(sent)
    faulty.running.owner = "node-0"
    faulty.running.crash()
    faulty.settle(crashes, nodes=nodes)
    calm.settle()
    expected, found = calm.seen(), faulty.seen()
    for name, value in expected.items():
        assert found[name] == value, name
    causes = faulty.causes()
    assert len(causes) == len(set(causes))
    calm.close()
    faulty.close()


@given(
    sent=st.lists(
        st.tuples(
            st.just(Account),
            st.sampled_from(["a", "b", "c"]),
            st.one_of(st.builds(Deposit, amount=amounts), st.builds(Trip, times=st.integers(0, 2))),
            st.booleans(),
        ),
        max_size=40,
    ),
    crashes=CRASHES,
    per_key=st.integers(1, 3),
    per_shard=st.integers(1, 4),
)
@settings(max_examples=30, deadline=None)
def test_limits_and_crashes_lose_nothing(sent: list[Sent], crashes: list[int], per_key: int, per_shard: int) -> None:
    """With the smallest limits the shards stall and continue, and their result is that of a run without the limits.

    Nothing is parked: a parked key would fill the stash until an operator retries or drops it.
    """
    limits = Settings(
        stash_per_key_max=per_key, stash_per_shard_max=per_shard, mailbox_records_max=2, batch_records_max=2
    )
    calm = LoopHarness([Account], limits=CALM, policy=PATIENT)
    tight = LoopHarness([Account], limits=limits, policy=PATIENT)
    for world in (calm, tight):
        world.send(sent)
    calm.settle()
    tight.settle(crashes)
    assert tight.seen() == calm.seen()
    calm.close()
    tight.close()


def test_a_transaction_is_all_or_nothing_at_each_point() -> None:
    """One crash, at any point of the path, changes nothing."""
    sent: list[Sent] = [
        (Account, "a", Deposit(amount=5), True),
        (Account, "w", Trip(times=1), True),
        (Teller, "t", Pay(account="till", amount=1), True),
        (Router, "r", Deposit(amount=1), False),
    ]
    calm = LoopHarness(ALL, limits=CALM)
    calm.send(sent)
    calm.settle()
    expected = calm.seen()
    for point in range(1, 60):
        world = LoopHarness(ALL, limits=CALM)
        world.send(sent)
        world.settle([point])
        assert world.seen() == expected, point
        world.close()
    calm.close()


def test_a_failing_key_does_not_stop_others() -> None:
    """While the commands of a key are stashed or parked, all other keys and entities are served."""
    world = LoopHarness(ALL, partitions=1, limits=Settings(batch_records_max=3))
    world.send([(Account, "bad", Trip(error="stop"), False), *[(Account, "bad", Deposit(amount=1), False)] * 5])
    world.send([(Account, f"good-{number}", Deposit(amount=1), False) for number in range(10)])
    world.settle()
    served = {record.key for record in world.records("bank.account.events")}
    assert served == {f"good-{number}".encode() for number in range(10)}
    assert world.running.loop.counts.applied == 10
    world.close()


def test_a_full_mailbox_pauses_its_partition_and_loses_nothing() -> None:
    """A burst far larger than the mailbox is handled in order, while the partition is paused and resumed."""
    world = LoopHarness([Account], partitions=1, limits=Settings(mailbox_records_max=4, batch_records_max=1))
    world.send([(Account, "a", Deposit(amount=number), False) for number in range(1, 300)])
    world.settle()
    amounts_seen = [msgspec.msgpack.decode(r.value or b"")["amount"] for r in world.records("bank.account.events")]
    assert amounts_seen == list(range(1, 300))
    world.close()


def test_a_shard_that_keeps_failing_stops_its_worker() -> None:
    """A failure that escalates restarts the shard; beyond the shards' budget the loop raises RegionEscalated."""
    shards = restart(max_restarts=3, within_s=3_600, backoff=Backoff(first_s=0.01, max_s=0.01, jitter=0))
    world = LoopHarness([Account], limits=CALM, shards=shards)
    world.send([(Account, "a", Deposit(amount=1), False), (Account, "a", Trip(error="escalate"), False)])
    with pytest.raises(RegionEscalated, match="Escalating"):
        world.running.settle(timeout_s=3_600)
    assert len(list(world.records("bank.account.events"))) == 1
    world.close()


@pytest.mark.parametrize("strategy", [Strategy.ALL_FOR_ONE, Strategy.REST_FOR_ONE])
def test_siblings_are_restarted_while_their_commits_are_in_flight(strategy: Strategy) -> None:
    """A shard that restarts together with another is restored, even if its own commit has just been sent."""
    shards = restart(max_restarts=3, within_s=3_600, backoff=Backoff(first_s=0.01, max_s=0.01, jitter=0))
    world = LoopHarness([Teller, Account], partitions=1, limits=CALM, shards=shards, shard_strategy=strategy)
    world.settle()
    # Shards take their turns in a fixed order: the account's commit is sent, then the teller fails.
    world.send([(Account, "a", Deposit(amount=1), False), (Teller, "t", Trip(error="escalate"), False)])
    with pytest.raises(RegionEscalated, match="Escalating"):
        world.running.settle(timeout_s=3_600)
    world.close()


def test_siblings_are_in_the_order_of_hosting() -> None:
    """In whatever order shards are assigned: as ``rest_for_one`` means it, by ``host()``, then by partition."""
    system = ActorSystem("bank")
    for entity in (Teller, Account):
        system.host(entity, partitions=2)
    names = ["teller/0", "teller/1", "account/0", "account/1"]
    for order in itertools.permutations(names):
        region = system.region(system.topology(lambda _: 2))
        for name in order:
            entity_name, _, partition = name.partition("/")
            region.add(TopicPartition(f"bank.{entity_name}.commands", int(partition)), 0.0)
        assert [child.name for child in region.tree.children] == names


def test_settle_after_a_crash_includes_stashed_commands() -> None:
    """A command that is stashed until a restart is settled too, even if the worker that stashed it has crashed."""
    world = LoopHarness([Account], partitions=1, limits=CALM)
    world.send([(Account, "w", Trip(times=1), False)])
    while not any(assigned.shard and assigned.shard.stash.size for assigned in world.running.loop.region):
        world.running.tick()
    for _ in range(3):
        world.running.tick()
    world.running.crash()
    world.running.settle()
    assert len(list(world.records("bank.account.events"))) == 2
    world.close()


def test_an_absent_offset_is_written_again() -> None:
    """A group whose offsets expired has them again once its shards are restored; lag is computed from them."""
    world = LoopHarness([Account], partitions=1, limits=CALM)
    world.send([(Account, "a", Deposit(amount=1), False)])
    world.settle()
    store = world.running._log._store  # type: ignore[attr-defined]
    with store.write() as connection:
        connection.execute("UPDATE shard SET next_offset = NULL")
    world.running.crash()
    world.restore()
    for _ in range(5):
        world.running.tick()
    committed = world.running.reader.committed("bank", "bank.account.commands", 0)
    world.close()
    assert committed == 1


@pytest.mark.parametrize(("incomplete_reads", "runs"), [(DOUBTS_MAX, True), (DOUBTS_MAX + 1, False)])
def test_a_contradiction_is_read_again_before_it_stops_the_shard(
    monkeypatch: pytest.MonkeyPatch, *, incomplete_reads: int, runs: bool
) -> None:
    """A broker that has just restarted may not show all records yet; a contradiction that persists stops the shard."""
    world = LoopHarness([Account], partitions=1, limits=CALM)
    world.send([(Account, "a", Deposit(amount=1), False)])
    world.settle()
    world.running.crash()
    reads = 0
    checked_record = Recovery._checked_record

    def checked(recovery: Recovery) -> ShardRecord:
        nonlocal reads
        reads += 1
        if reads <= incomplete_reads:
            recovery._record = None
        return checked_record(recovery)

    monkeypatch.setattr(Recovery, "_checked_record", checked)
    for _ in range(5_000):  # The clock advances at each reading.
        world.running.tick()
    (assigned,) = world.running.loop.region
    assert (assigned.shard is not None, reads) == (runs, DOUBTS_MAX + 1)
    world.close()


@pytest.mark.parametrize("limits", [Settings(session_timeout_s=0.297), Settings(turn_time_max_s=0.0248)])
def test_slow_handlers_end_a_turn_early(limits: Settings) -> None:
    """A batch takes no longer than its time: its answers are committed, the log is polled, stop requests are seen."""
    world = LoopHarness([Account], limits=limits)
    world.send([(Account, f"k{number}", Deposit(amount=1), False) for number in range(100)])
    handled = [0]
    while handled[-1] < 100:
        world.running.loop.tick(0.0)
        handled.append(world.running.loop.counts.applied)
    # The clock of this test advances a millisecond per command; two shards share just under 50 ms.
    assert max(after - before for before, after in itertools.pairwise(handled)) <= 50
    assert len(handled) > 3
    world.close()


def test_a_handler_slower_than_any_share_is_still_handled() -> None:
    """A turn handles at least one command, however slow its handler is."""
    world = LoopHarness([Account], partitions=1, limits=Settings(session_timeout_s=0.001))
    world.send([(Account, "k", Deposit(amount=1), False)] * 5)
    world.running.settle()
    assert world.running.loop.counts.applied == 5
    world.close()
