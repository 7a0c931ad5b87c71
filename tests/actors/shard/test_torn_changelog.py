"""A changelog of which records are gone: those that compaction may remove make no difference, any other is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from repertory.actors.shard.config import Limits
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.record import Record
from tests.actors.shard.bench import Bench
from tests.actors.shard.test_answers import NOW_MS, Hold, Pay, Release, Teller, Till, own

MESSAGES = st.sampled_from([Pay(amount=5), Pay(amount=-1), Pay(amount=13), Hold(), Release()])
#: A command of one of two keys, with one of few ids or none, and whether the turn ends behind it.
STEPS = st.lists(
    st.tuples(MESSAGES, st.sampled_from(["k", "l"]), st.none() | st.integers(0, 5), st.booleans()),
    min_size=1,
    max_size=15,
)


def written(steps: list[tuple[Any, str, int | None, bool]], *, window: int, kept: int) -> Bench:
    """Return a bench with the changelog of some turns: states, stashed commands, answers, and tombstones of each."""
    teller = Teller(answers_per_shard_max=kept)
    bench = teller.bench = Bench(
        Till,
        policy=teller.bench.config.policy,
        limits=Limits(answers_per_shard_max=kept, snapshot_window_records=window),
    )
    for message, key, number, ends in steps:
        if number is None:
            bench.tell(message, key)
        else:
            teller.ask(message, own(str(number), NOW_MS + number), key)
        if ends:
            bench.run()
    return bench.run()


def picture(bench: Bench) -> object:
    """Return what a restored shard knows."""
    shard = bench.restored()
    parked = {key: [held.record for held in shard.stash.queue(key)] for key in shard.stash}
    states = {key: (cell.state, cell.seq) for key, cell in shard._entities.cells.items()}
    return shard.record, shard._digest.value, parked, states


def is_live(record: Record, latest: dict[bytes | None, int]) -> bool:
    """Tell whether a record is what a key's value is now."""
    return latest[record.key] == record.offset and record.value is not None


@given(STEPS, st.integers(1, 4), st.integers(1, 4), st.data())
def test_what_compaction_may_remove_makes_no_difference(
    steps: list[Any], window: int, kept: int, data: st.DataObject
) -> None:
    """Any of the superseded records, and any of the tombstones that no record is before any more."""
    bench = written(steps, window=window, kept=kept)
    before, records = picture(bench), bench.topics[bench.codec.state]
    latest = {record.key: record.offset for record in records}
    gone = {record.offset for record in records if latest[record.key] != record.offset and data.draw(st.booleans())}
    still = {record.key for record in records if latest[record.key] != record.offset and record.offset not in gone}
    gone |= {
        record.offset
        for record in records
        if latest[record.key] == record.offset
        and record.value is None
        and record.key not in still
        and data.draw(st.booleans())
    }
    bench.topics[bench.codec.state] = [record for record in records if record.offset not in gone]
    assert picture(bench) == before


@given(STEPS, st.integers(1, 4), st.integers(1, 4))
@example([(Pay(amount=5), "k", None, each == 2) for each in range(3)] + [(Hold(), "k", None, False)] * 3, 1, 1)
def test_each_live_record_is_missed(steps: list[Any], window: int, kept: int) -> None:
    """Without any one of them, whether or not what it superseded is still there, the shard is not restored."""
    bench = written(steps, window=window, kept=kept)
    records = bench.topics[bench.codec.state]
    latest = {record.key: record.offset for record in records}
    for missing in [record for record in records if is_live(record, latest)]:
        for rest in (
            [record for record in records if record.offset != missing.offset],
            [record for record in records if record.key != missing.key],
            [record for record in records if is_live(record, latest) and record.offset != missing.offset],
        ):
            bench.topics[bench.codec.state] = rest
            with pytest.raises(Inconsistent):
                bench.restored()
