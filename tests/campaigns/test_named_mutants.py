"""Bugs that a named test must find: of the kernel, the embedded log and the processes, where no simulated run looks.

This file holds the third table of mutants in ``docs/reliability.rst``. Each is planted alone, and the test beside it is
run as pytest would run it, with its own fixtures, and has to fail.
"""

from __future__ import annotations

import inspect
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from repertory.actors.shard import answers
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.asked import AskedTurn
from repertory.actors.shard.crash_guard import CrashGuard
from repertory.actors.shard.recovered import RecoveredShard
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.snapshot_window import SnapshotWindow
from repertory.bridge import region
from repertory.bridge.assigned_shard import AssignedShard
from repertory.bridge.log.connect import connect
from repertory.bridge.log.embedded import log as embedded
from repertory.bridge.log.embedded import schema
from repertory.bridge.log.embedded.log import EmbeddedLog
from repertory.bridge.log.embedded.store import Connection, Row, Store
from repertory.bridge.log.errors import SlotTaken
from repertory.bridge.log.kafka.lease import Lease
from repertory.bridge.log.port import Backend
from repertory.bridge.node import in_flight
from repertory.bridge.node.in_flight import InFlightCommands
from repertory.bridge.recovery import Recovery
from repertory.supervision.process import proc
from repertory.supervision.process.worker_process import WorkerProcess
from tests.actors.shard import test_answers as asks
from tests.actors.shard import test_crash_guard as guards
from tests.actors.shard import test_restart_budget as budgets
from tests.actors.shard import test_snapshot_window as windows
from tests.bridge import test_assigned_shard as shards
from tests.bridge import test_loop as loops
from tests.bridge import test_worker_policy as policies
from tests.bridge.log.embedded import test_disk_faults as disks
from tests.bridge.log.embedded import test_embedded as members
from tests.bridge.log.kafka import test_lease as leases
from tests.bridge.node import test_in_flight as memories
from tests.bridge.system import test_ask as clients
from tests.bridge.test_builds import Builds, register
from tests.campaigns import later_mutants, projection_mutants, saga_mutants, source_mutants, talk_mutants
from tests.campaigns.mutants import DOCS, write
from tests.campaigns.planting import MUTANTS, Mutant, Patch, mutant, swap
from tests.supervision.process import test_worker_process as exits

pytestmark = pytest.mark.processes

for module in (later_mutants, projection_mutants, saga_mutants, source_mutants, talk_mutants):
    assert module.__doc__, "it registers its mutants as it is imported"

# The fixtures of the tests that are run here.
disk, url, path, busy, other, clock = (
    disks.disk, members.url, members.path, members.busy, members.other, members.clock,
)  # fmt: skip
database = projection_mutants.holders.database
memory, rows, start = members.memory, memories.rows, memories.start
system, played, reader, client = clients.system, clients.played, clients.reader, clients.client


@pytest.fixture
def backend() -> Backend:
    """Open a log of its own; ``played`` closes it."""
    return connect("memory:")


@pytest.fixture
def builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Builds]:
    """Yield a system without workers, on a file, and the upcasters of its newer build."""
    register(monkeypatch)
    found = Builds(f"sqlite:{tmp_path / 'builds.db'}", monkeypatch)
    yield found
    found.close()


# --- the embedded log -----------------------------------------------------------------------------------------

_failed_commit = disks.test_a_failed_commit_leaves_nothing_and_is_reported


@mutant("bridge/log/embedded/store.py", _failed_commit, operation=disks.commit, fault="FULL")
@mutant("bridge/log/embedded/store.py", _failed_commit, operation=disks.append, fault="IOERR_WRITE")
def commit_swallowed(patch: Patch) -> None:
    """A COMMIT that failed and was undone is taken for one that happened."""

    def make(commit: Any) -> Any:
        def mutated(store: Store, connection: Connection) -> None:
            try:
                commit(store, connection)
            except sqlite3.Error:
                store._roll_back(connection)

        return mutated

    swap(patch, Store, "_commit", make)


