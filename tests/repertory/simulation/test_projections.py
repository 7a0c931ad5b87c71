"""Projections in the simulator: whatever fails, their rows are those of one undisturbed run; and mistakes are found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.dialects import postgresql

from repertory import ActorSystem
from repertory.projections import At, Db, Park, Projection, Retry, project, table, upsert
from repertory.simulation import FAULTS, PROJECTION_FAULTS, Outcome, Scenario, SimulationFailed, simulate
from repertory.simulation.projected.faults import KILLED_AT
from repertory.simulation.projected.rules import ROWS
from repertory.simulation.stateful import state_machine
from repertory.simulation.unexplained import STOPPED
from tests.apps import ledgers
from tests.apps.ledgers import Ledger, OldLedger, Paid, Purse, Till
from tests.support.paths import ROOT
from tests.support.traces import traces_elsewhere

pytestmark = pytest.mark.simulation

#: So many seeds of each delivery; ``make chaos`` takes more.
SEEDS = int(os.environ.get("REPERTORY_PROJECTION_SEEDS", "75"))
#: What each of the tests with all faults must reach.
REACHED = (
    *(f"projector killed at {at}" for at in KILLED_AT),
    "operator retried what was projected",
    "projector killed by an event",
    "projector could not read",
    "projector did not hear of its commit",
    "projector halved a batch",
    "projector lost a race",
    "projector parked a key",
    "projector stopped a partition",
    "projector was locked out",
    "workers went on while a projector read",
)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_no_fault_changes_a_row(delivery: str) -> None:
    """Under all faults of the log, the projectors and their database; and entities and tables say the same."""
    system = ledgers.ledgers(Ledger, OldLedger, delivery=delivery)
    totals = simulate(
        system, commands=ledgers.commands, invariant=ledgers.invariant, seeds=range(SEEDS), minimise=False,
    )  # fmt: skip
    assert totals.faults.keys() == {*FAULTS, *PROJECTION_FAULTS}
    assert not [each for each in REACHED if not totals.probes[each]]


def test_what_is_parked_and_retried_is_applied_once_and_in_order() -> None:
    """While projectors race that know more or less of it: with no other faults, which would hide it."""
    kinds = ("event-fails", "event-kills", "projector-meanwhile", "projector-stopped", "operate")
    system = ledgers.ledgers(Ledger, OldLedger, on_error=Park(times=0))
    totals = simulate(
        system, commands=ledgers.commands, invariant=ledgers.invariant, faults=kinds, seeds=range(40), minimise=False,
    )  # fmt: skip
    assert totals.probes["projector parked a key"]
    assert totals.probes["operator retried what was projected"]


def test_another_process_does_the_same(tmp_path: Path) -> None:
    """The trace, which has what the projectors did, depends neither on the hash seed nor on the process."""
    traces = [traces_elsewhere("tests.apps.ledgers", 5, hash_seed, tmp_path) for hash_seed in ("1", "2")]
    assert traces[0] == traces[1]


def test_a_tape_does_the_same_again() -> None:
    """So a failure can be minimised, with the faults of projectors."""
    scenario = Scenario(system=ledgers.system, commands=ledgers.commands)
    found = [scenario.run(seed) for seed in range(4)]
    for each in found:
        assert scenario.replay(each.seed, scenario.workload(each.seed), each.tape).trace == each.trace
    assert any("projector" in line for each in found for line in each.schedule)


# --- mistakes of users ----------------------------------------------------------------------------------------


class Mistaken(Projection):
    """A projection of purses and tills with a mistake; the subclasses have one each."""

    rows = table(sa.Column("purse", sa.String(255), primary_key=True), sa.Column("number", sa.Float, nullable=False))
    put = upsert(rows, by="purse", set="number")

    def number_of(self, _evt: Paid) -> float:
        """Return what is written."""
        raise NotImplementedError

    @project
    def paid(self, evt: Paid, at: At, db: Db) -> None:
        db.later(self.put, purse=at.key, number=self.number_of(evt))


class Counting(Mistaken):
    """It counts in its instance, which counts again what was undone, and knows nothing of other processes."""

    count = 0

    def number_of(self, _evt: Paid) -> float:
        self.count += 1
        return self.count


class Clocked(Mistaken):
    """It asks what time it is."""

    def number_of(self, _evt: Paid) -> float:
        return time.time()


@pytest.mark.parametrize("kind", [Counting, Clocked])
def test_a_handler_that_depends_on_more_than_its_event_is_found(kind: type[Projection]) -> None:
    """Its rows are not those of a new instance that takes the same events one at a time."""
    with pytest.raises(SimulationFailed, match=ROWS) as failure:
        simulate(ledgers.ledgers(kind), commands=ledgers.commands, seeds=range(10), minimise=False)
    assert "should have {'purse': 'p" in str(failure.value)
    assert "state in the instance" in str(failure.value)


class Failing(Mistaken):
    """It takes no payment of more than 90 cents."""

    def number_of(self, evt: Paid) -> float:
        if evt.cents > 90:
            raise OverflowError(f"{evt.cents} cents are too many")
        return evt.cents


@pytest.mark.parametrize(("on_error", "fate"), [(Retry(1), "has stopped at"), (Park(times=0), "has parked the key 'p")])
def test_a_handler_that_fails_by_itself_is_no_clean_run(on_error: Retry | Park, fate: str) -> None:
    """The failure names the event, the error and its line, and says how to allow it."""
    with pytest.raises(SimulationFailed) as failure:
        simulate(ledgers.ledgers(Failing, on_error=on_error), commands=ledgers.commands, seeds=range(10))
    assert failure.value.rule == STOPPED
    text = str(failure.value)
    assert "is no clean run" in text
    assert f"mistaken (version 1) {fate}" in text.replace("failing", "mistaken")
    assert "in number_of" in text
    assert "allowed_errors" in text
    assert len(failure.value.commands) == 1, "one payment is enough"


def test_an_error_that_is_meant_to_happen_is_allowed() -> None:
    """What was applied is compared all the same; and the run is not lossless."""
    lossless = []
    totals = simulate(
        ledgers.ledgers(Failing, on_error=Park(keys_max=2, times=0)), commands=ledgers.commands, seeds=range(30),
        invariant=lambda outcome: lossless.append(outcome.lossless), allowed_errors=(OverflowError,),
    )  # fmt: skip
    assert totals.probes["projection stopped or parked by an allowed error"]
    assert not all(lossless)


# --- what users see -------------------------------------------------------------------------------------------


def test_an_invariant_reads_tables_by_their_names() -> None:
    """And is told what there is, where it asks for something else."""

    class Elsewhere(Projection):
        rows = table(sa.Column("purse", sa.String(255), primary_key=True))
        put = upsert(rows, by="purse")

        @project
        def paid(self, _evt: Paid, at: At, db: Db) -> None:
            db.later(self.put, purse=at.key)

    def asks(outcome: Outcome) -> None:
        assert all(row.keys() == {"purse", "cents", "payments"} for row in outcome.rows(Ledger))
        with pytest.raises(LookupError, match="Ledger has no table 'line'; it has largest, lines, rows, tills"):
            outcome.rows(Ledger, "line")
        with pytest.raises(LookupError, match="does not project"):
            outcome.rows(Elsewhere)

    simulate(ledgers.system, commands=ledgers.commands, invariant=asks, seeds=range(2))


def test_tables_that_sqlite_cannot_make_are_refused_and_can_be_left_out() -> None:
    """A run's database is SQLite; a projection for PostgreSQL alone is left out on demand."""

    class OnlyThere(Projection):
        rows = table(sa.Column("purse", sa.String(255), primary_key=True), sa.Column("all", postgresql.ARRAY(sa.Text)))
        put = upsert(rows, by="purse")

        @project
        def paid(self, _evt: Paid, at: At, db: Db) -> None:
            db.later(self.put, purse=at.key)

    system = ledgers.ledgers(OnlyThere)
    with pytest.raises(ValueError, match=r"OnlyThere cannot be simulated.*projections=False"):
        simulate(system, commands=ledgers.commands, seeds=range(1))

    def asks(outcome: Outcome) -> None:
        with pytest.raises(LookupError, match="projects nothing, and so not OnlyThere: are projections left out"):
            outcome.rows(OnlyThere)

    totals = simulate(system, commands=ledgers.commands, seeds=range(3), invariant=asks, projections=False)
    assert not totals.faults.keys() & PROJECTION_FAULTS.keys()


def test_seeds_of_a_system_without_projections_stay_as_they_are() -> None:
    """Nothing about projections is drawn for it."""
    system = ActorSystem("plain")
    system.host(Purse, partitions=3)
    system.host(Till, partitions=2)
    alone, asked = (
        simulate(system, commands=ledgers.commands, seeds=range(3), faults=faults)
        for faults in (FAULTS, [*FAULTS, *PROJECTION_FAULTS])
    )
    assert (alone.faults, alone.probes, alone.virtual_s) == (asked.faults, asked.probes, asked.virtual_s)


def test_without_the_extra_all_else_is_simulated() -> None:
    """SQLAlchemy is imported where a system projects something, and nowhere else."""
    code = (
        "import sys; sys.modules['sqlalchemy'] = None; from repertory.simulation import simulate; "
        "from tests.apps import simulated as s; "
        "simulate(s.system, commands=s.commands, allowed_errors=s.allowed_errors, seeds=range(2))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_the_state_machine_has_projections_too() -> None:
    """Hypothesis draws the faults of projectors as all others."""
    machine = state_machine(ledgers.system, commands=ledgers.commands, invariant=ledgers.invariant)
    run_state_machine_as_test(machine, settings=settings(max_examples=25, stateful_step_count=20, deadline=None))
