"""One recorded client of ``tests.apps.killed`` in its own process, for tests that kill it.

``python tests/support/checkers/recorded.py worker|client|follower URL DIARY NUMBER`` works until its standard input
closes: a worker runs the loop of the runtime on the slot of that number, a client sends commands, a follower follows
one of three topics.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
from itertools import count
from pathlib import Path

from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown
from repertory.bridge.log.port import Member
from repertory.bridge.loop import ShardLoop
from repertory.bridge.system.client import Client
from repertory.bridge.topics import commands_topic, events_topic
from tests.apps import killed
from tests.support.checkers.diary import Diary, RecordedBackend

#: The share of a worker's transactions that must be aborted.
DOOMED = 0.1
#: The pause of a client after each burst, so that the workers keep up.
REST_S = 0.02


def work(backend: RecordedBackend, slot: int, stopping: threading.Event) -> None:
    """Run the loop of one worker, as ``bridge.worker`` does in a shard host."""
    system, clock = killed.system, SystemClock()
    log = backend.log(Member(system.name, "here", slot), system.commands_topics())
    poll_timeout_s = system.settings.poll_timeout_s
    region = system.region(system.topology(log.partition_count), seed=slot)
    loop = ShardLoop(log, region, clock, poll_timeout_s=poll_timeout_s)
    while not stopping.is_set():
        loop.tick()
    loop.drain(clock.monotonic_s() + system.settings.stop_timeout_s / 2)
    log.close()


def tell(backend: RecordedBackend, number: int, stopping: threading.Event) -> None:
    """Send bursts of additions and a few commands that fail, one by one or all at once."""
    client, chance = Client(killed.system, backend), random.Random(number)  # noqa: S311 - load, not a secret
    for first in count(step=10):
        if stopping.wait(REST_S):
            break
        numbers = range(first, first + chance.randint(1, 9))
        calls = [(killed.Counter.add, f"c-{chance.randrange(20)}", killed.Add(by=n)) for n in numbers]
        if chance.random() < 0.2:
            how = chance.choice(["restart", "resume", "stop"])
            calls.append((killed.Counter.fail, f"bad-{number}-{first}", killed.Fail(how=how)))
        try:
            if chance.random() < 0.5:
                client.tell_all(calls)
            else:
                client.tell(*calls[0])
        except (LogUnavailable, OutcomeUnknown):
            time.sleep(REST_S)
    client.close()


def follow(backend: RecordedBackend, number: int, stopping: threading.Event) -> None:
    """Follow the committed records of one topic, again and again: following ends when no record comes for a while."""
    system, reader = killed.system.name, backend.reader()
    topics = (commands_topic(system, "counter"), events_topic(system, "counter"), commands_topic(system, "tally"))
    topic = topics[number % len(topics)]
    positions = dict.fromkeys(range(reader.partition_count(topic) or 0), 0)
    while not stopping.is_set():
        for record in reader.follow(topic, positions, timeout_s=0.5):
            positions[record.partition] = record.offset + 1
            if stopping.is_set():
                break
    reader.close()


def main(role: str, url: str, diary: str, number: str) -> None:
    """Run one role until the standard input closes."""
    stopping = threading.Event()

    def await_the_end() -> None:
        sys.stdin.read()
        stopping.set()

    threading.Thread(target=await_the_end, daemon=True).start()
    name = f"{role}-{number}-{os.getpid()}"
    backend = RecordedBackend(
        connect(url, killed.system.settings), Diary(Path(diary, f"{name}.jsonl"), name), doomed=DOOMED
    )
    match role:
        case "worker":
            work(backend, int(number), stopping)
        case "client":
            tell(backend, int(number), stopping)
        case "follower":
            follow(backend, int(number), stopping)
    backend.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
