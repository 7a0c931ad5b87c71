"""The snapshot window: a restore returns the fold of the journal, after any crashes and any compaction."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repertory.actors.shard.config import Limits
from repertory.actors.shard.snapshot_window import RECORDS_PER_ENTITY, SnapshotWindow
from tests.actors.domain import Account, Close, Deposit, Split, Teller, Trip
from tests.actors.shard.bench import POLICY, Bench

KEY_NAMES = "abcd"
#: Those, and the key that `Trip` tells.
ENTITIES = len(KEY_NAMES) + 1
KEYS = st.sampled_from(KEY_NAMES)
MESSAGES = st.one_of(
    st.builds(Deposit, amount=st.integers(1, 9)),
    st.builds(Deposit, amount=st.integers(1, 9)),
    st.builds(Split, amounts=st.lists(st.integers(1, 9), max_size=4).map(tuple)),
    st.just(Close()),
    st.builds(Trip, times=st.integers(0, 5)),
)
STEPS = st.one_of(
    st.tuples(st.just("tell"), st.lists(st.tuples(KEYS, MESSAGES), min_size=1, max_size=6)),
    st.tuples(st.just("turn"), st.integers(1, 4)),
    st.tuples(st.just("lose"), st.none()),
    st.tuples(st.just("crash"), st.none()),
    st.tuples(st.just("wait"), st.none()),
    st.tuples(st.just("compact"), st.integers(0, 3)),
)
HISTORIES = st.lists(STEPS, min_size=4, max_size=40)


def folded(journal: list[Any]) -> dict[str, tuple[int, int]]:
    """Return (balance, version) of each current life: a fold that shares no code with the product."""
    found: dict[str, tuple[int, int]] = {}
    for key, event in journal:
        balance, version = found.get(key, (0, 0))
        if event["type"] == "Stopped":
            found.pop(key, None)
        else:
            found[key] = (balance + event["amount"], version + 1)
    return found


def keyed_journal(bench: Bench) -> list[Any]:
    """Return (key, event) of each journal record."""
    records = bench.topics[bench.codec.events]
    return [((record.key or b"").decode(), msgspec.msgpack.decode(record.value or b"")) for record in records]


def living(bench: Bench) -> dict[str, tuple[int, int]]:
    """Return (balance, version) of each living entity of the shard in memory."""
    return {
        key: (cell.state.balance, cell.version)  # type: ignore[attr-defined]
        for key, cell in bench.shard.cells.items()
        if cell.version
    }


def play(bench: Bench, history: list[Any], check: Any) -> None:
    """Run a history, and check after each of its steps."""
    for step, argument in history:
        match step:
            case "tell":
                for key, message in argument:
                    bench.tell(message, key)
                bench.fetch()
            case "turn":
                for _ in range(argument):
                    bench.turn()
            case "lose":
                bench.lose_turn(batch=2)
            case "crash":
                bench.crash(batch=3)
            case "wait":
                bench.now_ms += 100
            case "compact":
                for topic in (bench.codec.state,):
                    bench.compact(topic, drop=lambda record: (record.offset + argument) % 2 == 0)  # noqa: B023
        bench.fetch()
        check(bench)


@given(history=HISTORIES, window=st.integers(1, 9), batch=st.integers(1, 5))
@settings(max_examples=400, deadline=None)
def test_memory_and_every_restore_are_the_fold_of_the_journal(history: list[Any], window: int, batch: int) -> None:
    """Live or restored, with lost turns and compaction, each entity is the fold of the events of its last life."""

    def check(bench: Bench) -> None:
        expected = folded(keyed_journal(bench))
        assert living(bench) == expected
        lost = bench.shard
        bench.shard = bench.restored()
        assert living(bench) == expected
        bench.shard = lost

    bench = Bench(
        Account, limits=Limits(snapshot_window_bytes_max=1, snapshot_window_records=window, batch_records_max=batch)
    )
    play(bench, history, check)


#: Five entities: the key that `Trip` tells counts too.
FIVE: dict[str, Any] = {
    "history": [
        ("tell", [(key, Deposit(amount=1)) for key in "aa"] + [("a", Trip(times=0))]),
        ("tell", [(key, Deposit(amount=1)) for key in "bcd"]),
        ("turn", 1),
        ("tell", [("a", Deposit(amount=1)), ("a", Close())]),
        ("turn", 1),
    ],
    "window": 1,
    "bytes_max": 10_000,
    "batch": 5,
}


@example(**FIVE)
@given(history=HISTORIES, window=st.integers(1, 9), bytes_max=st.sampled_from([1, 10_000]), batch=st.integers(1, 5))
@settings(max_examples=150, deadline=None)
def test_the_tail_is_bounded_and_never_moves_back(history: list[Any], window: int, bytes_max: int, batch: int) -> None:
    """At most the window's records are replayed, the tail never moves back, and its offset is at or below it."""
    last, most = [0], max(window, RECORDS_PER_ENTITY * ENTITIES) if bytes_max > 1 else window

    def check(bench: Bench) -> None:
        if bench.committed is None:
            return
        record = bench.record
        assert last[0] <= record.tail_start <= record.seq
        assert record.seq - record.tail_start <= most
        last[0] = record.tail_start
        offsets = {int(r.header("seq") or b""): r.offset for r in bench.topics[bench.codec.events]}
        assert [*offsets] == [*range(record.seq)], "the journal has a gap or a duplicate"
        assert record.tail_offset <= offsets.get(record.tail_start, bench.ends[bench.codec.events])

    bench = Bench(
        Account,
        limits=Limits(snapshot_window_bytes_max=bytes_max, snapshot_window_records=window, batch_records_max=batch),
    )
    play(bench, history, check)


