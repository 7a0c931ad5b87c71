"""The simulator as a Hypothesis state machine, which chooses the schedule and shrinks a failing one."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from repertory.simulation.stateful import state_machine
from repertory.simulation.virtual import Violation
from tests.apps import simulated
from tests.campaigns.mutants import MUTANTS

pytestmark = pytest.mark.simulation

QUICK = settings(
    max_examples=40, stateful_step_count=30, deadline=None, derandomize=True, report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck), database=None, phases=(Phase.generate,),
)  # fmt: skip

machine = state_machine(simulated.system, commands=simulated.commands, allowed_errors=simulated.allowed_errors)
TestSimulation = machine.TestCase
TestSimulation.settings = QUICK


def test_it_finds_what_is_broken() -> None:
    """A planted bug is found."""
    (planted,) = [each for each in MUTANTS if each.plant.__name__ == "late_tail"]
    with ExitStack() as stack:
        planted.plant(stack)
        with pytest.raises(Violation):
            run_state_machine_as_test(machine, settings=settings(QUICK, max_examples=300))