@mutant("bridge/log/embedded/store.py", disks.test_a_transaction_may_fail_at_each_statement, operation=disks.ensure)
def read_again(patch: Patch) -> None:
    """A read that failed within a transaction is repeated, though SQLite may have undone what was before it."""

    def make(rows: Any) -> Any:
        def mutated(store: Store, sql: str, parameters: Any = ()) -> list[Row]:
            try:
                found: list[Row] = store.connection().execute(sql, parameters).fetchall()
            except sqlite3.Error:
                found = rows(store, sql, parameters)
            return found

        return mutated

    swap(patch, Store, "rows", make)


@mutant("bridge/log/embedded/log.py", members.test_a_member_in_a_long_handler_is_not_evicted)
def evicted_within_a_handler(patch: Patch) -> None:
    """A member is evicted at the end of its lease, though it may be within a handler."""
    swap(patch, EmbeddedLog, "_is_busy", lambda _: lambda *_: False)


@mutant("bridge/log/embedded/log.py", members.test_a_stopped_member_is_evicted_at_the_end_of_its_lease)
def waits_for_the_stopped(patch: Patch) -> None:
    """A member that is stopped is waited for as if it were within a handler."""
    swap(patch, embedded, "is_stopped", lambda _: lambda _pid: False)


_reused = members.test_a_pid_that_was_used_again_is_not_the_dead_member


@mutant("bridge/log/embedded/log.py", _reused, boot=False)
def a_reused_pid_lives(patch: Patch) -> None:
    """A dead member lives on in another process with its pid."""
    swap(patch, embedded, "is_alive", lambda _: lambda pid, _start: proc.start_ticks(pid) is not None)


@mutant("supervision/process/proc.py", _reused, boot=True)
def boots_are_alike(patch: Patch) -> None:
    """A member of an earlier boot lives on in a process that has its pid and started as long after the boot."""
    swap(patch, embedded, "is_alive", lambda _: lambda pid, start: proc.start_ticks(pid) == start.rpartition("/")[2])


@mutant("bridge/log/embedded/log.py", members.test_a_dead_member_is_noticed_long_before_its_lease_ends)
def nobody_looks(patch: Patch) -> None:
    """Dead members are noticed only when a lease is renewed."""
    swap(patch, EmbeddedLog, "_someone_left", lambda _: lambda *_: False)


@mutant("bridge/log/embedded/log.py", members.test_a_calendar_that_jumps_ends_no_lease, jump_s=86_400.0)
def leases_by_the_calendar(patch: Patch) -> None:
    """Leases are measured on the wall clock."""

    class Wall(members.Clock):
        def monotonic_s(self) -> float:
            return self.epoch_ms() / 1_000

    patch.setattr(members.Clock, "monotonic_s", Wall.monotonic_s)


@mutant("bridge/log/embedded/log.py", members.test_a_member_that_was_evicted_before_its_claim_claims_nothing)
def a_former_owner_claims(patch: Patch) -> None:
    """A claim does not ask who owns the shard now."""
    swap(patch, schema, "CLAIM", lambda sql: sql.replace("owner = ?", "(owner = ? OR 1)"))


# --- the shard ------------------------------------------------------------------------------------------------


@mutant("actors/shard/crash_guard.py", guards.test_every_stashed_command_is_handled_alone_before_batches_begin_again)
def stashed_are_not_marked(patch: Patch) -> None:
    """Commands that were stashed when a node died are not suspected of its death."""

    def make(unclean_takeover: Any) -> Any:
        def mutated(guard: CrashGuard, *given: Any) -> Any:
            incidents = unclean_takeover(guard, *given)
            guard._untried = set()
            return incidents

        return mutated

    swap(patch, CrashGuard, "_unclean_takeover", make)


@mutant("bridge/recovery.py", windows.test_what_has_ended_is_forgotten, **windows.ENDED)
def restored_ends_stay(patch: Patch) -> None:
    """The end of a life that is restored is never forgotten: its record stays in the state topic for ever."""

    def make(restore_states: Any) -> Any:
        def mutated(recovery: Recovery, found: RecoveredShard) -> None:
            restore_states(recovery, found)
            found.window._ended.clear()

        return mutated

    swap(patch, Recovery, "_restore_states", make)


