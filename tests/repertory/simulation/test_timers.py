"""The simulator and timers: they fire between any two crashes, and its model knows which of them has an effect."""

from __future__ import annotations

import pytest

from repertory.simulation import FAULTS, simulate
from tests.apps import timing
from tests.campaigns.mutants import at_least_once

pytestmark = pytest.mark.simulation

#: Always the same, so that a failure is that of the code.
SEEDS = range(2_000, 2_060)


@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
def test_no_fault_breaks_a_promise_of_timers(mode: str) -> None:
    """With asks repeated, clocks that jump, and outputs refused: those of timers too."""
    system = timing.system if mode == "exactly-once" else at_least_once(timing.system)
    totals = simulate(
        system,
        commands=timing.commands,
        allowed_errors=timing.allowed_errors,
        seeds=SEEDS,
        minimise=False,
        ids=True,
    )
    assert totals.runs == len(SEEDS)
    assert set(totals.faults) == set(FAULTS)
