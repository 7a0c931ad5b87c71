"""Restores on Kafka, SIGKILL to next commit, and a planned handover: a part of ``python -m benchmarks``.

A worker has handled commands of many accounts, and is given a few more all the time. It is killed; its node starts
another, which restores every shard. The time counts from the signal to the commit of all four shards.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

import msgspec

from benchmarks import job
from benchmarks.processes import Offsets, Started, cpu_s_of, repertory, started
from benchmarks.throughput import filled, reached
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from tests.support.kafka.broker import Broker

_POLL_S = 0.01
_TIMEOUT_S = 180.0
#: Commands of each shard each second while workers are killed.
_TRICKLE = 20
_UNDER_WAY_S = 0.05
_SETTLED_S = 1.0


class Restored(msgspec.Struct, frozen=True):
    """One kill: seconds to the next commit of the first and of all shards; the new worker's CPU until then."""

    first_s: float
    all_s: float
    cpu_s: float
    memory_mb: float


class Handover(msgspec.Struct, frozen=True):
    """The longest time without a commit of a shard: as a second node joins, as it leaves, and before."""

    joined_s: float
    left_s: float
    quiet_s: float


@contextlib.contextmanager
def _handled(broker: Broker, accounts: int, count: int) -> Iterator[tuple[str, Started, Offsets]]:
    """Run a worker until it has handled ``count`` commands; then give it a few more all the time."""
    stopping = threading.Event()
    with filled(broker, count, accounts) as (name, offsets):
        trickle = threading.Thread(target=_trickle, args=(broker.url, name, accounts, stopping))
        try:
            with started(repertory(), broker.address, name) as running:
                reached(offsets, running, broker, count)
                trickle.start()
                time.sleep(_SETTLED_S)
                yield name, running, offsets
                stopping.set()
                trickle.join()
        finally:
            stopping.set()


def _trickle(url: str, name: str, accounts: int, stopping: threading.Event) -> None:
    backend = connect(url)
    appender, value, topic = backend.appender(), encode(job.Deposit(amount=job.AMOUNT)), job.commands_of(name)
    keys: dict[int, list[bytes]] = {}
    for partition, key in job.places(min(accounts, 1_000)):
        keys.setdefault(partition, []).append(key)
    number = 0
    while not stopping.wait(1 / _TRICKLE):
        appender.append([Output(topic, place, own[number % len(own)], value) for place, own in keys.items()])
        number += 1
    appender.close()
    backend.close()


def kills(broker: Broker, accounts: int, count: int, rounds: int) -> list[Restored]:
    """Let a worker handle ``count`` commands over ``accounts``, and kill it ``rounds`` times."""
    found = []
    with _handled(broker, accounts, count) as (_name, running, offsets):
        for _ in range(rounds):
            found.append(_killed(running, offsets))
            time.sleep(_SETTLED_S)
    return found


def _killed(running: Started, offsets: Offsets) -> Restored:
    os.kill(running.tree()[-1].pid, signal.SIGKILL)
    begin_s = time.perf_counter()
    time.sleep(_UNDER_WAY_S)  # A commit that was under way may still be answered: what counts is the next one.
    before, first_s = offsets.read(), 0.0
    while True:
        moved = [new > old for new, old in zip(offsets.read(), before, strict=True)]
        spent_s = time.perf_counter() - begin_s
        if any(moved) and not first_s:
            first_s = spent_s
        if all(moved):
            worker = running.tree()[-1]
            return Restored(first_s, spent_s, cpu_s_of(worker), worker.memory_info().rss / 1e6)
        running.check()
        if spent_s > _TIMEOUT_S:
            raise RuntimeError(f"{moved} are restored after {spent_s:.0f} s")
        time.sleep(_POLL_S)


def handover(broker: Broker, accounts: int, watched_s: float = 8.0) -> Handover:
    """Let a second node join and leave while commands trickle in, and find the longest gaps between commits.

    ``watched_s``: how long each of these is watched.
    """
    with _handled(broker, accounts, accounts) as (name, _running, offsets):
        quiet_s = _longest_gap_s(offsets, watched_s)
        with started(repertory(node="second"), broker.address, name) as second:
            joined_s = _longest_gap_s(offsets, watched_s)
            second.check()
            leaving = threading.Thread(target=second.stop)
            leaving.start()
            left_s = _longest_gap_s(offsets, watched_s)
            leaving.join()
    return Handover(joined_s, left_s, quiet_s)


def _longest_gap_s(offsets: Offsets, watched_s: float) -> float:
    """Return the longest time without a commit of a shard, from now on, for a while."""
    now_s = end_s = time.perf_counter()
    end_s += watched_s
    seen, since_s, longest_s = offsets.read(), [now_s] * job.PARTITIONS, 0.0
    while now_s < end_s:
        time.sleep(_POLL_S)
        found, now_s = offsets.read(), time.perf_counter()
        for place, offset in enumerate(found):
            longest_s = max(longest_s, now_s - since_s[place])
            if offset > seen[place]:
                since_s[place] = now_s
        seen = found
    return longest_s
