"""The same histories of port operations on the embedded log and on Kafka come to the same."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.system.settings import Settings
from tests.support.logs.histories import Player, Step, Told, history
from tests.support.logs.log_driver import LogHarness

#: ``make chaos`` plays more histories: so many, from ``REPERTORY_DIFFERENTIAL_FIRST`` on.
HISTORIES = int(os.environ.get("REPERTORY_DIFFERENTIAL", "0"))
FIRST = int(os.environ.get("REPERTORY_DIFFERENTIAL_FIRST", "0"))
#: How long a member may sleep before it is replaced. A broker that is not ours allows no less than six seconds.
SESSION_S = {"memory": 0.5, "sqlite": 0.5, "kafka": 6.0 if os.environ.get("REPERTORY_TEST_KAFKA") else 2.0}


def steps_of(seed: int) -> list[Step]:
    """Return a seed's history; in every fourth members sleep past their sessions, which takes its time."""
    return history(seed, sleeps=seed % 4 == 3)


def seeds(few: int) -> range:
    """Return the seeds of this run."""
    return range(FIRST, FIRST + (HISTORIES or few))


def played(url: str, kind: str, steps: Sequence[Step]) -> list[Told]:
    """Play a history on a log and return what it came to."""
    sleep = {"max.poll.interval.ms": f"{SESSION_S[kind] * 1_000:.0f}"}
    world = LogHarness(connect(url, Settings(session_timeout_s=SESSION_S[kind]), sleep), kind)
    try:
        return Player(world).play(steps)
    finally:
        world.close()


def compared(steps: Sequence[Step], reference: Sequence[Told], other: Sequence[Told]) -> None:
    """Name the first step that came to something else."""
    for number, (one, another) in enumerate(zip(reference, other, strict=True)):
        step = steps[number] if number < len(steps) else "the end"
        assert one == another, f"step {number}, {step}: {one} in memory, {another} here"


@pytest.mark.parametrize("seed", seeds(40))
def test_memory_and_a_file_are_one_log(seed: int, tmp_path: Path) -> None:
    """``memory:`` and ``sqlite:`` come to the same."""
    steps = steps_of(seed)
    file = played(f"sqlite:{tmp_path / 'log.db'}", "sqlite", steps)
    compared(steps, played("memory:", "memory", steps), file)


@pytest.mark.kafka
@pytest.mark.parametrize("seed", seeds(12))
def test_the_embedded_log_and_kafka_come_to_the_same(kafka_url: str, seed: int) -> None:
    """Whoever moves from the one to the other changes the URL and nothing else."""
    steps = steps_of(seed)
    compared(steps, played("memory:", "memory", steps), played(kafka_url, "kafka", steps))
