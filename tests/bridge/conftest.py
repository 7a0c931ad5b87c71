"""The logs on which the contract suite runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend
from repertory.bridge.system.settings import Settings
from tests.support.logs.log_driver import PATIENT, LogHarness

Connect = Callable[[Settings], Backend]


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of the log under test."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of the log under test; Kafka is started for the first test that needs it."""
    match kind:
        case "memory":
            return "memory:"
        case "sqlite":
            return f"sqlite:{tmp_path / 'test.db'}"
        case _:
            return str(request.getfixturevalue("kafka_url"))


@pytest.fixture(params=["exactly-once", "at-least-once"])
def delivery(request: pytest.FixtureRequest) -> str:
    """Return the delivery mode under test."""
    return str(request.param)


@pytest.fixture
def backend(url: str) -> Backend:
    """Open the log under test; the harness that uses it closes it."""
    return connect(url)


@pytest.fixture
def bare_world(url: str, kind: str) -> Iterator[LogHarness]:
    """Yield a harness without topics."""
    world = LogHarness(connect(url, PATIENT) if kind == "kafka" else connect(url), kind)
    yield world
    world.close()


@pytest.fixture
def world(bare_world: LogHarness) -> LogHarness:
    """Return a harness with topics of two partitions."""
    bare_world.make()
    return bare_world


@pytest.fixture
def short_lease(url: str, kind: str) -> Iterator[LogHarness]:
    """Yield a harness whose members are evicted soon after they stop polling.

    librdkafka's own thread keeps a member alive that is not polled, up to ``max.poll.interval.ms``.
    """
    # Kafka's own least: on a busy machine a member that is polled all the time can be late by a second.
    session_s = 6.0 if kind == "kafka" else 0.5
    sleep = {"max.poll.interval.ms": f"{session_s * 1_000:.0f}"}
    world = LogHarness(connect(url, Settings(session_timeout_s=session_s), sleep), kind)
    world.make()
    yield world
    world.close()
