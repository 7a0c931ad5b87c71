"""A foreign application in our consumer group is named, by the worker and by ``repertory status``, with the remedy."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, Self

import pytest
from confluent_kafka import Consumer
from typer.testing import CliRunner

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.bridge.log.members import foreign_member, is_foreign
from repertory.bridge.log.port import MemberDescription
from repertory.bridge.log.record import TopicPartition
from repertory.cli.app import app
from tests.support.working import working


class Ring(Command):
    """Ring."""


class Rang(Event):
    """It rang."""


class Bell(Entity):
    """Counts."""

    times: int = 0

    @command
    def ring(self, cmd: Ring) -> Rang:
        """Ring."""
        return Rang()

    @event
    def rang(self, _evt: Rang) -> Self:
        """Count."""
        return self.replace(times=self.times + 1)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch, kafka_url: str) -> ActorSystem:
    """Return a system of two shards with its topics, which is also the target ``foreign_app:system``."""
    found = ActorSystem(f"foreign-{uuid.uuid4().hex[:8]}")
    found.host(Bell, partitions=2)
    module = ModuleType("foreign_app")
    module.system = found  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "foreign_app", module)
    with found.start(kafka_url) as running:
        running.client.tell(Bell.ring, "a", Ring())
        running.settle()
    return found


@contextlib.contextmanager
def stranger(kafka_url: str, system: ActorSystem, strategy: str) -> Iterator[Consumer]:
    """Join the system's group with a plain consumer of its commands topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": kafka_url.removeprefix("kafka://"),
            "group.id": system.name,
            "client.id": "someone-elses-report",
            "partition.assignment.strategy": strategy,
            "enable.auto.commit": False,
            "session.timeout.ms": 6000,
        }
    )
    consumer.subscribe([f"{system.name}.bell.commands"])
    try:
        yield consumer
    finally:
        consumer.close()


def status(kafka_url: str, *arguments: str) -> Any:
    """Run ``repertory status``."""
    done = CliRunner().invoke(
        app, ["status", "foreign_app:system", *arguments, "--log", kafka_url], env={"COLUMNS": "300"}
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def until(holds: Callable[[], bool], consumer: Consumer | None = None) -> None:
    """Wait for something, and poll a consumer meanwhile."""
    deadline_s = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline_s
        if consumer is not None:
            consumer.poll(0.1)


SAYS = "client 'someone-elses-report' on 127.0.0.1 (no group.instance.id) is in the consumer group"


@pytest.mark.kafka
def test_a_stranger_who_was_there_first(system: ActorSystem, kafka_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """With another assignor it keeps every worker out; the worker says who it is, once, and joins when it has left."""
    with caplog.at_level(logging.INFO, "repertory"), stranger(kafka_url, system, "range") as consumer:
        until(lambda: len(consumer.assignment()) == 2, consumer)
        with working(system, kafka_url):
            until(lambda: SAYS in caplog.text, consumer)
            done = status(kafka_url, "--check")
            assert done.exit_code == 1
            assert "2 shards have no owner" in done.output
            assert "1 member of the group is not of this system: someone-elses-report" in done.output
            assert "give that application a group.id of its own" in status(kafka_url).output
            consumer.close()
            until(lambda: status(kafka_url, "--check").exit_code == 0)
    assert caplog.text.count(SAYS) == 1


@pytest.mark.kafka
def test_a_stranger_who_joins_a_running_system(
    system: ActorSystem, kafka_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With our assignor it gets a shard, which nobody serves then: the worker and `status` say who has it."""
    with caplog.at_level(logging.INFO, "repertory"), working(system, kafka_url):
        until(lambda: status(kafka_url, "--check").exit_code == 0)
        with stranger(kafka_url, system, "cooperative-sticky") as consumer:
            until(lambda: len(consumer.assignment()) == 1, consumer)
            until(lambda: SAYS in caplog.text, consumer)
            done = status(kafka_url, "--check")
            assert done.exit_code == 1
            assert "1 shard has no owner: bell/" in done.output
            members = json.loads(status(kafka_url, "--json").stdout)["members"]
            (foreign,) = [member for member in members if member["client"] == "someone-elses-report"]
            assert [shard[0] for shard in foreign["shards"]] == [f"{system.name}.bell.commands"]
        until(lambda: status(kafka_url, "--check").exit_code == 0)
    assert caplog.text.count(SAYS) == 1


@pytest.mark.parametrize(
    ("instance_id", "topics", "foreign"),
    [
        ("bank/host/0", ["bank.account.commands", "bank.control"], False),
        ("bank/a/b/12", [], False),
        ("bank/host/0", ["bank.ledger.commands"], True),
        ("", [], True),
        ("bank", [], True),
        ("bank/host", [], True),
        ("bank/host/x", [], True),
        ("bank2/host/0", [], True),
        ("bank//0", [], True),
    ],
)
def test_who_is_foreign(instance_id: str, topics: list[str], *, foreign: bool) -> None:
    """Who has no worker's name, or a worker's name and partitions that the system does not read."""
    shards = tuple(TopicPartition(topic, 0) for topic in topics)
    member = MemberDescription(instance_id, "c", "h", shards)
    assert is_foreign(member, "bank", ["bank.account.commands"]) is foreign
    assert "give that application a group.id of its own" in foreign_member(member, "bank")
