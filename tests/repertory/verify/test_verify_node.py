"""Real workers that are killed at random: their logs on SQLite and on a real Kafka pass ``verify``."""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from types import ModuleType
from uuid import uuid4

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Reader
from repertory.bridge.node.handle import NodeHandle
from repertory.verify import VerificationReport, verify
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: The limit of all waits, also on a busy machine.
DEADLINE_S = 90.0


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of each kind of log that processes can share."""
    return f"sqlite:{tmp_path / 'mixed.db'}" if request.param == "sqlite" else str(request.getfixturevalue("kafka_url"))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Import the application with a unique system name, which its workers inherit."""
    monkeypatch.setenv("MIXED_NAME", f"mixed-{uuid4().hex[:8]}")
    monkeypatch.setenv("MIXED_BATCH", "50")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = sys.modules.pop("tests.apps.mixed", None)
    yield importlib.import_module("tests.apps.mixed")
    del sys.modules["tests.apps.mixed"]
    if before is not None:
        sys.modules["tests.apps.mixed"] = before


def until_workers(node: NodeHandle, count: int, without: int = 0) -> list[int]:
    """Poll the node until it has ``count`` workers, none of which is the process ``without``."""
    deadline_s = time.monotonic() + DEADLINE_S
    while len(node.workers) < count or without in node.workers.values():
        assert time.monotonic() < deadline_s, f"only {node.workers}"
        node.poll(0.05)
    return list(node.workers.values())


def until_quiet(app: ModuleType, node: NodeHandle, reader: Reader) -> VerificationReport:
    """Verify until all commands are handled, none is stashed for a restart, and nothing is written meanwhile."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        node.poll(0.2)
        report = verify(reader, app.system)
        if not report.grew and not {"not handled yet", "stashed"} & report.fates.keys():
            return report
        assert time.monotonic() < deadline_s, report.fates


def test_workers_that_are_killed_leave_a_log_that_passes(app: ModuleType, url: str) -> None:
    """Workers are killed repeatedly under a mixed load, on every log that processes can share."""
    draw = random.Random(5)  # noqa: S311  reproducible on purpose
    with ExitStack() as stack:
        backend = stack.enter_context(closing(connect(url)))
        backend.ensure([app.NEWS_SPEC])
        app.system.prepare(backend)
        sender = app.Sender(stack.enter_context(closing(backend.appender())))
        reader = stack.enter_context(closing(backend.reader()))
        node: NodeHandle = app.system.spawn("tests.apps.mixed:system", log=url, workers=2, node="one")
        try:
            workers = until_workers(node, 2)
            for number in range(5):
                app.load(sender, draw, 150)
                victim = workers[number % 2]
                os.kill(victim, signal.SIGKILL)
                app.load(sender, draw, 50)
                workers = until_workers(node, 2, without=victim)
            report = until_quiet(app, node, reader)
        finally:
            node.stop()
        after = verify(reader, app.system)
    for each in (report, after):
        assert each.ok, [str(offender) for check in each.checks for offender in check.offenders]
        assert not any(check.unverifiable for check in each.checks)
    assert sum(report.fates.values()) > 1_000
