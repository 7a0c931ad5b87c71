"""The same histories of port operations have the same outcomes on the embedded log and on Kafka."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.system.settings import Settings
from tests.support.logs.histories import Outcome, Player, Step, history
from tests.support.logs.log_driver import LogHarness

#: ``make chaos`` plays more histories: so many seeds, from ``REPERTORY_DIFFERENTIAL_FIRST`` on.
HISTORIES = int(os.environ.get("REPERTORY_DIFFERENTIAL", "0"))
FIRST = int(os.environ.get("REPERTORY_DIFFERENTIAL_FIRST", "0"))
#: How long a member may sleep before it is replaced. A broker that the tests did not start allows no less than six
#: seconds.
SESSION_S = {"memory": 0.5, "sqlite": 0.5, "kafka": 6.0 if os.environ.get("REPERTORY_TEST_KAFKA") else 2.0}


def steps_of(seed: int) -> list[Step]:
    """Return a seed's history; in every fourth, members sleep past their sessions, which is slow."""
    return history(seed, sleeps=seed % 4 == 3)


def seeds(few: int) -> range:
    """Return the seeds of this run."""
    return range(FIRST, FIRST + (HISTORIES or few))


def played(url: str, kind: str, steps: Sequence[Step]) -> list[Outcome]:
    """Play a history on a log and return its outcomes."""
    sleep = {"max.poll.interval.ms": f"{SESSION_S[kind] * 1_000:.0f}"}
    world = LogHarness(connect(url, Settings(session_timeout_s=SESSION_S[kind]), sleep), kind)
    try:
        return Player(world).play(steps)
    finally:
        world.close()


def compared(steps: Sequence[Step], reference: Sequence[Outcome], other: Sequence[Outcome]) -> None:
    """Fail with the first step whose outcomes differ."""
    for number, (one, another) in enumerate(zip(reference, other, strict=True)):
        step = steps[number] if number < len(steps) else "the end"
        assert one == another, f"step {number}, {step}: {one} in memory, {another} here"


@pytest.mark.parametrize("seed", seeds(40))
def test_memory_and_a_file_behave_alike(seed: int, tmp_path: Path) -> None:
    """``memory:`` and ``sqlite:`` have the same outcomes."""
    steps = steps_of(seed)
    file = played(f"sqlite:{tmp_path / 'log.db'}", "sqlite", steps)
    compared(steps, played("memory:", "memory", steps), file)


@pytest.mark.kafka
@pytest.mark.parametrize("seed", seeds(12))
def test_the_embedded_log_and_kafka_behave_alike(kafka_url: str, seed: int) -> None:
    """An application that moves from one to the other changes only the URL."""
    steps = steps_of(seed)
    compared(steps, played("memory:", "memory", steps), played(kafka_url, "kafka", steps))