#: A life whose end is recorded and not forgotten yet, before a restore.
ENDED: dict[str, Any] = {
    "history": [("tell", [(key, Deposit(amount=1)) for key in "ab"] + [("a", Close()), ("c", Deposit(amount=1))])],
    "window": 3,
    "restored": True,
}


@given(history=HISTORIES, window=st.integers(1, 9), restored=st.booleans())
@example(**ENDED)
@settings(max_examples=100, deadline=None)
def test_what_has_ended_is_forgotten(history: list[Any], window: int, *, restored: bool) -> None:
    """Once its events are out of the window, an ended life has no record, also after a restore; nor has its restarts.

    The journal offset from which a restore reads follows the tail: it reads the window, and one turn more.
    """
    bench = Bench(Account, limits=Limits(snapshot_window_bytes_max=1, snapshot_window_records=window))
    play(bench, history, lambda _: None)
    bench.settle()
    if restored:
        bench.crash()
    bench.now_ms += int(1_000 * POLICY.within_s) + 1
    for _ in range(window + 2):
        bench.tell(Deposit(amount=1), "last")
        bench.run()
    parked = {key for key in bench.shard.stash if bench.shard.stash.queue(key)[0].record.parked}
    assert set(bench.states) - {"last"} == ({*living(bench)} - {"last"}) | parked
    read = [r for r in bench.topics[bench.codec.events] if r.offset >= bench.record.tail_offset]
    assert len(read) <= window + 1


@given(history=HISTORIES, batch=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_a_stateful_shard_is_restored_as_it_was(history: list[Any], batch: int) -> None:
    """The latest state records are the entities, after any compaction."""

    def check(bench: Bench) -> None:
        before = {key: (cell.state, cell.data, cell.version, cell.seq) for key, cell in bench.shard.cells.items()}
        restored = bench.restored()
        assert {key: (c.state, c.data, c.version, c.seq) for key, c in restored.cells.items()} == before

    bench = Bench(Teller, others=[Account], policy=POLICY, limits=Limits(batch_records_max=batch))
    wanted = [step for step in history if step[0] != "tell"]
    told = [
        ("tell", [(key, message) for key, message in argument if isinstance(message, Trip | Close)])
        for step, argument in history
        if step == "tell"
    ]
    play(bench, [step for pair in zip(told, wanted, strict=False) for step in pair], check)


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans()), max_size=60), st.integers(1, 8))
def test_the_window_agrees_with_a_list(writes: list[tuple[str, bool]], size: int) -> None:
    """The due keys and the tail are those of a plain list of all records that are in no snapshot."""
    window = SnapshotWindow(size, 0, 0)
    naive: deque[tuple[str, int]] = deque()
    for seq, (key, snapshots) in enumerate(writes):
        window.wrote(key, seq)
        naive.append((key, seq))
        if snapshots:
            due = window.due(seq + 1)
            assert due == list(dict.fromkeys(k for k, s in naive if s < seq + 1 - size))
            for each in due:
                window.snapshotted(each)
            naive = deque((k, s) for k, s in naive if k not in due)
        assert window.tail_start(seq + 1) == (naive[0][1] if naive else seq + 1)


def test_the_window_fits_the_number_of_entities() -> None:
    """Two records for each, but no fewer than the setting, and no more bytes than that setting says."""
    window = SnapshotWindow(10, 0, 0, bytes_max=5_000)
    window.resize(3, 100, 4_000)
    assert window.size == 10
    window.resize(30, 0, 0)
    assert window.size == 60
    window.resize(1_000, 0, 0)
    assert window.size == 125
    for _ in range(200):
        window.resize(1_000, 1, 1_000)
    assert window.size == 10
    window.resize(2, 100, 4_000)
    assert window.size == 10


def test_few_offsets_are_kept() -> None:
    """However short the turns are: a restore begins at one of them, a little before the tail."""
    window = SnapshotWindow(20_000, 0, 0)
    for seq in range(60_000):
        window.wrote(f"{seq}", seq)
        window.placed(seq, 2 * seq)
        for key in window.due(seq + 1):
            window.snapshotted(key)
        tail = window.tail_start(seq + 1)
        assert tail - 20_000 // 250 <= window.tail_offset(tail) // 2 <= tail
    assert len(window._offsets) <= 300


def test_a_window_that_shrinks_makes_few_snapshots_due_at_once() -> None:
    """Neither a restored shard's first turn without a record nor one of large records snapshots all entities."""
    window = SnapshotWindow(10, 0, 0, bytes_max=10_000_000)
    for seq in range(20_000):
        window.wrote(f"{seq}", seq)
    window.resize(20_000, 0, 0)
    assert not window.due(20_000)
    window.resize(20_000, 1_000, 10_000_000)
    assert window.size == 39_000
    for _ in range(100):
        window.resize(20_000, 1_000, 10_000_000)
        due = window.due(20_000)
        assert len(due) <= 1_000
        for key in due:
            window.snapshotted(key)
    assert window.size == 1_000
