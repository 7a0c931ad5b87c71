"""At least once: each command counts once in its entity's state, even if records are torn, repeated or late."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.actors.shard.changelog import SEEN_KEY, SeenRecord, ShardRecord, encode_changelog_record
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import CountingJournal
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem
from repertory.verify import verify
from tests.actors.domain import Account, Close, Deposit, Pay, Router, Split, Teller, Trip, Withdraw
from tests.apps.mixed import NEWS, Paper, Print
from tests.apps.mixed import system as mixed
from tests.bridge.test_loop import ALL, CRASHES, SENT, Crash, LoopHarness, Sent
from tests.support.logs.torn_log import TornBackend


class NontransactionalHarness(LoopHarness):
    """A system with at-least-once delivery, on a log whose appends can be torn at every record."""

    kind_of_log = TornBackend
    backend: TornBackend

    def __init__(self, entities: Sequence[Any], *, partitions: int = 2, limits: Settings, **more: Any) -> None:
        limits = msgspec.structs.replace(limits, delivery="at-least-once")
        super().__init__(entities, partitions=partitions, limits=limits, **more)

    def records(self, topic: str) -> Iterator[Record]:
        """Yield the records that count: each cause once, of a journal only whole turns, all dead letters."""
        causes = set()
        for partition in range(self.running.reader.partition_count(topic) or 0):
            records: Any = self.running.reader.read(topic, partition)
            if topic.endswith(".events"):
                records = self.counted(topic, partition)
            for record in records:
                cause = None if topic == "bank.dead-letters" else record.header("cause")
                if cause is None or cause not in causes:
                    causes.add(cause)
                    yield record

    def counted(self, topic: str, partition: int) -> list[Record]:
        """Return the records of a journal that count."""
        shard = self.assigned(topic.removeprefix("bank.").removesuffix(".events"), partition).shard
        assert shard is not None
        counted = CountingJournal(shard.record, 0)
        for record in self.running.reader.read(topic, partition):
            counted.add(record)
        return counted.settle()[0]

    def assigned(self, entity: str, partition: int) -> Any:
        """Return an assigned shard by its entity and partition."""
        return self.running.loop.region.named(f"{entity}/{partition}")

    def switch(self, delivery: str) -> None:
        """Restart the system with another delivery."""
        limits = msgspec.structs.replace(self.system.settings, delivery=delivery)
        system = ActorSystem("bank", settings=limits, publishes=self.system.publishes)
        for entity, hosted in self.system.hosted.items():
            system.host(entity, partitions=hosted.partitions, supervise=hosted.policy)
        self.system = self.running.system = system
        self.running.crash()

    def tear(self, draw: random.Random, often: float) -> None:
        """Work until nothing is left; crash before, between and after a turn's records, and let some arrive late."""

        def fault(point: str) -> None:
            if draw.random() < (often if point.startswith("append") else often / 20):
                raise Crash

        while True:
            self.running.on_kill_point = fault
            try:
                self.restore()
                self.running.settle(timeout_s=3_600)
            except Crash:
                self.running.on_kill_point = None
                self.running.crash()
                late = self.backend.late
                if draw.random() < 0.5:
                    for _ in range(draw.randrange(12)):  # The next owner may be in any phase by then.
                        self.running.tick()
                    self.backend.late = late[: draw.randrange(len(late) + 1)]
                    self.backend.arrive()
                elif draw.random() < 0.3:
                    late.clear()
            else:
                self.running.on_kill_point = None
                return


SMALL = st.builds(
    Settings,
    batch_records_max=st.integers(1, 5),
    mailbox_records_max=st.integers(1, 6),
    snapshot_window_bytes_max=st.just(1),
    snapshot_window_records=st.integers(1, 40),
    seen_causes_max=st.integers(100, 300),
    deaths_max=st.just(1_000),  # Crashes here are not caused by a command.
)


