"""Deterministic simulation: the same shards, loop, codec and supervision, in virtual time, under seeded faults.

::

    from repertory.simulation import simulate

    def test_no_fault_hurts() -> None:
        simulate(system, commands=my_commands, invariant=my_invariant, seeds=range(200))

A run is a function of its seed. Under every schedule of faults, a reader of committed records must see what a run
without faults would leave; this is checked for every system. ``invariant`` checks what must hold for yours.
``repertory simulate module:system --seeds 1000`` does the same from the command line.
"""

from repertory.simulation.api import simulate
from repertory.simulation.failure import SimulationFailed
from repertory.simulation.generate import generated
from repertory.simulation.invariant import Outcome
from repertory.simulation.runs import Result, Scenario, Totals
from repertory.simulation.swarm import FAULTS, PROJECTION_FAULTS
from repertory.simulation.virtual import Violation

__all__ = [
    "FAULTS",
    "PROJECTION_FAULTS",
    "Outcome",
    "Result",
    "Scenario",
    "SimulationFailed",
    "Totals",
    "Violation",
    "generated",
    "simulate",
]