@mutant("actors/shard/snapshot_window.py", windows.test_what_has_ended_is_forgotten, **windows.ENDED)
def offsets_are_not_noted(patch: Patch) -> None:
    """The offsets of journal records are not noted, so that every restore reads the whole journal."""
    swap(patch, SnapshotWindow, "placed", lambda _: lambda *_: None)


_expired = budgets.test_the_keys_that_expire_are_those_whose_last_restart_is_past


@mutant("actors/shard/restart_budget.py", _expired, steps=budgets.IN_ANOTHER_ORDER)
def budgets_expire_late(patch: Patch) -> None:
    """Restarts that a recovery reads are not in their order: a key expires late, behind a later one."""

    def restore(budget: RestartBudget, restarts_ms: Any) -> None:
        budget._restarts = dict(restarts_ms)

    patch.setattr(RestartBudget, "restore", restore)


# --- the answers to asks with an id ---------------------------------------------------------------------------

Table = answers._Table


@mutant("actors/shard/answers.py", asks.test_what_may_be_forgotten_is_refused)
def the_horizon_stays(patch: Patch) -> None:
    """An answer is forgotten, and nothing says that ids of its time may have been decided."""

    def make(evict: Any) -> Any:
        def mutated(table: Any, *given: Any) -> Any:
            horizon_ms = table.horizon_ms
            yield from evict(table, *given)
            table.horizon_ms = horizon_ms

        return mutated

    swap(patch, Table, "evict", make)


@mutant("bridge/recovery.py", asks.test_what_may_be_forgotten_is_refused)
def the_horizon_is_not_restored(patch: Patch) -> None:
    """The next owner of a shard begins without a horizon."""
    swap(patch, AnswerTable, "__init__", lambda init: lambda table, limits, *_: init(table, limits))


@mutant("actors/shard/answers.py", asks.test_an_id_that_is_ahead_shuts_no_other_out, made=asks.auto)
def the_horizon_is_ahead(patch: Patch) -> None:
    """An answer goes before its id's own time has come, and takes the horizon there."""

    def make(put: Any) -> Any:
        def mutated(table: Any, key: str, record: Any) -> None:
            put(table, key, record)
            table._kept_ms -= max(0, record.made_ms - record.answered_ms)

        return mutated

    swap(patch, Table, "put", make)


@mutant("actors/shard/asked.py", asks.test_whatever_was_decided_is_the_answer, amount=-1)
def rejections_are_not_remembered(patch: Patch) -> None:
    """Only what had an effect is an answer: a rejected command is decided anew."""

    def make(remember: Any) -> Any:
        def mutated(turn: AskedTurn, envelope: Any, decision: Any, seq: int) -> None:
            if decision.events:
                remember(turn, envelope, decision, seq)

        return mutated

    swap(patch, AskedTurn, "remember", make)


@mutant("actors/shard/asked.py", asks.test_a_drop_is_an_answer)
def dead_letters_are_not_remembered(patch: Patch) -> None:
    """That a command will never be applied is no answer to its id."""

    def make(decide: Any) -> Any:
        def mutated(turn: AskedTurn, key: str, to: Any, answer: bytes, seq: int, *given: Any) -> None:
            if seq >= 0:
                decide(turn, key, to, answer, seq, *given)

        return mutated

    swap(patch, AskedTurn, "decide", make)


