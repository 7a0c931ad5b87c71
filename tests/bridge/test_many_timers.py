"""Many timers that are due at once, while commands come: each rings once, and a command waits for one bounded batch.

100,000 of them in memory; on each log 10,000, or so many as ``REPERTORY_TIMERS`` says: ``make chaos`` has 100,000 there
too, which take a minute or two each.
"""

from __future__ import annotations

import logging
import os
import time
import uuid

import pytest

from repertory import ActorSystem, Running
from repertory.actors.headers import TIMER
from repertory.bridge.system.settings import Settings
from repertory.verify import verify
from tests.apps.ringing import Clock, Count, Set
from tests.support.clocks import Later

#: They take seconds.
pytestmark = pytest.mark.simulation

MANY = 100_000
TIMERS = int(os.environ.get("REPERTORY_TIMERS", "10000"))
KEYS = 1_000
#: The bound of each wait, also on a busy machine.
DEADLINE_S = 600.0


def has_left(running: Running) -> bool:
    """Return whether the shard has timers; it has before it is restored."""
    assigned = running.loop.region.named("clock/0")
    return assigned is None or assigned.shard is None or len(assigned.shard.timers) > 0


def test_each_of_many_timers_rings_once(url: str, delivery: str) -> None:
    """On each log."""
    ring_all(url, delivery, TIMERS)


def test_each_of_a_hundred_thousand_timers_rings_once() -> None:
    """In memory."""
    ring_all("memory:", "exactly-once", MANY)


def ring_all(url: str, delivery: str, timers: int) -> None:
    """A worker is replaced in the middle of it; queries are answered before all timers have rung."""
    system = ActorSystem(f"many-{uuid.uuid4().hex[:12]}", settings=Settings(delivery=delivery))
    system.host(Clock, partitions=1)
    with system.start(url) as running:
        running.client.tell_all(
            (Clock.set, f"k{number % KEYS}", Set(name=f"n{number}", after_s=3_600, number=number))
            for number in range(timers)
        )
        running.settle(DEADLINE_S)
        assert len(running.timers()) == timers
        running._clock = Later(running._clock, 3_600_000)
        running.crash()  # The new worker has the later clock.
        began_s, before, queries = time.monotonic(), 0, 0
        while has_left(running):
            for key in range(20):
                running.client.query(Clock.count, f"k{key}", Count(), timeout_s=100)
                queries += 1
            before += has_left(running)
            if queries == 20:
                running.crash()
            assert time.monotonic() < began_s + DEADLINE_S
        ended_s = time.monotonic()
        assert before, "queries are answered while timers are due"
        running.settle(DEADLINE_S)
        report = verify(running.reader, system)
        assert report.ok, report
        topic = f"{system.name}.clock.commands"
        fired = [record.header(TIMER) for record in running.reader.read(topic, 0) if record.header(TIMER)]
        assert len(fired) == len({*fired}) == timers
        events = sum(1 for _ in running.reader.read(f"{system.name}.clock.events", 0))
        assert events == timers
    logging.getLogger(__name__).info(
        "%s: %d timers rang in %.1f s, %d queries meanwhile", delivery, timers, ended_s - began_s, queries
    )
