"""Clients and workers are killed as they ask and answer: each id has one effect, and all its answers are equal."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from repertory.bridge.log.connect import connect
from tests.support.nodes.ask_trial import CLIENTS, Asker, AskTrial, effects
from tests.support.nodes.trial import DEADLINE_S, application
from tests.support.paths import ROOT
from tests.support.processes import end, started
from tests.support.working import working

pytestmark = pytest.mark.processes

#: Around deciding, committing and answering; both logs pass the first three.
POINTS = {
    "sqlite": ("restored:1", "decided:3", "handed-over:5", "commit-heard:4", "queued:6"),
    "kafka": ("decided:3", "produced:4", "commit-asked:5", "committed:4", "commit-heard:3"),
}


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of a log that processes share."""
    return str(request.param)


@pytest.fixture(params=["exactly-once", "at-least-once"])
def app(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the application with a system of its own; processes that are started inherit it."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PAYING_NAME", f"paying-{uuid4().hex[:8]}")
    monkeypatch.setenv("PAYING_DELIVERY", request.param)
    return application("unused", "tests.apps.paying")


@pytest.mark.parametrize("amount", [1, -1])
def test_a_client_is_killed_before_its_answer(app: ModuleType, url: str, amount: int) -> None:
    """Its command is in the log; a later process asks with its id and gets the answer to that command."""
    made_at_ms = round(datetime.now(UTC).timestamp() * 1_000)
    asking = [sys.executable, "-m", "tests.apps.paying", url, "k", "order-17", str(made_at_ms), "17", str(amount)]
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        app.system.prepare(backend)
        with started(asking, env=dict(os.environ), cwd=ROOT, stdout=subprocess.PIPE) as killed:
            sent_by(reader, app, 1)
            end(killed)
            assert killed.stdout is not None
            assert killed.stdout.read() == ""
        with working(app.system, url), ExitStack() as stack:
            others = [
                stack.enter_context(started(asking, env=dict(os.environ), cwd=ROOT, stdout=subprocess.PIPE))
                for _ in range(2)
            ]
            answers = {each.communicate(timeout=DEADLINE_S)[0] for each in others}
        expected = app.Paid(number=17, count=1) if amount > 0 else app.Poor(number=17, count=0)
        assert answers == {f"{expected} True\n"}
        assert effects(app, reader, app.Paid) == ({17: 1} if amount > 0 else {})


def sent_by(reader: Any, app: ModuleType, count: int) -> None:
    """Wait until so many commands are in the log."""
    topic, deadline_s = f"{app.system.name}.purse.commands", time.monotonic() + DEADLINE_S
    while sum(1 for partition in range(2) for _ in reader.read(topic, partition)) < count:
        assert time.monotonic() < deadline_s


@pytest.fixture
def trial(app: ModuleType, url: str) -> Iterator[AskTrial]:
    """Yield a new system on the log."""
    trial = AskTrial(app, url)
    yield trial
    trial.close()


def test_workers_are_killed_while_clients_repeat_their_asks(
    kind: str, app: ModuleType, trial: AskTrial, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every id has one effect, counted in the journal; all its answers are equal, the last one too."""
    points = POINTS[kind]
    trial.armed(points, monkeypatch)
    trial.ask_through(len(points), [Asker(app, url, number) for number in range(CLIENTS)])
