"""Whatever fails, and whoever else works on the same partition: the rows are those of one undisturbed run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.system.projected import OnError, Park, Retry
from repertory.projections.partition import PartitionProjection
from repertory.projections.progress import PlacedEvent, ProgressRow
from tests.repertory.projections.fake_sql import Crash, FakeSql, events, retried, within

FATES = st.sampled_from(["", "", "", "", "crash", "world", "lost", "other"])
#: What is slow for long enough is blamed, so it is drawn only where an event may be tried as often as it takes.
ALL_FATES = st.one_of(FATES, st.just("slow"))
KEYS = st.lists(st.sampled_from(["a", "b", "c"]), max_size=24)


class Stage:
    """Two projectors on one partition of a fake database."""

    def __init__(
        self, found: list[PlacedEvent], poison: dict[int, int], on_error: OnError, fates: Iterator[str], batch: int
    ) -> None:
        self.events, self.on_error, self.batch = found, on_error, batch
        self.sql = FakeSql(poison)
        self.sql.fate = self._fate
        self._fates = fates
        self.projectors = [PartitionProjection(self.sql, on_error) for _ in range(2)]
        self.now_s, self._depth = 0.0, 0
        #: Where the partition was at the last crash that fate has drawn; whether an operator retries what was blamed.
        self._crashed_at, self.is_retried = -1, False

    def _fate(self, _at: str) -> str:
        what = next(self._fates, "")
        if what == "crash" and not self.is_retried:
            # Several without progress would be blamed on an event; and another projector may count one more.
            now = -1 if self.sql.row is None else self.sql.row.next
            what, self._crashed_at = "" if now == self._crashed_at else what, now
        if what == "other":
            if self._depth == 1:
                self.step(1)
            return ""
        return what

    def step(self, number: int) -> bool:
        """Let a projector work; one that crashes is followed by another."""
        self.now_s += 10
        self._depth += 1
        try:
            if self.is_retried:
                within(self.sql, retried)
            projector = self.projectors[number]
            if projector.row is not None and projector.row.failed >= 0:
                projector.row = None
            seq = 0 if projector.row is None else projector.row.seq
            return projector.step(self.events[seq : seq + self.batch], self.now_s)
        except Crash:
            self.projectors[number] = PartitionProjection(self.sql, self.on_error)
            return True
        finally:
            self._depth -= 1

    def settle(self) -> None:
        """Work until nothing is left, or the partition has stopped."""
        quiet = 0
        for turn in range(4_000):
            quiet = 0 if self.step(turn % 2) else quiet + 1
            if quiet > 20:
                return
        raise AssertionError("it comes to no end")

    @property
    def seqs(self) -> list[int]:
        """What was applied, in the order of the database."""
        return [event.seq for event in self.sql.applied]


@given(KEYS, st.lists(st.integers(0, 3)), st.lists(ALL_FATES, max_size=120), st.integers(1, 12))
def test_rows_are_those_of_one_undisturbed_run(keys: list[str], gaps: list[int], fates: list[str], batch: int) -> None:
    """Over crashes, failures of the world, lost answers to commits, and two projectors: each event once, in order.

    So many crashes at one event that it is blamed need an operator, and change nothing else.
    """
    stage = Stage(events(keys, gaps), {}, Retry(100), iter(fates), batch)
    stage.is_retried = True
    stage.settle()
    assert stage.seqs == list(range(len(keys)))
    assert stage.sql.row is not None
    assert (stage.sql.row.seq, stage.sql.row.failed, stage.sql.parked) == (len(keys), -1, [])
    assert stage.sql.doubled == 0


@given(KEYS, st.lists(FATES, max_size=80), st.integers(1, 12), st.dictionaries(st.integers(0, 23), st.integers(1, 3)))
def test_what_fails_a_few_times_is_applied(
    keys: list[str], fates: list[str], batch: int, poison: dict[int, int]
) -> None:
    """As often as the policy says: then nobody stops."""
    # Each failure within a batch counts for the event only once it is alone, so that there are as many to spend.
    stage = Stage(events(keys, [1]), poison, Retry(3), iter(fates), batch)
    stage.settle()
    assert stage.seqs == list(range(len(keys)))


@pytest.mark.parametrize("failures", [3, 4])
def test_one_projector_tries_as_often_as_the_policy_says(failures: int) -> None:
    """Three times again, and no fourth time."""
    stage = Stage(events(["a"], [1]), {0: failures}, Retry(3), iter(()), 1)
    for _ in range(20):
        stage.step(0)
    assert stage.seqs == [0] * (failures == 3)
    assert stage.sql.row is not None
    assert (stage.sql.row.failed >= 0) == (failures > 3)


@given(KEYS, st.lists(FATES, max_size=80), st.integers(1, 12), st.sets(st.integers(0, 23), max_size=4))
def test_it_stops_at_the_event_that_fails_and_goes_on_from_there(
    keys: list[str], fates: list[str], batch: int, poison: set[int]
) -> None:
    """All before it is applied, nothing behind it; a skip goes on behind it, and does nothing at any other offset."""
    stage = Stage(events(keys, [0, 2]), dict.fromkeys(poison, -1), Retry(1), iter(fates), batch)
    guilty = sorted(seq for seq in poison if seq < len(keys))
    for seq in guilty:
        stage.settle()
        row = stage.sql.row
        assert row is not None
        assert (row.failed, row.next, row.seq) == (stage.events[seq].offset,) * 2 + (seq,)
        assert stage.seqs == [each for each in range(seq) if each not in guilty]
        assert "Poison" in row.error
        within(stage.sql, lambda now: skipped(now, now.failed - 1))
        assert stage.sql.row == row
        within(stage.sql, lambda now: skipped(now, now.failed))
    stage.settle()
    assert stage.seqs == [seq for seq in range(len(keys)) if seq not in guilty]


def skipped(row: ProgressRow, offset: int) -> ProgressRow | None:
    """Return the progress behind the event that fails, None if that is another one."""
    if row.failed != offset:
        return None
    return msgspec.structs.replace(row, next=offset + 1, seq=row.seq + 1, failed=-1, error="")


@given(KEYS, st.lists(FATES, max_size=80), st.integers(1, 12), st.sets(st.integers(0, 23), max_size=4))
def test_a_parked_key_keeps_its_order_and_no_other_waits(
    keys: list[str], fates: list[str], batch: int, poison: set[int]
) -> None:
    """The key's later events wait behind the first, as pointers; all others are applied, and nobody else is parked."""
    stage = Stage(events(keys, [1]), dict.fromkeys(poison, -1), Park(keys_max=3, times=1), iter(fates), batch)
    stage.settle()
    first = {key: min((seq for seq in poison if seq < len(keys) and keys[seq] == key), default=99) for key in "abc"}
    assert stage.seqs == [seq for seq, key in enumerate(keys) if seq < first[key]]
    assert [event.seq for event in stage.sql.parked] == [seq for seq, key in enumerate(keys) if seq >= first[key]]
    assert stage.sql.row is not None
    assert stage.sql.row.seq == len(keys)