@given(
    chunks=st.lists(SENT, min_size=1, max_size=3),
    crashes=CRASHES,
    partitions=st.integers(1, 3),
    limits=SMALL,
    late=st.booleans(),
    nodes=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_crashes_between_any_two_records_change_nothing_that_counts(
    chunks: list[list[Sent]],
    crashes: list[int],
    partitions: int,
    limits: Settings,
    late: bool,  # noqa: FBT001  drawn by Hypothesis
    nodes: int,
) -> None:
    """States, stashed commands, and each cause once equal those of an exactly-once run without crashes.

    The order of keys may differ. Records of a crashed worker may arrive later, at any time; another node may guard the
    commands that were in progress.
    """
    calm = LoopHarness(ALL, partitions=partitions, limits=Settings())
    torn = NontransactionalHarness(ALL, partitions=partitions, limits=limits)
    if nodes:
        torn.running.owner = "node-0"
        torn.running.crash()
    for sent in chunks:
        calm.send(sent)
        torn.send(sent)
        torn.settle(crashes[: len(crashes) // 2], nodes=nodes)
        if late:
            torn.backend.arrive()
    torn.settle(crashes[len(crashes) // 2 :], nodes=nodes)
    same(calm, torn)


def same(calm: LoopHarness, torn: NontransactionalHarness) -> None:
    """Compare the records that count; then let late records arrive, restore once more, and compare again."""
    calm.settle()
    expected, found = calm.seen(), torn.seen()
    for name, value in expected.items():
        assert found[name] == value, name
    torn.backend.arrive()
    torn.running.crash()
    torn.restore()
    torn.settle()
    assert torn.seen() == found
    calm.close()
    torn.close()


def command(draw: random.Random) -> Sent:
    """Draw a command; routers and tellers send further commands to accounts, and receive their replies."""
    amount, asked = draw.randrange(1, 9), draw.random() < 0.3
    match draw.randrange(10):
        case 0 | 1 | 2 | 3:
            return (Router, draw.choice("rs"), Deposit(amount=3 * amount), False)
        case 4 | 5:
            return (Account, draw.choice("abc"), Deposit(amount=amount), asked)
        case 6:
            return (Account, draw.choice("abc"), Split(amounts=(amount,) * draw.randrange(4)), asked)
        case 7:
            return (Account, draw.choice("abc"), Withdraw(amount=20), asked)
        case 8:
            key = draw.choice("tu")
            return (Teller, key, Pay(account=f"till-{key}", amount=-amount), asked)
    return (Account, draw.choice("abc"), draw.choice([Close(), Trip(times=draw.randrange(3))]), asked)


@pytest.mark.parametrize("seed", range(int(os.environ.get("REPERTORY_NONTRANSACTIONAL_SEEDS", "40"))))
def test_repeated_and_late_records_count_once(seed: int) -> None:
    """Longer histories, in which workers often crash within a turn, and their records arrive after the crash."""
    draw = random.Random(f"plain {seed}")  # noqa: S311
    partitions = draw.randrange(1, 4)
    limits = Settings(
        batch_records_max=draw.randrange(1, 9), mailbox_records_max=draw.randrange(1, 12),
        snapshot_window_records=draw.choice([1, 10, 80, 1_000]), seen_causes_max=draw.choice([64, 400]),
    )  # fmt: skip
    calm = LoopHarness(ALL, partitions=partitions, limits=Settings())
    torn = NontransactionalHarness(ALL, partitions=partitions, limits=limits)
    for _ in range(draw.randrange(1, 5)):
        sent = [command(draw) for _ in range(draw.randrange(5, 60))]
        calm.send(sent)
        torn.send(sent)
        torn.tear(draw, draw.choice([0.01, 0.05, 0.15]))
    same(calm, torn)


# --- which journal records count ------------------------------------------------------------------------------


def event_at(offset: int, seq: int, epoch: int, turn: str = "", next_offset: int = -1) -> Record:
    """Return a journal record, that of a nontransactional turn if ``turn`` is given."""
    headers = [("seq", b"%d" % seq), ("version", b"1"), ("epoch", b"%d" % epoch)]
    if turn:
        headers.append(("turn", turn.encode()))
    if next_offset >= 0:
        headers.append(("next", b"%d" % next_offset))
    return Record("bank.account.events", 0, offset, b"k", b"", tuple(headers), 0)


def shard_record(**changes: Any) -> ShardRecord:
    """Return a shard record of an owner with at-least-once delivery."""
    begun = ShardRecord(next=10, seq=2, tail_start=0, tail_offset=0, changelog=1, epoch=2, nontransactional=True)
    return msgspec.structs.replace(begun, **changes)


def counted(record: ShardRecord, *records: Record) -> tuple[list[int], int, int]:
    """Return the offsets that count, the next command and the next seq."""
    found = CountingJournal(record, 0)
    for each in records:
        found.add(each)
    kept, after = found.settle()
    return [each.offset for each in kept], after.next, after.seq


OLD = (event_at(0, 0, 1, "0/2"), event_at(1, 1, 1, "1/2", 10))


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        ((), ([0, 1], 10, 2)),
        ((event_at(2, 2, 2, "0/2"), event_at(3, 3, 2, "1/2", 14)), ([0, 1, 2, 3], 14, 4)),
        ((event_at(2, 2, 2, "0/2"),), ([0, 1], 10, 2)),
        ((event_at(3, 3, 2, "1/2", 14),), ([0, 1], 10, 2)),
        ((event_at(2, 2, 2, "0/1", 11), event_at(4, 4, 2, "0/1", 13)), ([0, 1, 2], 11, 3)),
        ((event_at(2, 2, 1, "0/1", 11),), ([0, 1], 10, 2)),
        ((event_at(2, 2, 1, "0/1", 99), event_at(3, 2, 2, "0/1", 12)), ([0, 1, 3], 12, 3)),
        ((event_at(2, 1, 2), event_at(3, 0, 1, "0/1", 7)), ([0, 2], 10, 2)),
    ],
    ids=["nothing", "a whole turn", "no end", "no beginning", "a gap", "an older owner", "both owners", "late, below"],
)  # fmt: skip
def test_which_journal_records_count(behind: tuple[Record, ...], expected: tuple[list[int], int, int]) -> None:
    """Below the shard record's seq the highest epoch counts, after it whole turns of its own epoch without a gap."""
    assert counted(shard_record(), *OLD, *behind) == expected


def test_nothing_counts_after_the_shard_record_of_an_exactly_once_owner() -> None:
    """Its turns are transactions: journal records after its shard record are those of an owner that it replaced."""
    late = event_at(2, 2, 2, "0/1", 11)
    assert counted(shard_record(nontransactional=False), *OLD, late) == ([0, 1], 10, 2)


@pytest.mark.parametrize("turn", ["", "x", "2/2", "-1/2", "0/0"])
def test_a_record_that_no_shard_wrote_is_a_decode_error(turn: str) -> None:
    """Invalid headers are reported, not guessed."""
    with pytest.raises(DecodeError):
        counted(shard_record(), event_at(2, 2, 2, turn, 11))


# --- the delivery setting -------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["at-most-once", "", "AT-LEAST-ONCE", 1])
def test_there_are_two_deliveries(delivery: Any) -> None:
    """Any other value is refused with a sentence that names both."""
    with pytest.raises(ValueError, match='"exactly-once" or "at-least-once", not'):
        Settings(delivery=delivery)


def test_the_causes_seen_from_a_sender_fit_one_record() -> None:
    """A larger setting is refused: the transaction that writes the seen record would always fail."""
    assert len(encode_changelog_record(SeenRecord(1, 0, (1 << 40, 1 << 31) * 50_000))) < 1_000_000
    with pytest.raises(ValueError, match="seen_causes_max must be a whole number from 1 to 50,000, not 50001"):
        Settings(seen_causes_max=50_001)


def test_the_delivery_can_change_while_no_worker_runs() -> None:
    """It changes several times, between torn turns, and each command still counts once."""
    draw = random.Random("switch")  # noqa: S311
    calm, torn = LoopHarness(ALL, limits=Settings()), NontransactionalHarness(ALL, limits=Settings(batch_records_max=4))
    for delivery in ("exactly-once", "at-least-once", "exactly-once", "at-least-once", "exactly-once"):
        torn.switch(delivery)
        for _ in range(2):
            sent = [command(draw) for _ in range(40)]
            calm.send(sent)
            torn.send(sent)
            torn.tear(draw, 0.1)
    assert torn.backend.torn > 10
    same(calm, torn)


def test_exactly_once_writes_nothing_additional() -> None:
    """A log that has only been used exactly once has no epoch, no seen record and no additional header."""
    world = LoopHarness(ALL, limits=Settings())
    world.send([command(random.Random(n)) for n in range(60)])  # noqa: S311
    world.settle()
    for topic in world.topics():
        for record in world.records(topic):
            assert not {"epoch", "turn", "next"} & {name for name, _ in record.headers}
            assert not (record.key or b"").startswith(SEEN_KEY)
    assert all(
        assigned.shard is not None and assigned.shard._intake.redelivery is None
        for assigned in world.running.loop.region
    )
    world.close()


def test_a_stateful_or_failing_turn_is_a_transaction() -> None:
    """Only turns that give the same result again need no transaction; dead letters come once, whatever crashes."""
    world = NontransactionalHarness(ALL, partitions=1, limits=Settings())
    appended: list[str] = []
    for sent, appends in (
        ((Account, "a", Deposit(amount=1), True), True),
        ((Account, "a", Withdraw(amount=99), True), True),
        ((Account, "a", Trip(times=1, error="resume"), False), False),
        ((Account, "a", b"?", True), False),
        ((Teller, "t", Trip(times=0), True), False),
    ):
        appended.clear()
        world.send([sent])
        world.restore()
        world.running.on_kill_point = appended.append
        world.running.settle()
        assert ("appending" in appended) == appends, sent
    world.close()


def test_turns_that_journal_nothing_are_followed_by_a_transaction() -> None:
    """Rejections leave no record: after ``batch_records_max`` of them a transaction records the shard's position."""
    world = NontransactionalHarness([Account], partitions=1, limits=Settings(batch_records_max=10))
    for _ in range(60):
        world.send([(Account, "a", Withdraw(amount=1), True)])
        world.settle()
    world.running.crash()
    world.restore()
    again = world.assigned("account", 0).shard.record.next
    assert 60 - 20 <= again < 60
    world.settle()
    assert len(list(world.running.reader.read("bank.replies", 3))) == 60 + 60 - again
    world.close()


# --- verify ---------------------------------------------------------------------------------------------------


def torn_harness(seed: int) -> NontransactionalHarness:
    """Return a system whose workers have crashed within many turns."""
    draw = random.Random(f"verify {seed}")  # noqa: S311
    world = NontransactionalHarness(
        ALL, partitions=2, limits=Settings(batch_records_max=5, snapshot_window_bytes_max=1, snapshot_window_records=40)
    )
    world.send([command(draw) for _ in range(120)])
    world.tear(draw, 0.08)
    return world


def failing(world: NontransactionalHarness) -> set[str]:
    """Verify, and return the names of the checks that fail."""
    return {check.name for check in verify(world.running.reader, world.system).checks if not check.ok}


@pytest.mark.parametrize("seed", range(8))
def test_verify_accepts_repeated_records(seed: int) -> None:
    """Records that do not count, and repeated messages, are allowed at least once; commands count once."""
    world = torn_harness(seed)
    report = verify(world.running.reader, world.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.fates["repeated"] > 0
    world.close()


def harness_with_a_torn_turn(**limits: Any) -> NontransactionalHarness:
    """Return a system that crashed after a page was published, and before any other record of its turn."""
    world = NontransactionalHarness([Paper], partitions=1, limits=Settings(**limits), publishes=mixed.publishes)
    world.send([(Paper, "p", Print(page=1), True)])
    world.settle()
    world.send([(Paper, "p", Print(page=2), True)])
    appends: list[str] = []

    def second(point: str) -> None:
        appends.append(point)
        if appends.count("appending") == 2:
            raise Crash

    world.running.on_kill_point = second
    with pytest.raises(Crash):
        world.running.settle()
    world.running.on_kill_point = None
    return world


def test_verify_accepts_outputs_of_a_command_that_is_not_handled_yet() -> None:
    """A page is published while its command is still to be handled: that is no contradiction, now or later."""
    world = harness_with_a_torn_turn()
    report = verify(world.running.reader, world.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.fates == {"applied": 1, "not handled yet": 1}
    world.running.crash()
    world.settle()
    assert verify(world.running.reader, world.system).fates == {"applied": 2}
    assert Counter(record.value for record in world.records(NEWS)) == {b"page 1": 1, b"page 2": 1}
    news = [record.value for partition in (0, 1) for record in world.running.reader.read(NEWS, partition)]
    assert news.count(b"page 2") == 2
    world.close()


def test_a_command_that_kills_may_have_sent_outputs_before_it_is_dead_lettered() -> None:
    """It was decided once, killed the process when decided again, and is dead-lettered: its outputs stay published."""
    world = harness_with_a_torn_turn(deaths_max=1)
    world.running.crash()
    world.running.loop._deaths = lambda _: [(1, 4_711)]
    world.settle()
    report = verify(world.running.reader, world.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.fates == {"applied": 1, "dead-lettered": 1}
    connection = world.backend._memory.connection()
    connection.execute("UPDATE record SET value = ? WHERE topic = 'bank.replies'", (encode(Deposit(amount=1)),))
    assert "decisions" in failing(world), "the reply says otherwise"
    world.close()


def test_verify_distinguishes_repeated_from_altered_messages() -> None:
    """A second copy with another value is found, and so is a message that was handled twice."""
    world = torn_harness(0)
    connection = world.backend._memory.connection()
    places: dict[bytes | None, list[Record]] = {}
    for partition in range(2):
        for record in world.running.reader.read("bank.account.commands", partition):
            places.setdefault(record.header("cause"), []).append(record)
    again = next(found[1] for cause, found in places.items() if cause is not None and len(found) > 1)
    place = (again.topic, again.partition, again.offset)
    alter = "UPDATE record SET value = ?, headers = ? WHERE topic = ? AND partition = ? AND offset = ?"
    connection.execute(alter, (encode(Deposit(amount=99)), msgspec.msgpack.encode(again.headers), *place))
    assert "duplicates" in failing(world)
    connection.execute(alter, (again.value, None, *place))
    assert "completeness" in failing(world), "without its cause it is a command that was never handled"
    world.close()


def test_verify_misses_only_journal_records_that_count() -> None:
    """A journal record that does not count may be missing; none of those that count may."""
    others: list[int] = []
    for seed in range(20):
        world = torn_harness(seed)
        kept = {record.offset for record in world.counted("bank.account.events", 0)}
        all_offsets = [record.offset for record in world.running.reader.read("bank.account.events", 0)]
        if others := [offset for offset in all_offsets if offset not in kept]:
            break
        world.close()
    connection = world.backend._memory.connection()
    delete = "DELETE FROM record WHERE topic = 'bank.account.events' AND partition = 0 AND offset = ?"
    connection.executemany(delete, [(offset,) for offset in others])
    assert others
    assert not failing(world)
    connection.execute(delete, (sorted(kept)[len(kept) // 2],))
    assert "single writer" in failing(world)
    world.close()
