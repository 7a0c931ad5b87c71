"""Tests of the tests: the simulator finds each bug planted in the protocol within a number of seeds."""

from __future__ import annotations

import pytest

from tests.campaigns import scenarios
from tests.campaigns.mutants import AT_LEAST_ONCE_SCENARIO, DOCS, MUTANTS, SCENARIO, Mutant, find

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize("planted", MUTANTS, ids=[planted.plant.__name__ for planted in MUTANTS])
def test_a_planted_bug_is_found(planted: Mutant) -> None:
    """A seed breaks a promise while the bug is planted."""
    assert find(planted) is not None, f"not found within {planted.seeds} seeds: {planted.name}"


def test_a_mutant_is_removed_afterwards() -> None:
    """Without mutants, the seeds that found them pass."""
    for scenario in (SCENARIO, AT_LEAST_ONCE_SCENARIO):
        assert all(scenario.run(seed).violation is None for seed in range(5_001, 5_011))


def test_every_mutant_is_in_both_tables() -> None:
    """The documentation lists which seed finds it. ``python -m tests.campaigns.mutants`` writes the tables."""
    text = DOCS.read_text(encoding="utf-8")
    for table in ("mutants", "scenarios"):
        listed = text.partition(f"\n.. {table}\n")[2].partition(f"\n.. /{table}\n")[0]
        for planted in scenarios.mutants.MUTANTS:
            assert f"* - {planted.name}\n" in listed, f"{table}: {planted.name}"
