"""A rolling deploy of two builds on one log, both ways, under load: nothing is lost, dropped or handled twice."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import uuid4

import pytest

from repertory.actors import evolution
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.reports import IncidentReport, WorkerJoined
from repertory.bridge.system.client import Client
from repertory.bridge.system.failed import dead_letters
from repertory.supervision.process.reports import WorkerExited
from tests.support.nodes.trial import Trial, application

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

MODULE = "tests.apps.evolving"
BURST = 100


class Deploy(Trial):
    """A run of ``tests.apps.evolving``: nodes and commands of both builds, checked by the second."""

    def __init__(self, name: str, url: str) -> None:
        self.old = application(name, MODULE, build=1)
        super().__init__(application(name, MODULE, build=2), url)
        self._older = Client(self.old.system, self._backend)
        self._name = name
        #: Nodes that were stopped.
        self.left = 0

    def start(self, build: int, node: str) -> NodeHandle:
        """Start a node of a build."""
        application(self._name, MODULE, build=build)
        started = self.node(node, workers=2)
        self.until(lambda: self.has_joined(started), f"{node} has joined")
        return started

    def leave(self, node: NodeHandle) -> None:
        """Stop one node."""
        assert node.stop() == 0
        self.nodes.remove(node)
        self.left += 1

    def send(self, count: int) -> None:
        """Send commands of both builds in turn, with unique numbers."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        old, new = self.old, self.app
        self._older.tell_all((old.Counter.add, f"c-{n % 50}", old.Add(by=n)) for n in numbers[::2])
        self._client.tell_all((new.Counter.add, f"c-{n % 50}", new.Add(by=n, label="new")) for n in numbers[1::2])

    def send_old(self, count: int) -> None:
        """Send commands of the older build."""
        numbers = range(self.sent, self.sent + count)
        self.sent += count
        self._older.tell_all((self.old.Counter.add, f"c-{n % 50}", self.old.Add(by=n)) for n in numbers)

    def has_joined(self, node: NodeHandle) -> bool:
        """Return whether all workers of a node are members of the group; each node of a trial has two."""
        return len(self.reported(WorkerJoined)) == 2 * (self.nodes.index(node) + 1 + self.left)

    def left_to_newer(self) -> list[IncidentReport]:
        """Return the reports of workers that left a topic to the newer build."""
        return [each for each in self.reported(IncidentReport) if each.error == "NewerBuild"]

    def close(self) -> None:
        """Stop what still runs."""
        self._older.close()
        super().close()


@pytest.fixture
def deploy(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Deploy]:
    """Yield a new system on the test run's Kafka."""
    monkeypatch.setattr(evolution, "_steps", {})  # Those of the application are for names of other tests, too.
    for name in ("KILLED_NAME", "KILLED_BUILD", "PYTHONPATH"):
        monkeypatch.setenv(name, "")  # Restores what `application` sets.
    deploy = Deploy(f"evolving-{uuid4().hex[:8]}", kafka_url)
    yield deploy
    deploy.close()


def test_two_builds_are_deployed_over_each_other(deploy: Deploy) -> None:
    """Old, then new beside it, old leaves, old comes back and new leaves, and new comes back."""
    first = deploy.start(1, "old")
    for _ in range(3):
        deploy.send_old(BURST)
    deploy.until(deploy.is_done, "the older build handles its commands")
    second = deploy.start(2, "new")
    for _ in range(10):
        deploy.send(BURST)
        deploy.poll()
    deploy.until(deploy.is_done, "both builds handle all commands")
    deploy.leave(first)
    deploy.send(BURST)
    deploy.until(deploy.is_done, "the newer build handles all commands")
    before = len(deploy.left_to_newer())
    back = deploy.start(1, "back")
    deploy.send(BURST)
    deploy.leave(second)
    for _ in range(5):
        deploy.send(BURST)
        deploy.poll()
    deploy.until(lambda: len(deploy.left_to_newer()) > before, "the older build leaves what it cannot handle")
    last = deploy.start(2, "again")
    deploy.until(deploy.is_done, "all commands are handled", 120)
    deploy.leave(back)
    deploy.leave(last)
    assert {each.where for each in deploy.left_to_newer()} <= {*deploy.app.system.commands_topics()}
    assert not [each for each in deploy.reported(WorkerExited) if each.how != "exit 0"], deploy.story()
    assert list(dead_letters(deploy.reader, deploy.app.system)) == []
    assert deploy.complaints() == []
