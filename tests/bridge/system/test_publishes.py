"""What a system may declare to publish to, and what is made of it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from repertory import ActorSystem, Command, Context, Entity, Publishes, TopicMismatch, command, connect
from repertory.bridge.log.port import TopicSpec


class Announce(Command):
    """Say it to everybody."""


class Crier(Entity):
    """Says it."""

    @command
    def announce(self, _cmd: Announce, ctx: Context) -> None:
        """Publish it."""
        ctx.publish("news", b"it", key=ctx.key)


@pytest.mark.parametrize(
    ("publishes", "words"),
    [
        (["news"], r"square: publishes is a dict such as .*Publishes.*, not \['news'\]"),
        ("news", "square: publishes is a dict"),
        ({"news": 3}, r"declare it with Publishes\(…\), not 3"),
        ({"": Publishes()}, "a topic's name has 1 to 249"),
        ({"a b": Publishes()}, "a topic's name has 1 to 249"),
        ({"n" * 250: Publishes()}, "a topic's name has 1 to 249"),
        ({"..": Publishes()}, "a topic's name has 1 to 249"),
        ({"__consumer_offsets": Publishes()}, "Kafka's own"),
        ({"square.crier.events": Publishes()}, "the system's own"),
        ({"news": Publishes(partitions=0)}, "a number from 1 to 10000"),
        ({"news": Publishes(partitions=True)}, "a number from 1 to 10000"),
        ({"news": Publishes(partitions=10_001)}, "a number from 1 to 10000"),
        ({"news": Publishes(config={"retention.ms": "1"})}, "give its partitions too"),
        ({"news": Publishes(partitions=1, config={"retention.ms": 1})}, "both text"),  # type: ignore[dict-item]
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused_where_it_is_written(publishes: Any, words: str) -> None:
    """One sentence with the system, the topic and what may stand there."""
    with pytest.raises(ValueError, match=words):
        ActorSystem("square", publishes=publishes)


def test_a_topic_with_partitions_is_created_and_one_without_must_exist(tmp_path: Path) -> None:
    """On a log that others share a foreign topic is never created; one that exists is used as it is."""
    url = f"sqlite:{tmp_path}/square.db"
    foreign = ActorSystem("square", publishes={"news": Publishes()})
    foreign.host(Crier, partitions=1)
    with pytest.raises(
        TopicMismatch, match=r"square publishes to news, and .* has no such topic: create it, or declare"
    ):
        foreign.start(url)
    own = ActorSystem("square", publishes={"news": Publishes(partitions=2)})
    own.host(Crier, partitions=1)
    own.start(url).close()
    with closing(connect(url)) as backend:
        assert backend.topics()["news"] == 2
        backend.ensure([TopicSpec("more", 5, {})])
    for system in (foreign, ActorSystem("square", publishes={"more": Publishes(partitions=3)})):
        if not system.hosted:
            system.host(Crier, partitions=1)
        system.start(url).close()
    with closing(connect(url)) as backend:
        assert (backend.topics()["news"], backend.topics()["more"]) == (2, 5)


def test_a_topic_that_is_not_declared_parks_its_key() -> None:
    """To publish to it is a mistake of the handler, and says what to declare."""
    system = ActorSystem("square", publishes={"olds": Publishes()})
    system.host(Crier, partitions=1)
    with system.start() as running:
        running.client.tell(Crier.announce, "k", Announce())
        running.settle()
        (parked,) = running.parked()
        assert parked.error.endswith("ContractViolation")
        assert "publishes={'news': Publishes()}" in parked.reason
