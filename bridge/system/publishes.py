"""``Publishes``: the topics outside a system that its handlers publish to, declared, checked and created."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from repertory.bridge.log.compacted import is_compacted
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.port import Backend, TopicSpec

#: What Kafka allows as the name of a topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")
#: Partitions of a topic that is declared without a number, in the log ``memory:``, where nobody else can create it.
MEMORY_PARTITIONS = 3
#: Kafka's default limit on the partitions of one topic that a cluster of modest size is asked to create at once.
PARTITIONS_MAX = 10_000


class Publishes(msgspec.Struct, frozen=True):
    """One topic outside the system that its handlers publish to.

    With ``partitions`` (1 to 10,000) the runtime creates the topic where it is missing, with the Kafka settings of
    ``config``; one that exists is used as it is, with whatever number of partitions it has. Without ``partitions`` the
    topic is somebody else's: the runtime checks that it exists, and creates it on ``memory:`` alone.
    """

    partitions: int | None = None
    config: Mapping[str, str] | None = None

    @property
    def is_compacted(self) -> bool:
        """Whether superseded records of the topic are deleted, as far as the declaration tells."""
        return is_compacted(self.config or {})


def checked_publishes(system: str, publishes: Mapping[str, Publishes]) -> Mapping[str, Publishes]:
    """Return the declared topics by name; ValueError for what cannot be one."""
    if not isinstance(publishes, Mapping):
        raise ValueError(  # noqa: TRY004  one class to catch
            f'{system}: publishes is a dict such as {{"order-events": Publishes(partitions=3)}}, not {publishes!r:.100}'
        )
    for topic, declared in publishes.items():
        where = f"{system} publishes to {topic!r:.300}"
        if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise ValueError(f"{where}: a topic's name has 1 to 249 letters, digits, dots, dashes and underscores")
        if topic.startswith("__"):
            raise ValueError(f"{where}: topics that begin with __ are Kafka's own")
        if topic.startswith(f"{system}."):
            raise ValueError(
                f"{where}: topics that begin with {system}. are the system's own, and a restore relies on what its "
                "shards write there; publish to another, or tell an entity"
            )
        if not isinstance(declared, Publishes):
            raise ValueError(f"{where}: declare it with Publishes(…), not {declared!r:.100}")  # noqa: TRY004  one class to catch
        count = declared.partitions
        if count is not None and (type(count) is not int or not 1 <= count <= PARTITIONS_MAX):
            raise ValueError(f"{where}: partitions must be a number from 1 to {PARTITIONS_MAX}, or None, not {count!r}")
        config = declared.config or {}
        if count is None and config:
            raise ValueError(f"{where}: config is for a topic that the runtime creates; give its partitions too")
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in config.items()):
            raise ValueError(f"{where}: config has Kafka's names and values, both text, not {config!r:.200}")
    return MappingProxyType(dict(publishes))


def prepare_published(backend: Backend, system: str, publishes: Mapping[str, Publishes]) -> list[str]:
    """Create the declared topics that are missing and may be created; return their names.

    Raises:
        TopicMismatch: a topic is missing, and it is not the runtime's to create.
        LogUnavailable: the log cannot be reached.
    """
    if not publishes:
        return []
    present = backend.topics()
    missing = []
    for topic, declared in publishes.items():
        if topic in present:
            continue
        partitions = declared.partitions
        if partitions is None and backend.url == "memory:":
            partitions = MEMORY_PARTITIONS
        if partitions is None:
            raise TopicMismatch(
                f"{system} publishes to {topic}, and {backend.url} has no such topic: create it, or declare it with "
                "Publishes(partitions=…) and the runtime creates it"
            )
        missing.append(TopicSpec(topic, partitions, dict(declared.config or {})))
    return [*backend.ensure(missing)] if missing else []
