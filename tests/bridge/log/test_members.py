"""Every log says who is in a group, and which partitions each member has."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import (
    Backend,
    Log,
    Member,
    MemberDescription,
    TopicSpec,
)
from repertory.bridge.log.record import TopicPartition


def until(holds: Callable[[], bool], *logs: Log) -> None:
    """Poll logs until something holds."""
    deadline_s = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline_s
        for log in logs:
            log.poll(0.01)


def shards(members: Sequence[MemberDescription]) -> dict[str, list[int]]:
    """Return the partitions of each member that has some."""
    return {each.instance_id: sorted(place.partition for place in each.shards) for each in members if each.shards}


def test_the_members_of_a_group(backend: Backend) -> None:
    """With their names, where they run, and their partitions; nobody before they join, and nothing after they leave."""
    group = f"members-{uuid.uuid4().hex[:8]}"
    topic = f"{group}.a.commands"
    with closing(backend):
        assert backend.members(group) == []
        backend.ensure([TopicSpec(topic, 4, {}), TopicSpec(f"{group}.control", 1, {})])
        assert backend.members(group) == []
        first = backend.log(Member(group, "here", 0), [topic])
        until(lambda: shards(backend.members(group)) == {f"{group}/here/0": [0, 1, 2, 3]}, first)
        (member,) = backend.members(group)
        assert member.client
        assert member.host
        assert set(member.shards) == {TopicPartition(topic, partition) for partition in range(4)}
        assert backend.members("another") == []
        second = backend.log(Member(group, "there/or/elsewhere", 3), [topic])
        both = {f"{group}/here/0": 2, f"{group}/there/or/elsewhere/3": 2}
        until(lambda: {name: len(has) for name, has in shards(backend.members(group)).items()} == both, first, second)
        first.close()
        second.close()
        until(lambda: not shards(backend.members(group)))  # Kafka keeps a static member until its session ends.


@pytest.mark.parametrize("name", ["none.db", "no/such/folder.db"])
def test_a_file_that_is_not_there_has_no_members(tmp_path: object, name: str) -> None:
    """And is not made by asking."""
    with closing(connect(f"sqlite:{tmp_path}/{name}")) as backend:
        assert backend.members("bank") == []
        assert backend.topics() == {}
