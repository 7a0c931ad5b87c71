"""At least once: whatever is cut off, repeated or late, each command counts once in the state of its entity."""

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

from repertory.actors.shard.changelog import SeenRecord, ShardRecord
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.codec import encode_changelog_record
from repertory.bridge.log.record import Record
from repertory.bridge.nontransactional import CountingJournal
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem
from repertory.bridge.topics import SEEN_KEY
from repertory.verify import verify
from tests.actors.domain import Account, Close, Deposit, Pay, Router, Split, Teller, Trip, Withdraw
from tests.apps.mixed import NEWS, NEWS_SPEC, Paper, Print
from tests.bridge.test_loop import ALL, CRASHES, SENT, Crash, LoopHarness, Sent
from tests.support.logs.torn_log import TornBackend


class PlainWorld(LoopHarness):
    """A system that works at least once, on a log that is cut at every record."""

    kind_of_log = TornBackend
    backend: TornBackend

    def __init__(self, entities: Sequence[Any], *, partitions: int = 2, limits: Settings) -> None:
        limits = msgspec.structs.replace(limits, delivery="at-least-once")
        super().__init__(entities, partitions=partitions, limits=limits)

    def records(self, topic: str) -> Iterator[Record]:
        """Yield what counts of a topic: each cause once, of a journal only whole turns, of dead letters all."""
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
        """Return a shard's seat."""
        return self.running.loop.region.named(f"{entity}/{partition}")

    def switch(self, delivery: str) -> None:
        """Stop, and start in this mode."""
        limits = msgspec.structs.replace(self.system.settings, delivery=delivery)
        system = ActorSystem("bank", settings=limits)
        for entity, hosted in self.system.hosted.items():
            system.host(entity, partitions=hosted.partitions, supervise=hosted.policy)
        self.system = self.running.system = system
        self.running.crash()

    def tear(self, draw: random.Random, often: float) -> None:
        """Work until nothing is left; die before, between and behind a turn's records, and let some arrive late."""

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
                    for _ in range(draw.randrange(12)):  # The next owner may be anywhere by then.
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
    snapshot_window_records=st.integers(1, 40),
    seen_causes_max=st.integers(100, 300),
    deaths_max=st.just(1_000),  # Nobody dies of a command here.
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
    late: bool,  # noqa: FBT001  drawn
    nodes: int,
) -> None:
    """States, what waits, and each cause once are those of a run exactly once without a crash, up to the order of keys.

    What a dead worker had cut off may arrive later, at any time; another node may be careful with what was under way.
    """
    calm = LoopHarness(ALL, partitions=partitions, limits=Settings())
    torn = PlainWorld(ALL, partitions=partitions, limits=limits)
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


def same(calm: LoopHarness, torn: PlainWorld) -> None:
    """Compare what counts; then let what is late arrive, restore once more, and compare again."""
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
    """Draw a command; routers and tellers make others, that come to accounts, and answers that come back."""
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


@pytest.mark.parametrize("seed", range(int(os.environ.get("REPERTORY_PLAIN_SEEDS", "40"))))
def test_what_comes_twice_or_late_counts_once(seed: int) -> None:
    """Longer histories, in which workers die all the time in the midst of a turn and write on after their death."""
    draw = random.Random(f"plain {seed}")  # noqa: S311
    partitions = draw.randrange(1, 4)
    limits = Settings(
        batch_records_max=draw.randrange(1, 9), mailbox_records_max=draw.randrange(1, 12),
        snapshot_window_records=draw.choice([1, 10, 80, 1_000]), seen_causes_max=draw.choice([64, 400]),
    )  # fmt: skip
    calm = LoopHarness(ALL, partitions=partitions, limits=Settings())
    torn = PlainWorld(ALL, partitions=partitions, limits=limits)
    for _ in range(draw.randrange(1, 5)):
        sent = [command(draw) for _ in range(draw.randrange(5, 60))]
        calm.send(sent)
        torn.send(sent)
        torn.tear(draw, draw.choice([0.01, 0.05, 0.15]))
    same(calm, torn)


# --- what counts of a journal ---------------------------------------------------------------------------------


def event_at(offset: int, seq: int, epoch: int, turn: str = "", next_offset: int = -1) -> Record:
    """Return a journal record, as a plain turn has it if ``turn`` is given."""
    headers = [("seq", b"%d" % seq), ("version", b"1"), ("epoch", b"%d" % epoch)]
    if turn:
        headers.append(("turn", turn.encode()))
    if next_offset >= 0:
        headers.append(("next", b"%d" % next_offset))
    return Record("bank.account.events", 0, offset, b"k", b"", tuple(headers), 0)


def shard_record(**changes: Any) -> ShardRecord:
    """Return a shard record of an owner that works at least once."""
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
def test_what_counts(behind: tuple[Record, ...], expected: tuple[list[int], int, int]) -> None:
    """Below the shard record's seq the highest epoch, behind it whole turns of its own epoch without a gap."""
    assert counted(shard_record(), *OLD, *behind) == expected


def test_nothing_counts_behind_the_record_of_an_owner_that_works_exactly_once() -> None:
    """Its turns are transactions: what stands behind is of somebody that it replaced."""
    late = event_at(2, 2, 2, "0/1", 11)
    assert counted(shard_record(nontransactional=False), *OLD, late) == ([0, 1], 10, 2)


