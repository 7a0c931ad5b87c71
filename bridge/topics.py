"""The topics of a system: their names, their retention, and their content."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from repertory.bridge.log.port import TopicSpec

#: Partitions of the replies topic; a client reads one of them.
REPLIES_PARTITIONS = 8

#: Partitions of the topic of the sources' positions: so many processes can share a system's sources.
RELAYS = 8

#: A stashed record or a dead letter holds a whole command and the details of its failure.
_ROOMY = {"max.message.bytes": str(4 * 1024 * 1024)}
#: Commands carry the time at which the log took them: a client with a wrong clock must move no timer and no horizon.
LOG_TIME = {"message.timestamp.type": "LogAppendTime"}
_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
#: A restore reads what compaction has left, and the active segment, which is never compacted. By Kafka's defaults that
#: is a gigabyte, with a superseded shard record for each transaction, and as much again before compaction begins.
_COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": str(16 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.2",
    "max.compaction.lag.ms": str(10 * 60 * 1_000),
}


def commands_topic(system: str, entity: str) -> str:
    """Input of an entity: partition p is shard p."""
    return f"{system}.{entity}.commands"


def events_topic(system: str, entity: str) -> str:
    """The journal of a journaled entity."""
    return f"{system}.{entity}.events"


def state_topic(system: str, entity: str) -> str:
    """The changelog of each shard: the latest snapshot per entity, stashed commands, the shard record."""
    return f"{system}.{entity}.state"


def control_topic(system: str) -> str:
    """One partition that stays empty, for scratch commits that prove membership and for planned handovers."""
    return f"{system}.control"


def dead_letters_topic(system: str) -> str:
    """Commands that were not applied and, unless an operator retries them, never will be."""
    return f"{system}.dead-letters"


def incidents_topic(system: str) -> str:
    """The latest status of each node, by the node's name."""
    return f"{system}.incidents"


def replies_topic(system: str) -> str:
    """Replies to clients."""
    return f"{system}.replies"


def schemas_topic(system: str) -> str:
    """The catalogue of the messages and states that the builds of a system know."""
    return f"{system}.schemas"


def sources_topic(system: str) -> str:
    """The positions of the system's sources; each partition belongs to one relay (``bridge.sources``)."""
    return f"{system}.sources"


def sources_group(system: str) -> str:
    """The group in which the relays of a system's sources share them."""
    return f"{system}.sources"


def source_specs(system: str) -> list[TopicSpec]:
    """Return the topics of a system that has sources."""
    return [
        TopicSpec(sources_topic(system), RELAYS, {**_COMPACTED, **_ROOMY}),
        TopicSpec(control_topic(sources_group(system)), 1, {"cleanup.policy": "delete"}),
    ]


def incidents_spec(system: str) -> TopicSpec:
    """Return the topic for the status of nodes. A system also runs without it, but operators then see less.

    The record of a node that has published nothing for a week expires.
    """
    return TopicSpec(
        incidents_topic(system), 1, {"cleanup.policy": "compact,delete", "retention.ms": str(7 * 86_400_000)}
    )


def wrong_count(topic: str, found: int, partitions: int) -> str:
    """Return what is wrong with a topic that has another number of partitions than the code says, and the remedy."""
    begins = f"{topic} has {found} partitions, the code says {partitions}"
    if found < partitions:
        return f"{begins}: the shards from {found} on cannot work; restore all topics of the entity from one backup"
    if topic.endswith(".commands"):
        extra = f"{partitions}" if found == partitions + 1 else f"{partitions} to {found - 1}"
        return (
            f"{begins}: nobody reads partitions {extra}, and producers that count {found} place keys on other shards; "
            "Kafka removes no partitions: stop those producers, and move to a system of another name before the next "
            "start, which is refused"
        )
    return (
        f"{begins}: the partitions from {partitions} on are not used, and Kafka removes none; the next start is "
        "refused: restore all topics of the entity from one backup, or move to a system of another name"
    )


def topic_specs(system: str, hosted: Iterable[tuple[str, int, bool]], extra: Mapping[str, str]) -> list[TopicSpec]:
    """Return all topics of a system. ``hosted``: per entity its name, partition count, and whether it is journaled.

    ``extra`` is configuration for the commands topics, for users who want to limit their retention.
    """
    specs = [
        TopicSpec(control_topic(system), 1, {"cleanup.policy": "delete"}),
        TopicSpec(dead_letters_topic(system), 1, {**_KEPT, **_ROOMY}),
        TopicSpec(replies_topic(system), REPLIES_PARTITIONS, {"cleanup.policy": "delete", "retention.ms": "600000"}),
    ]
    specs.append(TopicSpec(schemas_topic(system), 1, {"cleanup.policy": "compact"}))
    for entity, partitions, journaled in hosted:
        specs.append(TopicSpec(commands_topic(system, entity), partitions, {**_KEPT, **extra, **LOG_TIME}))
        if journaled:
            specs.append(TopicSpec(events_topic(system, entity), partitions, _KEPT))
        specs.append(TopicSpec(state_topic(system, entity), partitions, {**_COMPACTED, **_ROOMY}))
    return specs
