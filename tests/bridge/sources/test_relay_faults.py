"""Whatever its log, its process and its operators do, each record is relayed once, in order."""

from __future__ import annotations

import logging
import os
from collections import Counter

import pytest

from tests.bridge.sources import relay_faults

#: More of them: ``REPERTORY_RELAY_SEEDS=10000``.
SEEDS = int(os.environ.get("REPERTORY_RELAY_SEEDS", "300"))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """What fails is said thousands of times."""
    caplog.set_level(logging.CRITICAL, logger="repertory")


@pytest.mark.simulation
def test_each_record_is_relayed_once_under_all_faults() -> None:
    """Commits that abort, are late, or have an unknown outcome; lost and fenced relays; deaths anywhere."""
    happened: Counter[str] = Counter()
    for seed in range(SEEDS):
        happened += relay_faults.run(seed)
    expected = {"fate", "delay", "lose", "kill", "ask", "refuse", "died", "late", "late commit refused"}
    assert expected <= happened.keys(), happened


def run_some(seeds: int) -> None:
    """Run some seeds: what a planted bug must not survive."""
    for seed in range(seeds):
        relay_faults.run(seed)