@pytest.mark.parametrize("turn", ["", "x", "2/2", "-1/2", "0/0"])
def test_a_record_that_no_shard_wrote_is_said(turn: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(DecodeError):
        counted(shard_record(), event_at(2, 2, 2, turn, 11))


# --- the mode -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delivery", ["at-most-once", "", "AT-LEAST-ONCE", 1])
def test_there_are_two_deliveries(delivery: Any) -> None:
    """Anything else is refused with a sentence that names both."""
    with pytest.raises(ValueError, match="'exactly-once' or 'at-least-once', not"):
        Settings(delivery=delivery)


def test_what_a_shard_remembers_of_a_sender_fits_one_record() -> None:
    """More is refused: the transaction that writes it down would fail for ever."""
    assert len(encode_changelog_record(SeenRecord(1, 0, (1 << 40, 1 << 31) * 50_000))) < 1_000_000
    with pytest.raises(ValueError, match="seen_causes_max must be at most 50000, not 50001"):
        Settings(seen_causes_max=50_001)


def test_the_mode_can_change_while_nothing_runs() -> None:
    """There and back again, in the middle of torn turns: everything still counts once."""
    draw = random.Random("switch")  # noqa: S311
    calm, torn = LoopHarness(ALL, limits=Settings()), PlainWorld(ALL, limits=Settings(batch_records_max=4))
    for delivery in ("exactly-once", "at-least-once", "exactly-once", "at-least-once", "exactly-once"):
        torn.switch(delivery)
        for _ in range(2):
            sent = [command(draw) for _ in range(40)]
            calm.send(sent)
            torn.send(sent)
            torn.tear(draw, 0.1)
    assert torn.backend.torn > 10
    same(calm, torn)


def test_exactly_once_pays_nothing() -> None:
    """A log that has only known exactly once has no epoch, no seen record and no header more than it had."""
    world = LoopHarness(ALL, limits=Settings())
    world.send([command(random.Random(n)) for n in range(60)])  # noqa: S311
    world.settle()
    for topic in world.topics():
        for record in world.records(topic):
            assert not {"epoch", "turn", "next"} & {name for name, _ in record.headers}
            assert not (record.key or b"").startswith(SEEN_KEY)
    assert all(
        assigned.shard is not None and assigned.shard._redelivery is None for assigned in world.running.loop.region
    )


def test_a_stateful_or_failing_turn_is_a_transaction() -> None:
    """Only what gives the same again goes without; dead letters come once, whatever dies."""
    world = PlainWorld(ALL, partitions=1, limits=Settings())
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


def test_much_that_journals_nothing_does_not_rest_on_one_turn() -> None:
    """Rejections leave no trace: after ``batch_records_max`` of them a transaction says where the shard stands."""
    world = PlainWorld([Account], partitions=1, limits=Settings(batch_records_max=10))
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


def torn_world(seed: int) -> PlainWorld:
    """Return a system whose workers have died in the midst of many turns."""
    draw = random.Random(f"verify {seed}")  # noqa: S311
    world = PlainWorld(ALL, partitions=2, limits=Settings(batch_records_max=5, snapshot_window_records=40))
    world.send([command(draw) for _ in range(120)])
    world.tear(draw, 0.08)
    return world


def failing(world: PlainWorld) -> set[str]:
    """Verify, and return the checks that fail."""
    return {check.name for check in verify(world.running.reader, world.system).checks if not check.ok}


@pytest.mark.parametrize("seed", range(8))
def test_verify_finds_nothing_wrong_with_what_stands_twice(seed: int) -> None:
    """Records that do not count, and messages that came again, are what this mode allows; commands count once."""
    world = torn_world(seed)
    report = verify(world.running.reader, world.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.fates["repeated"] > 0
    world.close()


def cut_world(**limits: Any) -> PlainWorld:
    """Return a system that died when a page was published, and nothing else of its turn was there yet."""
    world = PlainWorld([Paper], partitions=1, limits=Settings(**limits))
    world.backend.ensure([NEWS_SPEC])
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


def test_verify_excuses_what_has_left_before_its_command_is_handled() -> None:
    """A page is out, its command is still to be decided: that is no contradiction, now nor later."""
    world = cut_world()
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


def test_a_command_that_kills_may_have_sent_before_it_is_given_up() -> None:
    """It was decided, died of when it was decided again, and is dead in the end: what had left cannot come back."""
    world = cut_world(deaths_max=1)
    world.running.crash()
    world.running.loop._deaths = lambda _: [(1, 4_711)]
    world.settle()
    report = verify(world.running.reader, world.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    assert report.fates == {"applied": 1, "dead-lettered": 1}
    connection = world.backend._memory.connection()
    connection.execute("UPDATE record SET value = ? WHERE topic = 'bank.replies'", (encode(Deposit(amount=1)),))
    assert "decisions" in failing(world), "whoever asked was told otherwise"
    world.close()


def test_verify_tells_what_came_again_from_what_came_otherwise() -> None:
    """A second copy that says something else is found, and so is a message that was taken twice."""
    world = torn_world(0)
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
    assert "completeness" in failing(world), "without its cause it is a command that nobody handled"
    world.close()


def test_verify_misses_what_counts_and_nothing_else() -> None:
    """A journal record that does not count may go; of those that count none may."""
    world = torn_world(1)
    connection = world.backend._memory.connection()
    kept = {record.offset for record in world.counted("bank.account.events", 0)}
    all_offsets = [record.offset for record in world.running.reader.read("bank.account.events", 0)]
    others = [offset for offset in all_offsets if offset not in kept]
    delete = "DELETE FROM record WHERE topic = 'bank.account.events' AND partition = 0 AND offset = ?"
    connection.executemany(delete, [(offset,) for offset in others])
    assert others
    assert not failing(world)
    connection.execute(delete, (sorted(kept)[len(kept) // 2],))
    assert "single writer" in failing(world)
    world.close()
