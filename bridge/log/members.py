"""Members of a system's group that are not workers of the system: which they are, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Collection

from repertory.bridge.log.port import MemberDescription


def is_foreign(member: MemberDescription, group: str, topics: Collection[str]) -> bool:
    """Return whether a member is not a worker of the system ``group``, which reads ``topics`` and its control topic.

    A worker's name within the group is ``{system}/{node}/{slot}`` (`Member`). Another build of the system is foreign
    too while it has partitions of topics that this one does not read.
    """
    system, _, rest = member.instance_id.partition("/")
    node, _, slot = rest.rpartition("/")
    if system != group or not node or not slot.isdigit():
        return True
    return any(place.topic not in topics and place.topic != f"{group}.control" for place in member.shards)


def foreign_member(member: MemberDescription, group: str) -> str:
    """Return what a foreign member of a group does there, and the remedy."""
    name = f"group.instance.id {member.instance_id!r}" if member.instance_id else "no group.instance.id"
    has = f"has {', '.join(map(str, member.shards))}" if member.shards else "has no partition now"
    return (
        f"client {member.client!r} on {member.host} ({name}) is in the consumer group {group!r} and is no worker of "
        f"this system; it {has}. Shards that it has are served by nobody, and its partition assignor may keep workers "
        "from joining: give that application a group.id of its own"
    )
