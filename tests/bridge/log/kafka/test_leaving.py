"""A worker that stops leaves the group: nobody waits for its session to end, which would take seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.port import Member
from repertory.bridge.system.settings import Settings
from tests.support.logs.log_driver import PATIENT, LogHarness

pytestmark = pytest.mark.kafka


@pytest.fixture
def world(kafka_url: str) -> Iterator[LogHarness]:
    """Give a world on the test run's Kafka."""
    world = LogHarness(connect(kafka_url, PATIENT), "kafka")
    world.make()
    yield world
    world.close()


def members(world: LogHarness, *slots: int) -> list[int]:
    """Return those of the slots that the group still has as members."""
    admin = Admin(KafkaConfig(world.backend.url.removeprefix("kafka://"), Settings(), {}))
    try:
        return [slot for slot in slots if admin.slot(Member(world.group, "here", slot)).holder is not None]
    finally:
        admin.close()


def test_a_member_that_leaves_is_gone(world: LogHarness) -> None:
    """The group knows when ``close`` returns, and assigns the shards to the others."""
    first, second = world.join(0), world.join(1)
    world.settled(first, second)
    second.close()
    assert members(world, 0, 1) == [0]
    world.settled(first)


def test_a_member_without_shards_leaves(world: LogHarness) -> None:
    """There is nothing to give back, and still a session that others would wait for."""
    drivers = [world.join(slot) for slot in range(3)]
    world.settled(*drivers)
    (idle,) = (driver for driver in drivers if not driver.owned)
    idle.close()
    assert idle.slot not in members(world, 0, 1, 2)


def test_a_member_leaves_before_it_was_assigned_anything(world: LogHarness) -> None:
    """A worker that is told to stop while it joins has asked to be a member already."""
    first = world.join(0)
    world.settled(first)
    late = world.join(1)
    late.poll()
    late.close()
    assert members(world, 0, 1) == [0]
    world.settled(first)


def test_all_members_leave_at_once(world: LogHarness) -> None:
    """As the workers of a node do: none waits for another, in whatever rebalance they are."""
    drivers = [world.join(slot) for slot in range(3)]
    world.settled(*drivers)
    leaving = [threading.Thread(target=driver.log.close) for driver in drivers]
    world.drivers.clear()
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join()
    assert members(world, 0, 1, 2) == []
    world.settled(world.join(0))