@mutant("actors/shard/answers.py", asks.test_a_sender_that_was_kept_answers_its_id_later)
def late_answers_are_not_remembered(patch: Patch) -> None:
    """The answer to a kept sender leaves its id open: who repeats the ask waits for ever."""

    def make(decide: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> Any:
            return None if given[-1] is None else decide(table, *given)

        return mutated

    swap(patch, AnswerTable, "decide", make)


@mutant("actors/shard/answers.py", asks.test_repetitions_of_what_is_parked_wait_for_its_answer)
def who_waits_is_forgotten(patch: Patch) -> None:
    """Only who asked first gets the answer."""

    def make(decide: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> Any:
            found = decide(table, *given)
            return found and ((), found[1])

        return mutated

    swap(patch, AnswerTable, "decide", make)


@mutant("actors/shard/answers.py", asks.test_what_is_open_is_not_forgotten)
def what_is_owed_is_forgotten(patch: Patch) -> None:
    """An id that is open is evicted like an answer."""

    def make(put: Any) -> Any:
        def mutated(table: Any, key: str, record: Any) -> None:
            put(table, key, record)
            if record.answer is None:
                answers.heapq.heappush(table._by_time, (record.made_ms, key))

        return mutated

    swap(patch, Table, "put", make)


@mutant("actors/shard/answers.py", asks.test_an_id_belongs_to_one_command_of_one_key)
def the_payload_is_not_compared(patch: Patch) -> None:
    """Another command with a known id is given the answer to the first."""
    swap(patch, answers, "is_same", lambda _: lambda *_: True)


@mutant("actors/shard/answers.py", asks.test_an_id_belongs_to_one_command_of_one_key)
def ids_of_all_keys_are_one(patch: Patch) -> None:
    """An id that was asked of one key is taken for known at another."""
    swap(patch, Table, "key", lambda key: lambda table, _key, ask: key(table, "", ask))


@mutant("actors/shard/answers.py", asks.test_an_id_from_the_future_is_refused_and_not_remembered)
def the_future_is_allowed(patch: Patch) -> None:
    """An id may be made at any time, and so outlast each horizon."""

    def make(init: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> None:
            init(table, *given)
            table._ahead_ms = 1 << 60

        return mutated

    swap(patch, AnswerTable, "__init__", make)


@mutant("actors/shard/answers.py", asks.test_ids_of_clients_do_not_push_out_those_of_callers)
def one_table_for_all(patch: Patch) -> None:
    """The ids that clients make push out those that callers gave."""

    def make(init: Any) -> Any:
        def mutated(table: AnswerTable, *given: Any) -> None:
            init(table, *given)
            table._tables[True] = table._tables[False]

        return mutated

    swap(patch, AnswerTable, "__init__", make)


@mutant("actors/shard/answers.py", asks.test_so_many_wait_for_one_answer_and_no_more)
def any_number_waits(patch: Patch) -> None:
    """Who waits for one answer is not limited, and neither is the record that names them."""
    patch.setattr(answers, "WAITING_MAX", 1 << 30)


# --- processes ------------------------------------------------------------------------------------------------


@mutant("bridge/node/in_flight.py", memories.test_a_pid_that_was_used_again_is_not_the_dead_process)
def a_reused_pid_works_on(patch: Patch) -> None:
    """The command of a dead worker is under way as long as another process has its pid."""
    real = in_flight._start

    class Whenever(int):
        def __ne__(self, other: object) -> bool:
            return False

    def start(pid: int) -> int:
        found = real(pid)
        return found if found < 0 else Whenever(found)

    patch.setattr(in_flight, "_start", start)


@mutant("bridge/node/in_flight.py", memories.test_a_death_is_told_once_to_the_owner_of_its_shard)
def told_again(patch: Patch) -> None:
    """A death is told to every later owner of the shard."""

    def make(deaths: Any) -> Any:
        def mutated(memory: InFlightCommands, shard: int) -> list[tuple[int, int]]:
            before = memory._cells.tolist()
            found: list[tuple[int, int]] = deaths(memory, shard)
            for index, value in enumerate(before):
                memory._cells[index] = value
            return found

        return mutated

    swap(patch, InFlightCommands, "deaths", make)


@mutant("bridge/node/in_flight.py", memories.test_the_successor_keeps_its_predecessors_command)
def the_predecessor_is_forgotten(patch: Patch) -> None:
    """A worker that takes a slot over erases the command that its predecessor died in."""

    def make(enter: Any) -> Any:
        def mutated(memory: InFlightCommands, slot: int) -> Any:
            memory._row(2 * slot)[:] = memoryview(bytes(32)).cast("q")
            return enter(memory, slot)

        return mutated

    swap(patch, InFlightCommands, "enter", make)


@mutant("supervision/process/worker_process.py", exits.test_the_earliest_deadline_counts)
def the_last_deadline_counts(patch: Patch) -> None:
    """A later deadline for a worker's exit replaces an earlier one."""

    def exit_by(process: WorkerProcess, deadline_s: float, why: str) -> None:
        process.deadline = (deadline_s, why)

    patch.setattr(WorkerProcess, "exit_by", exit_by)


@mutant("bridge/worker.py", policies.test_what_no_restart_mends_escalates, error=SlotTaken)
def a_taken_slot_is_tried_again(patch: Patch) -> None:
    """A worker whose slot is taken is restarted."""
    swap(patch, policies, "worker_policy", lambda _: lambda policy: policy)


# --- the worker's loop ----------------------------------------------------------------------------------------


@mutant("bridge/region.py", loops.test_siblings_are_in_the_order_of_hosting)
def in_order_of_assignment(patch: Patch) -> None:
    """The shards of a worker are siblings in the order in which they were assigned."""
    swap(patch, region, "Add", lambda add: lambda child, _before: add(child, None))


@mutant("bridge/assigned_shard.py", shards.test_a_commit_ends_a_series_of_aborts)
def aborts_add_up(patch: Patch) -> None:
    """The delay before a claim grows with every abort there ever was, though commits lie between them."""

    def make(committed: Any) -> Any:
        def mutated(assigned: AssignedShard) -> Any:
            aborts = assigned._aborts
            result = committed(assigned)
            assigned._aborts = aborts
            return result

        return mutated

    swap(patch, AssignedShard, "committed", make)
    patch.setattr("repertory.bridge.assigned_shard.Recovery", Mock())  # As in that test's module.


@mutant("bridge/assigned_shard.py", shards.test_a_recovery_that_succeeds_ends_the_doubts)
def doubts_add_up(patch: Patch) -> None:
    """The third contradiction that a shard ever met stops it for good."""

    def make(start: Any) -> Any:
        def mutated(assigned: AssignedShard, shard: Any) -> None:
            doubts = assigned._doubts
            start(assigned, shard)
            assigned._doubts = doubts

        return mutated

    swap(patch, AssignedShard, "start", make)
    patch.setattr("repertory.bridge.assigned_shard.Recovery", Mock())


# --- clocks ---------------------------------------------------------------------------------------------------


@mutant("bridge/log/kafka/lease.py", leases.test_it_runs_while_the_machine_sleeps)
def the_lease_sleeps_too(patch: Patch) -> None:
    """The lease of a Kafka worker stands still while the machine sleeps."""
    patch.setattr(Lease.__init__, "__defaults__", (lambda: time.monotonic(),))  # noqa: PLW0108 - the test's own clock


# --- the check ------------------------------------------------------------------------------------------------


def run(found_by: Callable[..., None], given: dict[str, Any], request: pytest.FixtureRequest) -> None:
    """Run a test as pytest does: what is not given are fixtures. Of Hypothesis' tests, run the one example given."""
    found_by = getattr(getattr(found_by, "hypothesis", None), "inner_test", found_by)
    names = [name for name in inspect.signature(found_by).parameters if name not in given]
    partial(found_by, **given)(**{name: request.getfixturevalue(name) for name in names})


@pytest.mark.parametrize("planted", MUTANTS, ids=[planted.plant.__name__ for planted in MUTANTS])
def test_it_is_found(planted: Mutant, monkeypatch: Patch, request: pytest.FixtureRequest) -> None:
    """The named test fails while the bug is planted."""
    with monkeypatch.context() as patch:
        planted.plant(patch)
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            run(planted.found_by, planted.given, request)


def table() -> str:
    """Return the table of these mutants."""
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - mutant", "     - where", "     - found by"]
    for planted in MUTANTS:
        assert planted.plant.__doc__
        name = planted.plant.__doc__.split("\n")[0].rstrip(".")
        lines += [f"   * - {name}", f"     - ``{planted.where}``", f"     - ``{planted.found_by.__name__}``"]
    return "\n".join(lines)


def test_the_table_is_in_the_documentation() -> None:
    """``docs/reliability.rst`` has the table; ``python -m tests.campaigns.test_named_mutants`` writes it."""
    assert table() in DOCS.read_text(encoding="utf-8")


if __name__ == "__main__":
    write({"named-mutants": table()})