# --- events that end the process ------------------------------------------------------------------------------


@given(
    KEYS, st.lists(FATES, max_size=80), st.integers(1, 12), st.sets(st.integers(0, 23), max_size=3),
    st.sampled_from([Retry(1), Park(keys_max=3, times=1)]),
)  # fmt: skip
def test_an_event_that_ends_each_process_is_found(
    keys: list[str], fates: list[str], batch: int, deadly: set[int], on_error: OnError
) -> None:
    """It is treated as one that fails, and nobody else is: whoever dies beside it, or works on the same partition."""
    stage = Stage(events(keys, [0, 2]), {}, on_error, iter(fates), batch)
    stage.sql.deadly = frozenset(deadly)
    guilty = sorted(seq for seq in deadly if seq < len(keys))
    stage.settle()
    if isinstance(on_error, Park):
        first = {key: min((seq for seq in guilty if keys[seq] == key), default=99) for key in "abc"}
        assert stage.seqs == [seq for seq, key in enumerate(keys) if seq < first[key]]
        assert [event.seq for event in stage.sql.parked] == [seq for seq, key in enumerate(keys) if seq >= first[key]]
        return
    for seq in guilty:
        stage.settle()
        row = stage.sql.row
        assert row is not None
        assert (row.failed, row.seq, row.trying, row.deaths) == (stage.events[seq].offset, seq, -1, 0)
        assert "processes in a row ended" in row.error
        within(stage.sql, lambda now: skipped(now, now.failed))
    stage.settle()
    assert stage.seqs == [seq for seq in range(len(keys)) if seq not in guilty]


@pytest.mark.parametrize("at", [0, 1, 250, 498, 499])
def test_few_processes_end_before_it_is_found(at: int) -> None:
    """A tenth of the batch after each death, and three at the event alone: a supervisor would give up after more."""
    stage = Stage(events(["k"] * 500, [0]), {}, Retry(5), iter(()), 500)
    stage.sql.deadly = frozenset({at})
    while stage.step(0):
        pass
    assert stage.sql.row is not None
    assert (stage.sql.row.failed, stage.seqs) == (at, list(range(at)))
    assert stage.sql.deaths[at] <= 6


def test_a_note_costs_one_transaction_after_a_start() -> None:
    """Once events were applied, nothing is written beside them."""
    begun = Counter[str]()
    stage = Stage(events(["k"] * 40, [0]), {}, Retry(0), iter(()), 4)
    stage.sql.fate = lambda at: str(begun.update([at]) or "")
    while stage.step(0):
        pass
    assert (len(stage.seqs), begun["begin"]) == (40, 10 + 1)


