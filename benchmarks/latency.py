"""The latency of an ask on Kafka, program beside program, idle and under load: a part of ``python -m benchmarks``.

The same bare clients ask each program. The bare loop and Repertory append an event and an answer; Kafka Streams appends
one record, which is its event and its answer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Protocol

from benchmarks.asker import Kind, Latency, ask
from benchmarks.processes import Program, Started, started
from benchmarks.throughput import filled
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.topics import REPLIES_PARTITIONS, replies_topic
from tests.support.kafka.broker import Broker

#: Asks a second of an idle program.
IDLE_RATE = 50.0
_WARM_UP = 2_000


class AskAtRate(Protocol):
    """Asks at a rate, so many times; at rate 0 as fast as it goes."""

    def __call__(self, rate: float, count: int, kind: Kind = Kind.PLAIN) -> Latency:
        """Raise UnansweredError if an answer does not come."""


@contextlib.contextmanager
def asked(
    broker: Broker, program: Program, answers_of: Callable[[str], str]
) -> Iterator[tuple[AskAtRate, Started, str]]:
    """Start a program; give a function that asks it at a rate, so many times, the program, and the run's name."""
    with filled(broker, 0) as (name, _offsets):
        with closing(connect(broker.url)) as backend:
            backend.ensure([TopicSpec(replies_topic(name), REPLIES_PARTITIONS, {})])
        with started(program, broker.address, name) as running:

            def one(rate: float, count: int, kind: Kind = Kind.PLAIN) -> Latency:
                try:
                    return ask(broker.address, name, answers_of(name), rate, count, kind=kind)
                finally:
                    running.check()

            one(0, _WARM_UP)
            yield one, running, name


def highest_rate(broker: Broker, program: Program, count: int) -> float:
    """Return how many asks a second are answered when ``count`` come as fast as they can."""
    with asked(broker, program, replies_topic) as (one, _, _):
        return one(0, count).rate


def latencies(
    broker: Broker,
    program: Program,
    seconds: float,
    loads: Mapping[str, float] | None = None,
    answers_of: Callable[[str], str] = replies_topic,
    kind: Kind = Kind.PLAIN,
) -> dict[str, Latency]:
    """Return the latencies by the name of the load: idle, and of ``loads``, which are asks a second."""
    with asked(broker, program, answers_of) as (one, _, _):
        return {
            name: one(rate, int(rate * seconds), kind) for name, rate in {"idle": IDLE_RATE, **(loads or {})}.items()
        }
