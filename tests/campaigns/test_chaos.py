"""Short runs of the chaos program: it injects faults, ends them, verifies, and terminates."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.paths import ROOT


@pytest.mark.kafka
@pytest.mark.processes
@pytest.mark.parametrize(
    "options",
    [["--seed", "1"], ["--seed", "2", "--bank"], ["--seed", "3", "--shop"]],
    ids=["counters", "bank", "shop"],
)
@pytest.mark.timeout(400)
def test_twenty_seconds_of_chaos(kafka_url: str, options: list[str]) -> None:
    """Every promise holds. ``kafka_url`` skips the test if no broker can run; chaos starts its own broker."""
    run = subprocess.run(
        [sys.executable, "-m", "tests.campaigns.chaos", "--minutes", "0.33", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=390,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    assert "every promise held" in run.stdout