def test_who_gives_a_partition_back_alive_is_no_death() -> None:
    """A database that refuses the rows of one event, and rebalances meanwhile: the event is not blamed for them.

    What earlier processes have died of is not forgotten by one that leaves.
    """
    stage = Stage(events(["k"], [0]), {}, Retry(0), iter(()), 1)
    stage.sql.fate = lambda at: "world" if at == "apply" else ""
    for _ in range(6):
        stage.step(0)
        stage.projectors[0].leave(stage.now_s)
        stage.projectors[0] = PartitionProjection(stage.sql, Retry(0))
    assert stage.sql.row is not None
    assert (stage.sql.row.failed, stage.sql.row.trying, stage.sql.row.deaths) == (-1, -1, 0)
    stage.sql.fate, stage.sql.deadly = lambda _: "", frozenset({0})
    for _ in range(2):
        stage.step(0)
    stage.sql.fate = lambda at: "world" if at == "apply" else ""
    stage.step(0)
    stage.projectors[0].leave(stage.now_s)
    assert (stage.sql.row.trying, stage.sql.row.deaths) == (0, 1)
    stage.projectors[0], stage.sql.fate = PartitionProjection(stage.sql, Retry(0)), lambda _: ""
    stage.settle()
    assert (stage.sql.row.failed, stage.sql.deaths[0]) == (0, 3)


def test_an_event_that_was_retried_has_all_its_tries_again() -> None:
    """An operator has mended the handler, or so he thinks."""
    stage = Stage(events(["k"] * 3, [0]), {}, Retry(0), iter(()), 3)
    stage.sql.deadly = frozenset({1})
    stage.settle()
    before = stage.sql.deaths[1]
    within(stage.sql, lambda now: msgspec.structs.replace(now, failed=-1, error=""))
    stage.settle()
    assert (stage.sql.row or ProgressRow(0, 0)).failed == 1
    assert stage.sql.deaths[1] - before >= 3
    stage.sql.deadly = frozenset()
    within(stage.sql, lambda now: msgspec.structs.replace(now, failed=-1, error=""))
    stage.settle()
    assert stage.seqs == [0, 1, 2]


@given(KEYS, st.integers(1, 12))
def test_one_key_too_many_stops_the_partition(keys: list[str], batch: int) -> None:
    """Parked are as many keys as the policy says; the next one's event is the one that is named."""
    stage = Stage(events(keys, [0]), dict.fromkeys(range(len(keys)), -1), Park(keys_max=2, times=0), iter(()), batch)
    stage.settle()
    assert stage.sql.row is not None
    assert len({event.key for event in stage.sql.parked}) == min(2, len({*keys}))
    if len({*keys}) == 3:
        third = next(seq for seq in range(len(keys)) if len({*keys[: seq + 1]}) == 3)
        assert stage.sql.row.failed == stage.events[third].offset


@pytest.mark.parametrize("at", [0, 1, 250, 498, 499])
def test_a_poison_event_in_a_batch_of_500_is_found_by_halves(at: int) -> None:
    """In a logarithmic number of transactions, and the innocent are not tried alone."""
    stage = Stage(events(["k"] * 500, [0]), {at: -1}, Retry(0), iter(()), 500)
    while stage.step(0):
        pass
    assert stage.sql.row is not None
    assert stage.sql.row.failed == at
    assert stage.seqs == list(range(at))
    assert stage.sql.blamed[at] <= 11


def test_what_is_too_slow_is_halved_and_blamed_only_alone() -> None:
    """Three times in a row the same batch, then half of it; one event alone counts as failed."""
    fates = Counter[str]()
    sizes: list[int] = []  # Of each transaction; one without events is a note of what is tried.
    stage = Stage(events(["k"] * 4, [0]), {}, Retry(0), iter(()), 4)

    def fate(at: str) -> str:
        fates[at] += 1
        if at == "begin":
            sizes.append(0)
        sizes[-1:] = [sizes[-1] + 1] if at == "apply" else sizes[-1:]
        return "slow" if at == "flush" else ""

    stage.sql.fate = fate
    for _ in range(40):
        stage.step(0)
    assert [size for size in sizes if size][:9] == [4, 4, 4, 2, 2, 2, 1, 1, 1]
    assert stage.sql.row is not None
    assert stage.sql.row.failed == 0


def test_a_projection_that_was_dropped_ends() -> None:
    """Nothing is applied for it, and nothing is made anew."""
    stage = Stage(events(["k"] * 3, [0]), {}, Retry(0), iter(()), 1)
    stage.step(0)
    stage.sql.row = None
    stage.settle()
    assert stage.seqs == [0]
    assert all(projector.is_dropped for projector in stage.projectors)
