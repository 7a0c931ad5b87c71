"""Ctrl-C at random moments, by a real signal, on the logs that outlive a process: the cell is run again, no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from tests.support.paths import ROOT
from tests.support.processes import inherited_signals

#: ``INTERRUPTED_ROUNDS=100`` for a long run.
ROUNDS = int(os.environ.get("INTERRUPTED_ROUNDS", "0"))
SIGNALS = 3
SEED = int(os.environ.get("INTERRUPTED_SEED", "1"))


@pytest.mark.processes
@pytest.mark.timeout(1_200 if ROUNDS else 180)
@pytest.mark.parametrize(
    ("log", "rounds"), [("sqlite", 40), pytest.param("kafka", 8, marks=pytest.mark.kafka)], ids=["sqlite", "kafka"]
)
@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_cell_is_interrupted_and_run_again(
    request: pytest.FixtureRequest, tmp_path: Path, log: str, rounds: int, delivery: str
) -> None:
    """Wherever the signal comes, also in a start, a close or a tell: states and log are what they must be."""
    url = f"sqlite:{tmp_path}/log.db" if log == "sqlite" else str(request.getfixturevalue("kafka_url"))
    command = [sys.executable, "-m", "tests.apps.notebook", url, f"notebook-{uuid4().hex[:8]}", "--delivery", delivery]
    command += ["--rounds", str(ROUNDS or rounds), "--seed", str(SEED)]
    random = Random(SEED)  # noqa: S311 - a schedule, not a secret
    with inherited_signals():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
    timers: list[threading.Timer] = []
    last = ""
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            last = line
            for _ in range(SIGNALS):
                delay_s = random.expovariate(1 / (0.02 if log == "sqlite" else 0.3))
                timers.append(threading.Timer(delay_s, process.send_signal, (signal.SIGINT,)))
                timers[-1].start()
        for timer in timers:
            timer.cancel()
    assert (process.returncode, last.split()[-1:]) == (0, ["[]"]), last
