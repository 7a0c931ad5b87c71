"""The topics of a system: their names, how they are kept, and what stands in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from repertory.bridge.log.port import TopicSpec

#: Key of the shard record in each partition of a state topic. No entity key contains NUL.
SHARD_KEY = b"\0shard"

#: Keys of the seen records beside it begin so, and go on with ``topic/partition`` of the source.
SEEN_KEY = b"\0seen/"

#: Partitions of the replies topic; a client reads one of them.
REPLIES_PARTITIONS = 8

#: A waiting record or a dead letter holds a whole command and what is known of its failure.
_ROOMY = {"max.message.bytes": str(4 * 1024 * 1024)}
_KEPT = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1"}
_COMPACTED = {"cleanup.policy": "compact"}


def commands_topic(system: str, entity: str) -> str:
    """Input of an entity: partition p is shard p."""
    return f"{system}.{entity}.commands"


def events_topic(system: str, entity: str) -> str:
    """The journal of a journaled entity."""
    return f"{system}.{entity}.events"


def state_topic(system: str, entity: str) -> str:
    """Latest snapshot per entity, and the shard record per partition."""
    return f"{system}.{entity}.state"


def stash_topic(system: str, entity: str) -> str:
    """Commands that wait for a restart or are parked, by their source offset."""
    return f"{system}.{entity}.stash"


def control_topic(system: str) -> str:
    """One partition that stays empty: scratch commits that prove membership, planned handover."""
    return f"{system}.control"


def dead_letters_topic(system: str) -> str:
    """What was not applied and, unless an operator retries it, never will be."""
    return f"{system}.dead-letters"


def incidents_topic(system: str) -> str:
    """The latest word of each node, by its name."""
    return f"{system}.incidents"


def replies_topic(system: str) -> str:
    """Answers to clients."""
    return f"{system}.replies"


def incidents_spec(system: str) -> TopicSpec:
    """Return the topic for what operators see of nodes. A system runs without it too, and then they see less.

    A node that has said nothing for a week is forgotten.
    """
    return TopicSpec(
        incidents_topic(system), 1, {"cleanup.policy": "compact,delete", "retention.ms": str(7 * 86_400_000)}
    )


def topic_specs(system: str, hosted: Iterable[tuple[str, int, bool]], extra: Mapping[str, str]) -> list[TopicSpec]:
    """Return all topics of a system. ``hosted``: per entity its name, partitions, and whether it is journaled.

    ``extra`` is configuration for the commands topics, where a user may prefer a retention.
    """
    specs = [
        TopicSpec(control_topic(system), 1, {"cleanup.policy": "delete"}),
        TopicSpec(dead_letters_topic(system), 1, {**_KEPT, **_ROOMY}),
        TopicSpec(replies_topic(system), REPLIES_PARTITIONS, {"cleanup.policy": "delete", "retention.ms": "600000"}),
    ]
    for entity, partitions, journaled in hosted:
        specs.append(TopicSpec(commands_topic(system, entity), partitions, {**_KEPT, **extra}))
        if journaled:
            specs.append(TopicSpec(events_topic(system, entity), partitions, _KEPT))
        specs.append(TopicSpec(state_topic(system, entity), partitions, _COMPACTED))
        specs.append(TopicSpec(stash_topic(system, entity), partitions, {**_COMPACTED, **_ROOMY}))
    return specs
