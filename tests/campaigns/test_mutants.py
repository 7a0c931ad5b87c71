"""The tests are tested: each bug that is planted in the protocol is found by the simulator within so many seeds."""

from __future__ import annotations

import pytest

from tests.campaigns.mutants import AT_LEAST_ONCE_SCENARIO, DOCS, MUTANTS, SCENARIO, Mutant, find

pytestmark = pytest.mark.simulation


@pytest.mark.parametrize("planted", MUTANTS, ids=[planted.plant.__name__ for planted in MUTANTS])
def test_a_planted_bug_is_found(planted: Mutant) -> None:
    """Some seed breaks a promise while the bug is there."""
    assert find(planted) is not None, f"not found within {planted.seeds} seeds: {planted.name}"


def test_what_was_planted_is_gone() -> None:
    """A mutant leaves nothing behind: the seeds that found it are clean again."""
    for scenario in (SCENARIO, AT_LEAST_ONCE_SCENARIO):
        assert all(scenario.run(seed).violation is None for seed in range(5_001, 5_011))


def test_every_mutant_is_in_the_table() -> None:
    """The documentation says how soon each is found; written anew by ``python -m tests.campaigns.mutants``."""
    text = DOCS.read_text(encoding="utf-8")
    for planted in MUTANTS:
        assert f"* - {planted.name}\n" in text, planted.name
