"""The logs that the contract suite is run on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend
from repertory.bridge.system.settings import Settings
from tests.support.logs.log_driver import LogHarness

Connect = Callable[[Settings], Backend]


@pytest.fixture(params=["memory", "sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def kind(request: pytest.FixtureRequest) -> str:
    """Name the log under test."""
    return str(request.param)


@pytest.fixture
def url(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of the log under test; Kafka is started when the first test asks for it."""
    match kind:
        case "memory":
            return "memory:"
        case "sqlite":
            return f"sqlite:{tmp_path / 'test.db'}"
        case _:
            return str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def backend(url: str) -> Backend:
    """Open the log under test; the world that is built on it closes it."""
    return connect(url)


@pytest.fixture
def bare_world(backend: Backend, kind: str) -> Iterator[LogHarness]:
    """Give a world without topics."""
    world = LogHarness(backend, kind)
    yield world
    world.close()


@pytest.fixture
def world(bare_world: LogHarness) -> LogHarness:
    """Give a world with topics of two partitions."""
    bare_world.make()
    return bare_world


@pytest.fixture
def short_lease(url: str, kind: str) -> Iterator[LogHarness]:
    """Give a world whose members are evicted soon when they sleep.

    librdkafka's own thread keeps a member alive that is not polled, up to ``max.poll.interval.ms``.
    """
    session_s = 0.5
    if kind == "kafka":  # a broker that is not ours allows no less than six seconds
        session_s = 6.0 if os.environ.get("REPERTORY_TEST_KAFKA") else 1.0
    sleep = {"max.poll.interval.ms": f"{session_s * 1_000:.0f}"}
    world = LogHarness(connect(url, Settings(session_timeout_s=session_s), sleep), kind)
    world.make()
    yield world
    world.close()
