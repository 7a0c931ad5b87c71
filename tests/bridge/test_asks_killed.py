"""Clients and workers are killed as they ask and answer: each id has one effect, and all its answers are equal."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter as Multiset
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from uuid import uuid4

import pytest

from repertory import AskId, AskResult, LogUnavailable, OutcomeUnknown
from repertory.bridge import kill_points
from repertory.bridge.log.connect import connect
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.system.committed import journal, shard_record
from repertory.supervision.process.reports import WorkerExited, WorkerKilled
from repertory.verify import verify
from tests.support.nodes.trial import DEADLINE_S, Trial, application
from tests.support.paths import ROOT
from tests.support.processes import end, started
from tests.support.working import working

pytestmark = pytest.mark.processes

CLIENTS = 4
#: Each client asks with so many ids at least, and goes on until all kills have happened.
IDS_MIN = 40
#: An answer that a kill delays is asked for again: often enough that repetitions and answers pass each other.
TIMEOUT_S = 1.0
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


def effects(app: ModuleType, reader: Any) -> Multiset[int]:
    """Return the numbers of the commands with an effect, and how often each had one; the log must be whole."""
    report = verify(reader, app.system)
    assert report.ok, report
    behaviour = app.system.behaviour("purse")
    found: Multiset[int] = Multiset()
    for partition in range(2):
        shard = shard_record(reader, app.system, behaviour, partition)
        for record in journal(reader, app.system, behaviour, partition, shard, from_seq=0)[0]:
            event = behaviour.journal.decode(record.value or b"")
            if isinstance(event, app.Paid):
                found[event.number] += 1
    return found


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
        assert effects(app, reader) == ({17: 1} if amount > 0 else {})


def sent_by(reader: Any, app: ModuleType, count: int) -> None:
    """Wait until so many commands are in the log."""
    topic, deadline_s = f"{app.system.name}.purse.commands", time.monotonic() + DEADLINE_S
    while sum(1 for partition in range(2) for _ in reader.read(topic, partition)) < count:
        assert time.monotonic() < deadline_s


class Asker(threading.Thread):
    """A client that asks with ids, in turn with repetitions, and notes every answer. It ends once it is told to."""

    def __init__(self, app: ModuleType, url: str, number: int) -> None:
        super().__init__(name=f"asker {number}", daemon=True)
        self._app, self._url, self._first = app, url, number * 1_000_000
        self._random = random.Random(number)  # noqa: S311 - not a secret
        self.ids: dict[int, AskId] = {}
        self.answers: dict[int, list[AskResult[Any]]] = {}
        self.unknown = 0
        self.enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask until told otherwise."""
        try:
            with self._app.system.client(self._url) as client:
                while not self.enough.is_set() or len(self.ids) < IDS_MIN:
                    self._step(client)
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.error = error

    def _step(self, client: Any) -> None:
        number = self._first + len(self.ids)
        if self.ids and self._random.random() < 0.3:
            number = self._random.choice([*self.ids])
        self.ids.setdefault(number, AskId(f"order-{number}", datetime.now(UTC)))
        deadline_s = time.monotonic() + DEADLINE_S
        while not self.ask(client, number, TIMEOUT_S):
            assert time.monotonic() < deadline_s, f"{number} is not answered"

    def ask(self, client: Any, number: int, timeout_s: float) -> bool:
        """Ask once; return whether it was answered."""
        app = self._app
        message = app.Pay(number=number, amount=-1 if number % 5 == 0 else 1)
        try:
            result = client.ask_result(
                app.Purse.pay, f"k-{number % 7}", message, id=self.ids[number], timeout_s=timeout_s
            )
        except (OutcomeUnknown, LogUnavailable):
            self.unknown += 1
            return False
        self.answers.setdefault(number, []).append(result)
        return True


class AskTrial(Trial):
    """A run of the purses of ``tests.apps.paying``."""

    def armed(self, points: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> NodeHandle:
        """Start a node of two workers with traps at these points, one after the other."""
        monkeypatch.setenv(kill_points.VARIABLE, ",".join(points))
        node = self.node("one", workers=2)
        monkeypatch.delenv(kill_points.VARIABLE)
        return node

    def killed(self) -> int:
        """Count the workers that were killed at a point; one that was killed otherwise fails the test."""
        assert not self.reported(WorkerKilled), self.reported(WorkerKilled)
        return sum(1 for report in self.reported(WorkerExited) if report.how == "SIGKILL")


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
    askers = [Asker(app, url, number) for number in range(CLIENTS)]
    for asker in askers:
        asker.start()
    try:
        trial.until(lambda: trial.killed() >= len(points) or any(each.error for each in askers), "all kills")
    finally:
        for asker in askers:
            asker.enough.set()
    trial.until(lambda: not any(each.is_alive() for each in askers), "the end of the askers", 2 * DEADLINE_S)
    assert [each.error for each in askers] == [None] * CLIENTS
    last_word(trial, askers, url)
    assert trial.killed() == len(points)
    assert trial.stop() == [0]
    counted = effects(app, trial.reader)
    for asker in askers:
        for number, results in asker.answers.items():
            assert len({(result.value, result.position) for result in results}) == 1, results
            assert [result.again for result in results].count(False) <= 1
            assert isinstance(results[0].value, app.Poor if number % 5 == 0 else app.Paid)
            assert counted.pop(number, 0) == (number % 5 != 0), number
    assert counted == {}


def last_word(trial: AskTrial, askers: list[Asker], url: str) -> None:
    """Ask once more with each id: all of them, once no worker is killed any more."""

    def ask() -> None:
        with trial.app.system.client(url) as client:
            for asker in askers:
                for number in asker.ids:
                    assert asker.ask(client, number, DEADLINE_S), number

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    trial.until(lambda: not asking.is_alive(), "the last answers", 2 * DEADLINE_S)
    for asker in askers:
        assert all(asker.answers[number][-1].again for number in asker.ids)
