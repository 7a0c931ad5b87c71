"""One partition of a source: what it does next after each thing that can happen to it."""

from __future__ import annotations

from repertory.actors import headers
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.sources.partition import SourcePartition, SourcePhase
from repertory.bridge.sources.position import DEADLY, SourcePlace, SourcePosition, SourceStop
from repertory.bridge.sources.refused_records import RefusedRecords
from repertory.bridge.sources.relay import Relayed
from repertory.bridge.sources.relay_shard import RelayShard
from tests.apps import fed

SOURCE = fed.made("fed").sources["lines"]
PLACE = SourcePlace("lines", fed.TOPIC, 0)
FOUND = Surveyed("id", [(0, 9)])
START = SourcePosition(4, "id", 1)


def partition(position: SourcePosition | None = START) -> SourcePartition:
    """Return a partition whose relay was claimed."""
    return SourcePartition(SOURCE, PLACE, position)


def surveyed(found: SourcePartition, topic: Surveyed | None = FOUND, now_ms: int = 0) -> SourcePartition:
    """Have the topic surveyed."""
    found.surveyed(topic, lambda: 0, now_ms)
    return found


def records(*offsets: int) -> list[Record]:
    """Return records of these offsets."""
    return [Record(fed.TOPIC, 0, offset, None, b"12345", (), 0) for offset in offsets]


def stopped(found: SourcePartition) -> str:
    """Return why it has stopped, "" if it has not."""
    assert found.position is not None
    return "" if found.position.stopped is None else found.position.stopped.what


def test_the_first_position_is_written_before_anything_is_read() -> None:
    """Else a start at the end would leave out what comes before the first commit."""
    found = surveyed(partition(None))
    assert (found.phase, found.is_dirty, found.position) == (SourcePhase.READING, True, SourcePosition(0, "id", 1, 0))
    assert surveyed(partition(None), None).position is None


def test_records_from_before_the_position_are_not_taken() -> None:
    """Nor are those that wait already; and what waits is counted in bytes."""
    found = surveyed(partition())
    assert not found.is_dirty
    found.fetched(records(2, 3, 4, 6))
    found.fetched(records(6, 7))
    assert [record.offset for record in found.pending] == [4, 6, 7]
    assert found.pending_bytes == 15


def test_what_waits_is_dropped_with_every_stop_and_fetched_anew() -> None:
    """A partition is followed from its position on whenever it is read again."""
    found = surveyed(partition())
    found.is_followed = True
    found.fetched(records(4, 5))
    stop = SourceStop("failed", "why", offset=4)
    assert found.relayed(Relayed(PLACE, SourcePosition(4, "id", 1, stopped=stop)), now_ms=0)
    assert (found.phase, found.pending, found.is_followed) == (SourcePhase.STOPPED, (), False)
    found.fetched(records(5))
    assert found.pending == ()


def test_it_is_tried_again_with_growing_pauses() -> None:
    """A stop at the same record is not written again; each try takes twice as long as the one before."""
    found = surveyed(partition())
    stop = SourceStop("failed", "why", offset=4, since_ms=7)
    found.relayed(Relayed(PLACE, SourcePosition(4, "id", 1, stopped=stop)), now_ms=0)
    pauses = []
    for _ in range(8):
        before_ms = found.retry_at_ms
        found.due(before_ms - 1)
        assert found.phase is SourcePhase.STOPPED
        found.due(before_ms)
        surveyed(found, now_ms=before_ms)
        assert (found.phase, stopped(found)) == (SourcePhase.READING, "failed")
        again = SourceStop("failed", "why", offset=4, since_ms=9)
        assert not found.relayed(Relayed(PLACE, SourcePosition(4, "id", 1, stopped=again)), now_ms=before_ms)
        pauses.append(found.retry_at_ms - before_ms)
    assert pauses == [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000, 60_000]


def test_a_record_that_is_relayed_ends_the_pauses() -> None:
    """The next stop is tried again as soon as a first one."""
    found = surveyed(partition())
    for offset in (4, 5):
        stop = SourceStop("failed", "why", offset=offset)
        found.relayed(Relayed(PLACE, SourcePosition(offset, "id", 1, stopped=stop)), now_ms=0)
        assert found.retry_at_ms == 1_000
        found.due(1_000)
        surveyed(found)
        found.fetched(records(offset))
        found.relayed(Relayed(PLACE, SourcePosition(offset + 1, "id", 1), records=1), now_ms=1_000)


def test_an_operator_hears_of_a_stop_once() -> None:
    """And again of another one."""
    found = surveyed(partition())
    assert found.news() == []
    surveyed(found, None)
    (incident,) = found.news()
    assert (incident.where, incident.outcome) == ("source lines fed-lines/0", "source-stopped")
    assert found.news() == []
    found.due(found.retry_at_ms)
    surveyed(found, Surveyed("other", [(0, 9)]))
    assert "created again" in found.news()[0].reason


def test_a_place_that_the_log_does_not_give_stops_although_the_topic_is_well() -> None:
    """Else it would be asked for again without end, and nobody would hear of it."""
    found = surveyed(partition())
    found.unfollowed("not authorized")
    surveyed(found)
    assert (found.phase, stopped(found)) == (SourcePhase.STOPPED, "unreadable")
    assert found.news()[0].reason == "fed-lines/0 cannot be read: not authorized"
    found.due(found.retry_at_ms)
    assert surveyed(found).phase is SourcePhase.READING
    found.unfollowed("out of range")
    surveyed(found, Surveyed("id", [(7, 9)]))
    assert stopped(found) == "lost"


def test_a_deadly_record_is_not_tried_by_itself() -> None:
    """Each try would be another death."""
    stop = SourceStop(DEADLY, "why", offset=4)
    found = surveyed(partition(SourcePosition(4, "id", 1, stopped=stop)))
    assert found.phase is SourcePhase.STOPPED
    found.due(found.retry_at_ms)
    assert surveyed(found).phase is SourcePhase.STOPPED


def test_a_log_that_does_not_answer_stops_what_is_to_begin_and_nothing_else() -> None:
    """What is read already has no records meanwhile, and needs no stop."""
    found = partition()
    found.unreachable("no answer", 0)
    assert (found.phase, stopped(found)) == (SourcePhase.STOPPED, "unreachable")
    found.due(found.retry_at_ms)
    assert surveyed(found).phase is SourcePhase.READING
    found.unreachable("no answer", 0)
    assert (found.phase, stopped(found)) == (SourcePhase.READING, "")


def test_each_turn_begins_with_another_partition() -> None:
    """One with a backlog may fill a transaction: the others must not wait until it has none."""
    shard = RelayShard(TopicPartition("fed.sources", 0), [], 0.0)
    shard.partitions = {SourcePlace("lines", fed.TOPIC, number): partition() for number in (0, 1, 2)}
    turns = [[place.partition for place, _ in shard._in_turn()] for _ in range(4)]
    assert turns == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]


def test_a_retry_forgets_what_the_log_refused() -> None:
    """The topic may take larger records now."""
    refusals = RefusedRecords()
    command = Output("fed.book.commands", 0, b"a", b"x", ((headers.SOURCE, b"lines/0/7/0"),))
    assert refusals.blame(OutputsRefused(TopicPartition("fed.sources", 0), [command], "too large", all_refused=True), 1)
    assert refusals.refused(PLACE) == {7: "too large"}
    refusals.forget(PLACE)
    assert refusals.refused(PLACE) == {}
