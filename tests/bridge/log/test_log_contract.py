"""The guarantees of the port, on every log. Docstrings are the port's rules; a bug of one log becomes a test here."""

from __future__ import annotations

import pytest

from repertory.actors.headers import Headers
from repertory.bridge.log.errors import SlotTaken, TopicMismatch
from repertory.bridge.log.port import (
    Aborted,
    Append,
    Assigned,
    Claimed,
    Committed,
    Fenced,
    Fetched,
    Lost,
    Member,
    OutputsRefused,
    Replayed,
    TopicSpec,
    Transaction,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from tests.support.logs.log_driver import Driver, LogHarness


def fetched(driver: Driver, shard: TopicPartition, count: int) -> list[Record]:
    """Collect that many fetched records."""
    records: list[Record] = []
    while len(records) < count:
        records += driver.until(Fetched, shard).records
    return records


def replayed(driver: Driver, shard: TopicPartition, topic: str, bounds: tuple[int, int]) -> list[Record]:
    """Replay a range to its end."""
    driver.log.replay(shard, topic, *bounds)
    records: list[Record] = []
    while True:
        event = driver.until(Replayed, shard)
        assert event.topic == topic
        records += event.records
        if event.complete:
            return records


def committed(driver: Driver, transaction: Transaction) -> Committed:
    """Commit and wait for the outcome; repeat if a rebalance aborts the commit."""
    while True:
        driver.log.commit(transaction)
        outcome = driver.outcome(transaction.shard)
        if isinstance(outcome, Committed):
            return outcome
        assert isinstance(outcome, Aborted), outcome
        assert outcome.routine, outcome
        driver.claimed_again(transaction.shard)


def values(records: list[Record]) -> list[bytes | None]:
    return [record.value for record in records]


# --- topics ---------------------------------------------------------------------------------------------------


def test_ensure_makes_what_is_missing(bare_world: LogHarness) -> None:
    """``ensure`` creates the missing topics and returns their names; a second call creates none."""
    specs = [TopicSpec(bare_world.commands, 3, {}), TopicSpec(bare_world.events, 2, {})]
    assert list(bare_world.backend.ensure(specs[:1])) == [bare_world.commands]
    assert list(bare_world.backend.ensure(specs)) == [bare_world.events]
    assert list(bare_world.backend.ensure(specs)) == []
    topics = bare_world.backend.topics()
    assert (topics[bare_world.commands], topics[bare_world.events]) == (3, 2)


def test_ensure_refuses_another_partition_count(bare_world: LogHarness) -> None:
    """A topic with another partition count is a TopicMismatch whose sentence names the topic and both counts."""
    bare_world.backend.ensure([TopicSpec(bare_world.commands, 3, {})])
    with pytest.raises(TopicMismatch) as refusal:
        bare_world.backend.ensure([TopicSpec(bare_world.commands, 4, {})])
    before, after = str(refusal.value).split(bare_world.commands)
    assert "3" in after
    assert "4" in before + after
    assert bare_world.backend.topics()[bare_world.commands] == 3


def test_partition_count_of_an_unknown_topic(world: LogHarness) -> None:
    """The partition count of a topic that does not exist is None."""
    for port in (world.reader, world.join().log):
        assert port.partition_count("no.such.topic") is None
        assert port.partition_count(world.commands) == 2


# --- sharing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("members", [1, 2, 3])
def test_shares_cover_every_shard_once(bare_world: LogHarness, members: int) -> None:
    """Every shard is owned by exactly one member, and the shares are even."""
    bare_world.make(partitions=8)
    bare_world.settled(*[bare_world.join(slot) for slot in range(members)])


def test_shards_move_when_a_member_joins(world: LogHarness) -> None:
    """A member that joins gets a share, after its previous owner received ``Lost``."""
    first = world.join(0)
    world.settled(first)
    second = world.join(1)
    world.settled(first, second)


def test_shards_move_when_a_member_leaves(world: LogHarness) -> None:
    """The shards of a closed member are assigned to the others."""
    first, second = world.join(0), world.join(1)
    world.settled(first, second)
    second.close()
    world.settled(first)


def test_shards_move_when_a_member_withdraws_from_their_topic(world: LogHarness) -> None:
    """The others get them, after ``Lost``; who joins later under another slot shares them, and the member gets none."""
    first, second = world.join(0), world.join(1)
    world.settled(first, second)
    first.log.withdraw([world.commands])
    world.settled(second)
    assert not first.owned
    third = world.join(2)
    world.settled(second, third)
    assert not first.owned
    assert first.log.is_member


def test_a_topic_that_nobody_wants_waits_for_a_member_that_does(world: LogHarness) -> None:
    """Its shards have no owner meanwhile. The member that withdrew can be started again, and wants it again."""
    first, shard = world.working()
    first.log.withdraw([world.commands])
    world.until(lambda: not first.owned, lambda: f"the loss of {first.owned}")
    world.append(b"waits")
    second = world.join(1)
    world.settled(second)
    assert second.claimed(shard).committed is None
    first.close()
    third = world.join(0)
    world.settled(second, third)


def test_a_member_that_withdraws_before_it_joins_gets_nothing(world: LogHarness) -> None:
    """Its first poll joins without the topic."""
    early, other = world.join(0), world.join(1)
    early.log.withdraw([world.commands])
    world.settled(other)
    world.until(lambda: early.log.is_member, lambda: "membership")
    assert not early.owned


def test_a_closed_slot_is_free(world: LogHarness) -> None:
    """A closed member releases its slot and its shards."""
    first = world.join(0)
    world.settled(first)
    first.close()
    world.settled(world.join(0))


def test_a_live_slot_is_taken(world: LogHarness) -> None:
    """A second live worker with the same node and slot is refused, with the option that mends it; the first goes on."""
    first, shard = world.working()
    duplicate = world.backend.log(Member(world.group, "here", 0), [world.commands])
    with pytest.raises(SlotTaken, match=r"slot 0 of node 'here' .* is held by .* another name: --node NAME"):
        duplicate.poll(5.0)
    duplicate.close()
    committed(first, world.transaction(shard, 0))


# --- claiming -------------------------------------------------------------------------------------------------


def test_a_first_claim_finds_nothing_committed(world: LogHarness) -> None:
    """Before the first commit ``committed`` is None, and the bounds and ends are those of the partitions."""
    world.append(b"a", b"b", b"c")
    claimed = world.join().claimed(world.shard(), world.events, world.state)
    assert (claimed.committed, claimed.start_offset, claimed.end_offset) == (None, 0, 3)
    assert dict(claimed.ends) == {world.events: 0, world.state: 0}


def test_a_topic_has_an_id_of_its_own(world: LogHarness) -> None:
    """A claim and a reader give the same id for each topic, no two are equal, and a topic that is missing has none."""
    claimed = world.join().claimed(world.shard(), world.events, world.state)
    assert claimed.ids.keys() == {world.commands, world.events, world.state}
    assert len(set(claimed.ids.values())) == 3
    assert world.reader.topic_ids([*claimed.ids, f"{world.events}-missing"]) == claimed.ids


def test_a_claim_finds_what_was_committed(world: LogHarness) -> None:
    """A claim returns the committed next offset and the ends after it, to the next owner too."""
    world.append(b"a", b"b", b"c")
    first, shard = world.working()
    committed(first, world.transaction(shard, 2, b"x"))
    again = first.claimed_again(shard, world.events)
    assert (again.committed, again.ends[world.events] >= 1) == (2, True)
    first.close()
    after = world.join(1).claimed(shard, world.events)
    assert (after.committed, after.ends[world.events] >= 1) == (2, True)


def test_a_second_claim_voids_the_first(world: LogHarness) -> None:
    """After ``claim`` no event of earlier requests arrives: no fetch and no replay, until they are requested again."""
    world.append(*[b"%d" % i for i in range(3_000)])
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    fetched(driver, shard, 1)
    driver.claimed_again(shard)
    for _ in range(20):
        driver.poll()
    assert driver.said(shard) == []
    driver.log.begin(shard, 2_999)
    assert values(fetched(driver, shard, 1)) == [b"2999"]


def test_a_claim_voids_a_commit_outcome_that_was_not_read(world: LogHarness) -> None:
    """A claim right after a commit returns the committed state, and the commit's own outcome is not delivered."""
    driver, shard = world.working()
    driver.log.commit(world.transaction(shard, 5, b"x"))
    claimed = driver.claimed_again(shard, world.events)
    assert claimed.committed in (None, 5)
    for _ in range(20):
        driver.poll()
    assert driver.said(shard) == []
    assert values(world.read(world.events)) == ([] if claimed.committed is None else [b"x"])


# --- reading --------------------------------------------------------------------------------------------------


def test_offsets_follow_the_order_of_appends(world: LogHarness) -> None:
    """The records of a partition are in the order of their appends, at the offsets returned."""
    offsets = [*world.append(b"a", b"b"), *world.append(b"c")]
    assert offsets == sorted(set(offsets))
    records = world.read(world.commands)
    assert [(record.offset, record.value) for record in records] == [*zip(offsets, (b"a", b"b", b"c"), strict=True)]
    assert world.read(world.commands, 1) == []


def test_fetched_is_contiguous(world: LogHarness) -> None:
    """Commands arrive in offset order from the given offset on, without gaps or repeats, and so do later appends."""
    world.append(*[b"%d" % i for i in range(2_500)])
    driver, shard = world.working()
    driver.log.begin(shard, 7)
    records = fetched(driver, shard, 2_493)
    world.append(b"2500", b"2501")
    records += fetched(driver, shard, 2)
    assert [record.offset for record in records] == [*range(7, 2_502)]
    assert values(records) == [b"%d" % i for i in range(7, 2_502)]


def test_shards_are_fetched_separately(world: LogHarness) -> None:
    """Each shard receives the records of its own partition."""
    driver = world.join()
    for partition in (0, 1):
        world.append(b"%d" % partition, partition=partition)
        driver.claimed(world.shard(partition))
        driver.log.begin(world.shard(partition), 0)
    for partition in (0, 1):
        assert values(fetched(driver, world.shard(partition), 1)) == [b"%d" % partition]


def test_nothing_is_fetched_before_begin(world: LogHarness) -> None:
    """A claimed shard receives no commands before ``begin``."""
    world.append(b"a")
    driver, shard = world.working()
    for _ in range(20):
        driver.poll()
    assert driver.said(shard) == []


def test_pause_and_resume(world: LogHarness) -> None:
    """While paused nothing is fetched; after ``resume`` every record arrives once."""
    world.append(b"a")
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    records = fetched(driver, shard, 1)
    driver.log.pause(shard)
    driver.log.pause(shard)
    world.append(b"b", b"c")
    for _ in range(20):
        driver.poll()
    assert driver.said(shard) == []
    driver.log.resume(shard)
    driver.log.resume(shard)
    assert values(records + fetched(driver, shard, 2)) == [b"a", b"b", b"c"]


def test_pausing_in_the_middle_loses_nothing(world: LogHarness) -> None:
    """Pausing after every batch loses and repeats nothing."""
    world.append(*[b"%d" % i for i in range(5_000)])
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    records: list[Record] = []
    while len(records) < 5_000:
        records += driver.until(Fetched, shard).records
        driver.log.pause(shard)
        driver.poll()
        driver.log.resume(shard)
    assert [record.offset for record in records] == [*range(5_000)]


# --- replaying ------------------------------------------------------------------------------------------------


def test_a_replay_ends_at_its_bounds(world: LogHarness) -> None:
    """A replay returns the committed records from one offset up to another, in order, and says when it is complete."""
    offsets = world.append(*[b"%d" % i for i in range(3_000)], topic=world.events)
    driver, shard = world.working()
    records = replayed(driver, shard, world.events, (offsets[10], offsets[2_900]))
    assert values(records) == [b"%d" % i for i in range(10, 2_900)]
    assert [record.offset for record in records] == [*offsets[10:2_900]]


@pytest.mark.parametrize("bounds", [(0, 0), (2, 2)])
def test_an_empty_replay_is_complete(world: LogHarness, bounds: tuple[int, int]) -> None:
    """A replay of an empty range is complete without records."""
    world.append(b"a", b"b", topic=world.events)
    driver, shard = world.working()
    assert replayed(driver, shard, world.events, bounds) == []


def test_a_replay_to_the_end_of_transactions(world: LogHarness) -> None:
    """A replay up to ``Claimed.ends`` is complete, even if the last offsets are transaction markers."""
    driver, shard = world.working()
    for i in range(3):
        committed(driver, world.transaction(shard, i, b"%d" % i))
    end = driver.claimed_again(shard, world.events, world.state).ends
    assert values(replayed(driver, shard, world.events, (0, end[world.events]))) == [b"0", b"1", b"2"]
    assert replayed(driver, shard, world.state, (0, end[world.state])) == []


def test_a_replay_of_markers_alone(world: LogHarness) -> None:
    """A range that contains only transaction markers is complete without records."""
    driver, shard = world.working()
    last = committed(driver, world.transaction(shard, 1, b"x")).first_offsets[world.events]
    end = driver.claimed_again(shard, world.events).ends[world.events]
    assert replayed(driver, shard, world.events, (last + 1, end)) == []


def test_commands_are_fetched_after_replays(world: LogHarness) -> None:
    """Several topics are replayed one after another, then commands are fetched."""
    world.append(b"event", topic=world.events)
    world.append(b"state", topic=world.state)
    world.append(b"command")
    driver = world.join()
    ends = driver.claimed(world.shard(), world.events, world.state).ends
    assert values(replayed(driver, world.shard(), world.events, (0, ends[world.events]))) == [b"event"]
    assert values(replayed(driver, world.shard(), world.state, (0, ends[world.state]))) == [b"state"]
    driver.log.begin(world.shard(), 0)
    assert values(fetched(driver, world.shard(), 1)) == [b"command"]


# --- committing -----------------------------------------------------------------------------------------------


def test_a_commit_covers_all_its_topics(world: LogHarness) -> None:
    """A transaction writes all its records and the next offset, and returns the first offset of each topic."""
    world.append(b"old", topic=world.state)
    driver, shard = world.working()
    outputs = [
        Output(world.events, 0, b"k", b"e1"),
        Output(world.state, 0, b"k", b"s1"),
        Output(world.events, 0, b"k", b"e2"),
        Output(world.commands, 1, b"k", b"tell"),
    ]
    first = committed(driver, Transaction(shard, 3, outputs)).first_offsets
    assert set(first) == {world.events, world.state, world.commands}
    assert values(list(world.reader.read(world.events, 0, first[world.events]))) == [b"e1", b"e2"]
    assert values(list(world.reader.read(world.state, 0, first[world.state]))) == [b"s1"]
    assert values(list(world.reader.read(world.commands, 1, first[world.commands]))) == [b"tell"]
    assert world.reader.committed(world.group, *shard) == 3


def test_a_shard_receives_what_it_tells_itself(world: LogHarness) -> None:
    """Records that a shard commits to its own commands are fetched like all others."""
    driver, shard = world.working()
    driver.log.begin(shard, 0)
    committed(driver, Transaction(shard, 0, [Output(world.commands, 0, b"k", b"tell")]))
    assert values(fetched(driver, shard, 1)) == [b"tell"]


def test_the_next_offset_alone_can_be_committed(world: LogHarness) -> None:
    """A transaction may have no records, and may repeat the next offset."""
    driver, shard = world.working()
    assert world.reader.committed(world.group, *shard) is None
    for next_offset in (0, 4, 4):
        assert committed(driver, Transaction(shard, next_offset, [])).first_offsets == {}
        assert world.reader.committed(world.group, *shard) == next_offset
    assert world.reader.committed(world.group, world.commands, 1) is None
    assert world.reader.committed("another-group", *shard) is None


def test_commits_of_one_shard_follow_each_other(world: LogHarness) -> None:
    """The records of one commit precede those of the next."""
    driver, shard = world.working()
    for i in range(20):
        committed(driver, world.transaction(shard, i + 1, b"%d" % i))
    assert values(world.read(world.events)) == [b"%d" % i for i in range(20)]


def test_many_records_in_one_transaction(world: LogHarness) -> None:
    """Five thousand records in one transaction are all written, in order."""
    driver, shard = world.working()
    many = [b"%d" % i for i in range(5_000)]
    committed(driver, world.transaction(shard, 1, *many))
    assert values(world.read(world.events)) == many


def test_bytes_survive(world: LogHarness) -> None:
    """Keys, values and headers are read as they were written: None, empty, binary, repeated names, large."""
    every_byte = bytes(range(256))
    headers: Headers = (("name", b"1"), ("name", b""), ("bytes", every_byte), ("ünïcode", "ü".encode()))
    contents: list[tuple[bytes | None, bytes | None, Headers]] = [
        (None, None, ()),
        (b"", b"", headers),
        (every_byte, every_byte, (("", b""),)),
        (b"tombstone", None, headers),
        (None, every_byte * 3_500, ()),
    ]
    outputs = [Output(world.events, 0, key, value, headers) for key, value, headers in contents]
    world.appender.append(outputs)
    driver, shard = world.working()
    committed(driver, Transaction(shard, 0, outputs))
    read = [(record.key, record.value, tuple(record.headers)) for record in world.read(world.events)]
    assert read == contents * 2


@pytest.mark.parametrize(("topic", "partition"), [("gone", 0), ("events", 2), ("events", -1), ("{}.gone", 0)])
def test_a_missing_partition_refuses_the_whole_transaction(world: LogHarness, topic: str, partition: int) -> None:
    """If a topic of others is missing, its records are named. Nothing is written."""
    driver, shard = world.working()
    place = TopicPartition(world.events if topic == "events" else topic.format(world.group), partition)
    outputs = [Output(world.events, 0, b"k", b"x"), Output(*place, b"k", b"y")]
    driver.log.commit(Transaction(shard, 9, outputs))
    if topic != "gone":
        assert str(place) in driver.until(Aborted, shard).reason
    else:
        refused = driver.until(OutputsRefused, shard)
        assert str(place) in refused.reason
        assert (list(refused.outputs), refused.all_refused) == (outputs[1:], True)
    assert world.read(world.events) == world.read(world.events, 1) == []
    assert world.reader.committed(world.group, *shard) is None
    driver.claimed_again(shard)
    committed(driver, world.transaction(shard, 1, b"z"))


def test_a_missing_topic_aborts_a_claim(world: LogHarness) -> None:
    """A claim that names a topic which does not exist is aborted; the shard stays assigned and can be claimed again."""
    driver, shard = world.working()
    driver.log.claim(shard, [world.events, f"{world.group}.no-such-topic"])
    driver.until(Aborted, shard)
    driver.claimed_again(shard, world.events)
    committed(driver, world.transaction(shard, 1))


@pytest.mark.parametrize(("topic", "partition"), [("no-such-topic", 0), ("events", 2), ("events", -1)])
def test_a_missing_partition_is_not_appended_to(world: LogHarness, topic: str, partition: int) -> None:
    """An append to a partition that does not exist is a TopicMismatch that names it, and nothing is appended."""
    name = world.events if topic == "events" else f"{world.group}.{topic}"
    outputs = [Output(world.events, 0, b"k", b"x"), Output(name, partition, b"k", b"y")]
    with pytest.raises(TopicMismatch, match=f"{name}/{partition}"):
        world.appender.append(outputs)
    assert world.read(world.events) == world.read(world.events, 1) == []
    assert f"{world.group}.no-such-topic" not in world.backend.topics()


@pytest.mark.parametrize(("topic", "partition"), [("no-such-topic", 0), ("events", 2), ("events", -1)])
def test_a_missing_partition_is_not_read(world: LogHarness, topic: str, partition: int) -> None:
    """Reading or following a partition that does not exist is a TopicMismatch; it has no committed offset."""
    name = world.events if topic == "events" else f"{world.group}.{topic}"
    for call in (
        lambda: world.reader.bounds(name, partition),
        lambda: world.reader.read(name, partition),
        lambda: world.reader.follow(name, {partition: 0}, timeout_s=1.0),
    ):
        with pytest.raises(TopicMismatch, match=f"{name}/{partition}"):
            call()
    assert world.reader.committed(world.group, name, partition) is None


# --- fencing --------------------------------------------------------------------------------------------------


def test_a_sleeper_is_fenced(short_lease: LogHarness) -> None:
    """Once another member has claimed the shard, an old owner's commit is ``Fenced`` and writes nothing."""
    world = short_lease
    old, shard = world.working(slot=0)
    committed(old, world.transaction(shard, 1, b"old"))
    old.asleep = True
    new = world.join(1)
    assert new.claimed(shard, world.events).committed == 1
    old.log.commit(world.transaction(shard, 2, b"late"))
    old.asleep = False
    old.until(Fenced, shard)
    old.is_supervised = new.is_supervised = True
    world.settled(old, new)  # The sleeper is a member again, so the shares may change.
    owner = new if shard in new.owned else old
    end = owner.claimed(shard, world.events).ends[world.events]
    assert values(replayed(owner, shard, world.events, (0, end))) == [b"old"]
    committed(owner, world.transaction(shard, 2, b"new"))
    assert values(world.read(world.events)) == [b"old", b"new"]


def test_a_sleeper_that_was_replaced_commits_nothing(short_lease: LogHarness) -> None:
    """Not even before its successor has claimed the shard: that the shard was given to another has ended it."""
    world = short_lease
    old, shard = world.working(slot=0)
    committed(old, world.transaction(shard, 1, b"old"))
    old.asleep = True
    new = world.join(1)
    world.until(lambda: shard in new.owned, lambda: f"{shard} among {new.owned}")
    old.log.commit(world.transaction(shard, 2, b"late"))
    old.asleep, old.is_supervised, new.is_supervised = False, True, True

    def ended() -> bool:
        return any(isinstance(event, Fenced | Aborted | Lost) for event in old.said(shard))

    world.until(ended, lambda: f"the end of {shard}, but only {old.pending}")
    assert values(world.read(world.events)) == [b"old"]


def test_a_sleeper_rejoins(short_lease: LogHarness) -> None:
    """A member that slept past its lease joins again and works, and receives ``Lost`` for what it has no more.

    On Kafka librdkafka may join again before it hears that it was removed. Then the group leaves one shard with the
    sleeper, or fences it, and its supervisor starts it again; shards may move meanwhile, and it claims what it gets.
    """
    world = short_lease
    old = world.join(0)
    world.settled(old)
    old.asleep = True
    new = world.join(1)
    world.settled(new)
    old.asleep, old.is_supervised, new.is_supervised = False, True, True
    lost: list[TopicPartition] = []

    def works() -> bool:
        events, old.pending = old.pending, []
        for event in events:
            match event:
                case Lost(shard):
                    lost.append(shard)
                case Claimed(shard, committed=offset):
                    old.log.commit(world.transaction(shard, (offset or 0) + 1))
                case Committed() if lost:
                    return True
                case Assigned(shard) | Aborted(shard) | Committed(shard):
                    old.log.claim(shard, ())
                case _:
                    pass
        return False

    world.until(works, lambda: f"a commit after {lost} were lost")


def test_nothing_comes_after_lost(world: LogHarness) -> None:
    """After ``Lost`` no event of the shard arrives until it is assigned again, although its partition has records."""
    driver = world.join(0)
    for shard in world.shards():
        world.append(*[b"%d" % i for i in range(100)], partition=shard.partition)
        driver.claimed(shard)
        driver.log.begin(shard, 0)
    other = world.join(1)
    lost = driver.until(Lost).shard
    driver.pending.clear()
    world.settled(driver, other)
    world.append(b"later", partition=lost.partition)
    for _ in range(20):
        driver.poll()
    assert driver.said(lost) == []


# --- readers --------------------------------------------------------------------------------------------------


def test_a_reader_knows_the_bounds(world: LogHarness) -> None:
    """The bounds of a partition are its first offset and the end of its committed records."""
    assert world.reader.bounds(world.commands, 0) == (0, 0)
    world.append(b"a", b"b")
    assert world.reader.bounds(world.commands, 0) == (0, 2)


def test_a_read_stops_where_the_log_ended(world: LogHarness) -> None:
    """A read returns the records present at the call, from an offset on, and stops."""
    world.append(*[b"%d" % i for i in range(2_500)])
    read = world.reader.read(world.commands, 0, 3)
    world.append(b"later")
    assert values(list(read)) == [b"%d" % i for i in range(3, 2_500)]
    assert list(world.reader.read(world.commands, 0, 2_501)) == []


def test_follow_goes_on_where_it_stopped(world: LogHarness) -> None:
    """Calls that wait for nothing, each of which takes one record, have all records in order, each of them once."""
    for partition in range(2):
        world.append(*[b"%d" % number for number in range(20)], partition=partition)
    positions = {0: 0, 1: 0}
    found: dict[int, list[bytes | None]] = {0: [], 1: []}

    def followed() -> bool:
        for record in world.reader.follow(world.commands, positions, timeout_s=0.0):
            positions[record.partition] = record.offset + 1
            found[record.partition].append(record.value)
            break
        return sum(map(len, found.values())) >= 40

    world.until(followed, lambda: f"only {found} were followed")
    assert found == {partition: [b"%d" % number for number in range(20)] for partition in range(2)}


def test_follow_returns_later_appends(world: LogHarness) -> None:
    """``follow`` returns present records and later appends; it stops when no record arrives within the timeout."""
    world.append(b"0", b"1")
    world.append(b"other", partition=1)
    found: list[Record] = []
    for record in world.reader.follow(world.commands, {0: 1, 1: 0}, timeout_s=2.0):
        found.append(record)
        if record.value == b"1":
            world.append(b"2")
    assert list(world.reader.follow(world.commands, {}, timeout_s=1.0)) == []
    assert sorted((record.partition, record.offset, record.value) for record in found) == [
        (0, 1, b"1"),
        (0, 2, b"2"),
        (1, 0, b"other"),
    ]


# --- without a transaction --------------------------------------------------------------------------------------


def appended(driver: Driver, append: Append) -> Committed:
    """Append and wait for the outcome; repeat if a rebalance aborts the append."""
    while True:
        driver.log.append(append)
        outcome = driver.outcome(append.shard)
        if isinstance(outcome, Committed):
            return outcome
        assert isinstance(outcome, Aborted), outcome
        driver.claimed_again(append.shard)


def test_an_append_writes_all_records_and_returns_offsets(world: LogHarness) -> None:
    """Outputs and journal are written in order, and the first offset of each topic is returned, as for a commit."""
    world.append(b"old", topic=world.events)
    driver, shard = world.working()
    outputs = [Output(world.commands, 1, b"k", b"tell-1"), Output(world.commands, 1, b"k", b"tell-2")]
    journal = [Output(world.events, 0, b"k", b"e1"), Output(world.events, 0, b"k", b"e2")]
    first = appended(driver, Append(shard, 3, outputs, journal)).first_offsets
    assert set(first) == {world.events, world.commands}
    assert values(list(world.reader.read(world.events, 0, first[world.events]))) == [b"e1", b"e2"]
    assert values(list(world.reader.read(world.commands, 1, first[world.commands]))) == [b"tell-1", b"tell-2"]


def test_the_groups_offset_follows_appends(world: LogHarness) -> None:
    """Observers soon see the offset of an append, also after a commit in between, and of an append without records."""
    driver, shard = world.working()

    def follows(next_offset: int) -> None:
        world.until(lambda: world.reader.committed(world.group, *shard) == next_offset, lambda: f"offset {next_offset}")

    appended(driver, Append(shard, 2, (), [Output(world.events, 0, b"k", b"a")]))
    follows(2)
    appended(driver, Append(shard, 3, (), ()))
    committed(driver, world.transaction(shard, 4, b"b"))
    follows(4)
    appended(driver, Append(shard, 7, [Output(world.events, 0, b"k", b"c")], ()))
    follows(7)
    assert values(world.read(world.events)) == [b"a", b"b", b"c"]


def test_the_groups_offset_follows_under_load(world: LogHarness) -> None:
    """The offset also follows if the next append is always in progress when the log is polled."""
    driver, shard = world.working()
    for _ in range(5_000):
        appended(driver, Append(shard, 2, (), [Output(world.events, 0, b"k", b"a")]))
        if world.reader.committed(world.group, *shard) == 2:
            return
    raise AssertionError("the group has no offset after 5,000 appends")


def test_a_successor_reads_what_was_appended(world: LogHarness) -> None:
    """The ends of a claim include appended records, and a replay returns them."""
    first, shard = world.working()
    appended(first, Append(shard, 1, (), [Output(world.events, 0, b"k", b"%d" % n) for n in range(5)]))
    first.close()
    second = world.join(1)
    claimed = second.claimed(shard, world.events)
    found = replayed(second, shard, world.events, (0, claimed.ends[world.events]))
    assert values(found) == [b"%d" % n for n in range(5)]
