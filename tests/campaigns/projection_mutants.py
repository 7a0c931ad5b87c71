"""Bugs planted in projections: their progress, the search for the event that fails, and what counts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from repertory.actors.headers import SEQ
from repertory.actors.shard.redelivery import Redelivery
from repertory.bridge.nontransactional import epoch_of
from repertory.bridge.system.projected import Park, Retry
from repertory.projections import feed, schema, store
from repertory.projections import partition as module
from repertory.projections.counted import EpochStarts
from repertory.projections.holder import HolderWatch
from repertory.projections.partition import PartitionProjection
from repertory.projections.progress import PlacedEvent, ProgressChanged, ProgressRow
from tests.bridge import test_projections as logs
from tests.campaigns.planting import Patch, mutant, swap
from tests.repertory.projections import test_counted as counting
from tests.repertory.projections import test_holder as holders
from tests.repertory.projections import test_partition as partitions
from tests.repertory.simulation import test_projections as simulated

#: The progress is read, and a note of what is tried is written: begin, swap, commit, committed.
_NOTED = [""] * 5
#: Another projector works between the moment in which one has read the progress, and its transaction.
_RACE: dict[str, Any] = {"keys": ["a", "b"], "gaps": [], "fates": [*_NOTED, "other"], "batch": 2}


@mutant("repertory/projections/store.py", simulated.test_no_fault_changes_a_row, delivery="exactly-once")
@mutant("repertory/projections/store.py", partitions.test_rows_are_those_of_one_undisturbed_run, **_RACE)
def not_compared(patch: Patch) -> None:
    """The progress is written whatever it was."""

    class Careless:
        def __init__(self, transaction: Any) -> None:
            self._transaction = transaction

        def __getattr__(self, name: str) -> Any:
            return getattr(self._transaction, name)

        def swap(self, row: ProgressRow, to: ProgressRow) -> bool:
            self._transaction.swap(row, to)
            return True

    class Store:
        def __init__(self, store: Any) -> None:
            self.load, self._store = store.load, store

        @contextlib.contextmanager
        def transaction(self) -> Iterator[Careless]:
            with self._store.transaction() as transaction:
                yield Careless(transaction)

    swap(patch, PartitionProjection, "__init__", lambda init: lambda made, store, rest: init(made, Store(store), rest))


@mutant("repertory/projections/partition.py", simulated.test_no_fault_changes_a_row, delivery="exactly-once")
@mutant("repertory/projections/partition.py", partitions.test_rows_are_those_of_one_undisturbed_run, **_RACE)
def compared_at_the_end(patch: Patch) -> None:
    """The compare-and-swap is the last statement: of two projectors one blames events that the other has applied."""

    def attempt(mutated: PartitionProjection, row: ProgressRow, batch: Sequence[PlacedEvent]) -> None:
        last = batch[-1]
        to = msgspec.structs.replace(row, next=last.offset + 1, seq=last.seq + 1, changes=row.changes + 1)
        with mutated._store.transaction() as transaction:
            for event in batch:
                transaction.apply(event)
            transaction.flush()
            if not transaction.swap(row, to):
                raise ProgressChanged
        mutated.row = to

    patch.setattr(PartitionProjection, "_attempt", attempt)


_PARKED = partitions.test_a_parked_key_keeps_its_order_and_no_other_waits


@mutant(
    "repertory/projections/partition.py", _PARKED, keys=["a"], batch=1, poison=set(),
    fates=[*[*_NOTED, "", "", "world"] * 2, "", "", "", "", "world"],
)  # fmt: skip
def the_world_is_blamed_on_events(patch: Patch) -> None:
    """A lost connection counts as a failure of the event that was under way."""

    class Never(Exception):
        pass

    patch.setattr(module, "WorldError", Never)


@mutant("repertory/projections/partition.py", _PARKED, keys=["a", "a"], batch=2, poison={0}, fates=[])
def later_events_overtake(patch: Patch) -> None:
    """Events of a parked key are applied, and only the one that failed waits."""

    def make(attempt: Any) -> Any:
        def mutated(projection: Any, row: ProgressRow, batch: Any) -> None:
            attempt(projection, msgspec.structs.replace(row, parked={}), batch)

        return mutated

    swap(patch, PartitionProjection, "_attempt", make)


@mutant(
    "repertory/projections/partition.py", partitions.test_an_event_that_ends_each_process_is_found,
    keys=["a", "b"], fates=[], batch=2, deadly={1}, on_error=Retry(1),
)  # fmt: skip
def deaths_forgotten(patch: Patch) -> None:
    """What its predecessor has noted before it died is not looked at: each projector meets the event again."""

    def make(load: Any) -> Any:
        def mutated(projection: Any, now_s: float) -> bool:
            projection._found = ProgressRow(0, 0)
            return bool(load(projection, now_s))

        return mutated

    swap(patch, PartitionProjection, "load", make)


_STOPPED = partitions.test_it_stops_at_the_event_that_fails_and_goes_on_from_there


@mutant("repertory/projections/partition.py", _STOPPED, keys=["a", "b"], batch=2, poison={0}, fates=[])
def it_stops_behind_the_event(patch: Patch) -> None:
    """The progress of a partition that has stopped is behind the event that failed: a retry passes it over."""

    def make(change: Any) -> Any:
        def mutated(projection: Any, row: ProgressRow, to: ProgressRow, *rest: Any) -> Any:
            behind = msgspec.structs.replace(to, next=to.next + 1, seq=to.seq + 1) if to.failed >= 0 else to
            return change(projection, row, behind, *rest)

        return mutated

    swap(patch, PartitionProjection, "_change", make)


@mutant("repertory/projections/partition.py", _STOPPED, keys=["a"] * 4, batch=4, poison={3}, fates=[])
def the_wrong_half(patch: Patch) -> None:
    """The search goes on with the second half of a batch, and the first half is never applied."""

    def make(suspected: Any) -> Any:
        def mutated(projection: Any, events: Sequence[PlacedEvent]) -> Sequence[PlacedEvent]:
            half = suspected(projection, events)
            return half if len(half) == len(events) else events[len(half) :]

        return mutated

    swap(patch, PartitionProjection, "_suspected", make)


@mutant(
    "repertory/projections/partition.py", partitions.test_a_poison_event_in_a_batch_of_500_is_found_by_halves, at=250
)
def the_batch_is_blamed(patch: Patch) -> None:
    """The first event of a batch that fails is taken for the guilty one."""

    def make(blame: Any) -> Any:
        return lambda projection, row, batch, error, now_s: blame(projection, row, batch[:1], error, now_s)

    swap(patch, PartitionProjection, "_blame", make)


@mutant(
    "repertory/projections/partition.py", partitions.test_one_key_too_many_stops_the_partition, keys=["a", "b", "c"],
    batch=3,
)  # fmt: skip
def any_number_is_parked(patch: Patch) -> None:
    """``keys_max`` is ignored: after a bad deployment every key is parked."""
    swap(
        patch, PartitionProjection, "__init__",
        lambda init: lambda made, store, _: init(made, store, Park(keys_max=1_000, times=0)),
    )  # fmt: skip


@mutant("repertory/projections/counted.py", simulated.test_no_fault_changes_a_row, delivery="at-least-once")
@mutant(
    "repertory/projections/counted.py", counting.test_what_counts_is_what_a_recovery_takes, cut=0,
    steps=[("turn", 2), ("owner", 1), ("turn", 1), ("record", 0)],
)  # fmt: skip
def whoever_wrote_it(patch: Patch) -> None:
    """Records that a worker appended after it was replaced count."""
    patch.setattr(EpochStarts, "counts", lambda _starts, record, end_seq: record.number(SEQ) < end_seq)


@mutant(
    "repertory/projections/counted.py", counting.test_what_counts_is_what_a_recovery_takes, cut=0,
    steps=[("turn", 2), ("record", 0), ("owner", 1)],
)  # fmt: skip
def before_it_is_known(patch: Patch) -> None:
    """Records behind the latest shard record are projected, and some of them are superseded later."""

    def counts(starts: EpochStarts, record: Any, _end_seq: int) -> bool:
        seq, epoch = record.number(SEQ), epoch_of(record)
        return all(seq < start for later, start in starts._starts.items() if later > epoch)

    patch.setattr(EpochStarts, "counts", counts)


@mutant("actors/shard/redelivery.py", simulated.test_no_fault_changes_a_row, delivery="at-least-once")
@mutant("actors/shard/redelivery.py", logs.test_a_shard_that_falls_idle_writes_its_record, followed_by="a projection")
def no_record_while_idle(patch: Patch) -> None:
    """At least once, an idle shard leaves its last events without a shard record: projections never see them."""
    patch.setattr(Redelivery, "due_ms", lambda _: None)


@mutant("repertory/projections/holder.py", holders.test_no_other_process_is_killed, start="another boot/1")
def a_pid_is_enough(patch: Patch) -> None:
    """Whoever has the pid of a projector that has ended is killed for holding the lock."""

    def is_projector(watch: HolderWatch, pid: int, _start: str) -> bool:
        with watch._database.reading() as connection:
            return pid in connection.execute(sa.select(schema.projectors.c.pid)).scalars().all()

    patch.setattr(HolderWatch, "_is_projector", is_projector)


@mutant("repertory/projections/partition.py", partitions.test_who_gives_a_partition_back_alive_is_no_death)
def leaving_is_dying(patch: Patch) -> None:
    """A projector that ends by itself, or whose partitions go to another one, leaves its note, as one that has died."""
    patch.setattr(PartitionProjection, "leave", lambda *_: True)


# --- found by the simulator alone: the real statements, on a real database ------------------------------------

_SIMULATED = simulated.test_no_fault_changes_a_row


@mutant(
    "repertory/projections/store.py", simulated.test_what_is_parked_and_retried_is_applied_once_and_in_order,
)  # fmt: skip
def changes_are_not_compared(patch: Patch) -> None:
    """The swap compares offsets alone: a projector parks events of a key that an operator has retried."""
    table, old = schema.progress, sa.bindparam
    careless = (
        table.update()
        .where(
            table.c.projection == old("name"), table.c.version == old("number"), table.c.topic == old("of_topic"),
            table.c.partition == old("of_partition"), table.c.next == old("old_next"), table.c.failed.is_(None),
        )
        .values(
            next=old("to_next"), seq=old("to_seq"), failed=old("to_failed"), error=old("to_error"),
            topic_id=old("to_id"), trying=old("to_trying"), deaths=old("to_deaths"), changes=table.c.changes + 1,
        )
    )  # fmt: skip
    patch.setattr(store, "swap_statement", lambda: careless)


@mutant("repertory/projections/database.py", _SIMULATED, delivery="exactly-once")
def rows_without_progress(patch: Patch) -> None:
    """The progress is committed before the rows, in a transaction of its own."""

    def make(swap_progress: Any) -> Any:
        def mutated(transaction: Any, row: ProgressRow, to: ProgressRow) -> bool:
            done: bool = swap_progress(transaction, row, to)
            transaction._connection.exec_driver_sql("COMMIT")
            transaction._connection.exec_driver_sql("BEGIN IMMEDIATE")
            return done

        return mutated

    swap(patch, store.SqlTransaction, "swap", make)


@mutant("repertory/projections/feed.py", _SIMULATED, delivery="at-least-once")
def owners_are_not_seen(patch: Patch) -> None:
    """At least once, a batch is read without a look at the owners that began behind it."""
    patch.setattr(EpochStarts, "see", lambda starts, record: setattr(starts, "next_offset", record.offset + 1))


@mutant("repertory/projections/feed.py", _SIMULATED, delivery="at-least-once")
def behind_the_shard_record(patch: Patch) -> None:
    """At least once, records behind the latest shard record are projected, and some of them are superseded later."""
    swap(patch, feed, "decode_shard", lambda decode: lambda data: msgspec.structs.replace(decode(data), seq=1 << 60))


@mutant("repertory/projections/partition.py", _SIMULATED, delivery="exactly-once")
def halves_are_forgotten(patch: Patch) -> None:
    """What fails in a batch is left out with all that comes behind it in the batch."""

    def make(blame: Any) -> Any:
        def mutated(projection: Any, row: ProgressRow, batch: Any, error: Exception, now_s: float) -> Any:
            last = batch[-1]
            to = msgspec.structs.replace(row, next=last.offset + 1, seq=last.seq + 1, changes=row.changes + 1)
            return projection._change(row, to, now_s) if len(batch) > 1 else blame(projection, row, batch, error, now_s)

        return mutated

    swap(patch, PartitionProjection, "_blame", make)
