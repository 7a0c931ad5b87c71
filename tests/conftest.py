"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.postgresql import Postgres, PostgresMissingError

# A console takes its width when it is created: no test may depend on the terminal, or on who imports a command first.
os.environ["COLUMNS"] = "400"

# No test asserts on time: on a busy machine an example takes as long as it takes.
settings.register_profile("repertory", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repertory")


@pytest.fixture(autouse=True)
def _environment_of_its_own() -> Iterator[None]:
    """Give each test the environment of the first one: what a test sets for its programs changes no other test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    """Fail a test that changes its process for others: they would see or do something else, in some orders."""
    loggers = [logging.getLogger(), logging.getLogger("repertory")]
    before, thresholds = _shared(loggers), gc.get_threshold()
    yield
    after = _shared(loggers)
    gc.set_threshold(*thresholds)  # mypy has its own.
    for each, (level, disabled, propagate) in zip(loggers, before["loggers"], strict=True):
        each.setLevel(level)
        each.disabled, each.propagate = disabled, propagate
    os.chdir(before["directory"])
    assert after == before


def _shared(loggers: list[logging.Logger]) -> dict[str, Any]:
    return {
        "loggers": [(each.level, each.disabled, each.propagate) for each in loggers],
        "directory": Path.cwd(),
        "signals": [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)],
        "tracebacks": getattr(sys, "tracebacklimit", None),
    }


@pytest.fixture(scope="session")
def kafka_url() -> Iterator[str]:
    """Give the URL of a real Kafka: ``REPERTORY_TEST_KAFKA=host:port`` if set, else one of this run.

    Without Java and Maven the test is skipped, or fails if ``CI`` is set.
    """
    given = os.environ.get("REPERTORY_TEST_KAFKA")
    if given:
        yield f"kafka://{given}"
        return
    try:
        broker = Broker()
    except BrokerMissingError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test against a real Kafka: {missing}")
        pytest.skip(str(missing))
    try:
        yield broker.start().url
    finally:
        broker.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Give a real PostgreSQL of this run. Without Debian's package the test is skipped, or fails if ``CI`` is set."""
    try:
        server = Postgres()
    except PostgresMissingError as missing:
        if os.environ.get("CI"):
            pytest.fail(f"CI must test against a real PostgreSQL: {missing}")
        pytest.skip(str(missing))
    try:
        yield server.start()
    finally:
        server.close()
