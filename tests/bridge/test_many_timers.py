"""Many timers that are due at once on a real Kafka, while commands come: each rings once, and no command waits long.

``REPERTORY_TIMERS=100000`` takes a minute.
"""

from __future__ import annotations

import logging
import os
import time
import uuid

import pytest

from repertory import ActorSystem
from repertory.actors.headers import TIMER
from repertory.bridge.system.settings import Settings
from repertory.verify import verify
from tests.apps.ringing import Clock, Count, Set
from tests.support.clocks import Later

pytestmark = pytest.mark.kafka

TIMERS = int(os.environ.get("REPERTORY_TIMERS", "10000"))
KEYS = 1_000
#: The bound of each wait, also on a busy machine.
DEADLINE_S = 600.0


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_each_of_many_timers_rings_once(kafka_url: str, delivery: str) -> None:
    """A worker is replaced in the middle of it; queries are answered before all timers have rung."""
    system = ActorSystem(f"many-{uuid.uuid4().hex[:12]}", settings=Settings(delivery=delivery))
    system.host(Clock, partitions=1)
    with system.start(kafka_url) as running:
        running.client.tell_all(
            (Clock.set, f"k{number % KEYS}", Set(name=f"n{number}", after_s=3_600, number=number))
            for number in range(TIMERS)
        )
        running.settle(DEADLINE_S)
        assert len(running.timers()) == TIMERS
        running._clock = Later(running._clock, 3_600_000)
        running.crash()  # The new worker has the later clock.
        began_s, before, queries = time.monotonic(), 0, 0
        while running.timers():
            for key in range(20):
                running.client.query(Clock.count, f"k{key}", Count(), timeout_s=100)
                queries += 1
            before += bool(running.timers())
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
        assert len(fired) == len({*fired}) == TIMERS
        events = sum(1 for _ in running.reader.read(f"{system.name}.clock.events", 0))
        assert events == TIMERS
    logging.getLogger(__name__).info(
        "%s: %d timers rang in %.1f s, %d queries meanwhile", delivery, TIMERS, ended_s - began_s, queries
    )
