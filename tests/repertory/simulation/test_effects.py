"""The simulator and effects: they fail, hang and outlive their owners between any two crashes."""

from __future__ import annotations

from collections import Counter

import pytest

from repertory.simulation import FAULTS, simulate
from tests.apps import outside
from tests.apps.outside import Charge, Charged, charge
from tests.campaigns.mutants import at_least_once

#: Always the same, so that a failure is that of the code.
SEEDS = range(3_000, 3_060)


@pytest.mark.simulation
@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
def test_no_fault_breaks_a_promise_of_effects(mode: str) -> None:
    """Each has one result, is open, or is parked; its result is that of the owner, and its attempts are counted."""
    system = outside.system if mode == "exactly-once" else at_least_once(outside.system)
    totals = simulate(
        system,
        commands=outside.commands,
        allowed_errors=outside.allowed_errors,
        seeds=SEEDS,
        minimise=False,
        ids=True,
    )
    assert totals.runs == len(SEEDS)
    assert set(totals.faults) == set(FAULTS)


def test_a_fake_stands_for_an_effect() -> None:
    """It is given the request; what it returns is the result, and what it raises is a failure."""
    asked: Counter[int] = Counter()

    def fake(do: Charge) -> Charged:
        asked[do.amount] += 1
        if asked.total() % 5 == 0:
            raise OSError("no answer")
        return Charged(receipt="a fake's")

    simulate(
        outside.system, commands=outside.commands, allowed_errors=outside.allowed_errors, seeds=range(3),
        effects={charge: fake}, twice_every=0, minimise=False,
    )  # fmt: skip
    assert asked.keys() <= {0, 1}
    assert asked.total() > 20
