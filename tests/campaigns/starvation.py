"""Starvation: workers are killed at short intervals; which shard waits longest for its next commit, and for what?

``python -m tests.campaigns.starvation --minutes 10 --seed 1``: a real Kafka, twenty shards, commands for all of them,
and a SIGKILL every 1.9 s. Prints each gap between two commits of a shard that is longer than ``--gap`` seconds, with
all that the workers wrote down about the shard in it (``tests.apps.traced``).
Afterwards each number must have been counted once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import statistics
import sys
import time
from collections import Counter as Multiset
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from repertory.bridge.log.connect import connect
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.system.client import Client
from repertory.bridge.topics import events_topic
from tests.support.kafka.broker import Broker
from tests.support.paths import ROOT
from tests.support.processes import send_signal

SHARDS = 20
KEYS = 10 * SHARDS
#: How often every key is sent a command.
SENT_EVERY_S = 0.25
DRAINED_S = 120.0


class Line(NamedTuple):
    """One line of the trace."""

    at_s: float
    pid: int
    slot: str
    shard: int
    what: str


class Gap(NamedTuple):
    """A time in which a shard committed nothing, and what was written down about it."""

    shard: int
    from_s: float
    to_s: float
    lines: list[Line]


def gaps(lines: list[Line], until_s: float) -> Iterator[Gap]:
    """Yield the time between two commits of each shard that advanced its position; the last ends at ``until_s``."""
    for shard in range(SHARDS):
        own = [line for line in lines if line.shard == shard]
        before_s, position, since = None, -1, 0
        for number, line in enumerate(own):
            if not line.what.startswith("Committed ") or (offset := int(line.what.split()[1])) <= position:
                continue
            if before_s is not None:
                yield Gap(shard, before_s, line.at_s, own[since : number + 1])
            before_s, position, since = line.at_s, offset, number
        if before_s is not None:
            yield Gap(shard, before_s, max(before_s, until_s), own[since:])


class Campaign:
    """One run: its nodes, its kills, its load."""

    def __init__(self, options: argparse.Namespace, url: str) -> None:
        self._random = Random(options.seed)  # noqa: S311 - a schedule, not a secret
        self._options = options
        self.trace = Path(options.trace or f"starvation-{options.seed}.jsonl").absolute()
        self.trace.unlink(missing_ok=True)
        os.environ.update(
            TRACE_FILE=str(self.trace),
            COUNTING_NAME=f"starvation-{options.seed}-{os.getpid()}",
            COUNTING_PARTITIONS=str(SHARDS),
            COUNTING_WORKERS_RESTARTS="100000",
            # Otherwise each kill of a streak costs twice the delay of the one before, up to five seconds.
            COUNTING_WORKERS_BACKOFF_S=str(options.backoff),
            COUNTING_SESSION_S=str(options.session),
            PYTHONPATH=str(ROOT),
        )
        self.app = importlib.import_module("tests.apps.counting")
        self.backend = connect(url)
        self.app.system.prepare(self.backend)
        self.client = Client(self.app.system, self.backend)
        self.nodes = [
            NodeHandle("tests.apps.traced:system", url, workers=options.workers, stop_timeout_s=30.0, node=f"n{number}")
            for number in range(options.nodes)
        ]
        self.kills: list[float] = []
        self.sent = 0

    def run(self) -> None:
        """Kill and send until the time is over, then wait until all is handled."""
        wanted = self._options.nodes * self._options.workers
        while sum(len(node.workers) for node in self.nodes) < wanted:
            self._poll()
        begun_s = due_s = sent_s = time.monotonic()
        due_s += 5.0
        while (now_s := time.monotonic()) < begun_s + 60.0 * self._options.minutes:
            if now_s >= sent_s:
                sent_s = now_s + SENT_EVERY_S
                self._send()
            if now_s >= due_s:
                due_s += self._options.every
                self._kill()
            self._poll()
        self.ended_s = time.monotonic()

    def _send(self) -> None:
        numbers = range(self.sent, self.sent + KEYS)
        self.client.tell_all([(self.app.Counter.add, f"c-{n % KEYS}", self.app.Add(by=n)) for n in numbers])
        self.sent += KEYS

    def _kill(self) -> None:
        pids = sorted(pid for node in self.nodes for pid in node.workers.values())
        if pids and send_signal(self._random.choice(pids), signal.SIGKILL):
            self.kills.append(time.monotonic())

    def _poll(self) -> None:
        for node in self.nodes:
            node.poll(0.02)

    def uncounted(self) -> dict[int, int]:
        """Wait until all numbers are counted; return those that were not counted exactly once, and how often."""
        decode = self.app.system.behaviour("counter").journal.decode
        topic, reader = events_topic(self.app.system.name, "counter"), self.backend.reader()
        deadline_s = time.monotonic() + DRAINED_S
        while True:
            self._poll()
            counted: Multiset[int] = Multiset()
            for partition in range(SHARDS):
                counted.update(decode(record.value or b"").by for record in reader.read(topic, partition))
            if counted.total() >= self.sent or time.monotonic() > deadline_s:
                return {n: counted[n] for n in {*range(self.sent), *counted} if counted[n] != 1}

    def close(self) -> None:
        """Stop the nodes."""
        for node in self.nodes:
            node.stop()
        self.client.close()
        self.backend.close()

    def lines(self) -> list[Line]:
        """Return the trace, in the order of time."""
        found: list[Any] = [json.loads(line) for line in self.trace.read_text().splitlines()]
        return sorted(Line(*line) for line in found)


def main() -> int:
    """Run a campaign; return 1 if a number was not counted exactly once."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns.starvation")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=float, default=1.9, help="seconds between two kills")
    parser.add_argument("--gap", type=float, default=5.0, help="print gaps that are longer than so many seconds")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--workers", type=int, default=2, help="workers of each node")
    parser.add_argument("--session", type=float, default=6.0)
    parser.add_argument("--backoff", type=float, default=0.2, help="the longest delay before a worker is restarted")
    parser.add_argument("--url", help="a Kafka that runs already: kafka://host:port")
    parser.add_argument("--trace", help="the file of the trace; by default starvation-SEED.jsonl")
    options = parser.parse_args()
    broker = None if options.url else Broker()
    campaign = Campaign(options, options.url or broker.start().url)  # type: ignore[union-attr] # one of them is there
    try:
        campaign.run()
        wrong = campaign.uncounted()
    finally:
        campaign.close()
        if broker is not None:
            broker.stop()
    report(campaign, options.gap)
    if wrong:
        sys.stdout.write(f"{len(wrong)} numbers were not counted exactly once: {dict(list(wrong.items())[:10])}\n")
    return 1 if wrong else 0


def report(campaign: Campaign, gap_s: float) -> None:
    """Print the gaps."""
    lines = campaign.lines()
    found = [gap for gap in gaps(lines, campaign.ended_s) if gap.from_s < campaign.ended_s]
    long = [gap for gap in found if gap.to_s - gap.from_s > gap_s]
    origin_s = lines[0].at_s
    for gap in sorted(long, key=lambda gap: gap.from_s):
        kills = [round(at_s - origin_s, 1) for at_s in campaign.kills if gap.from_s <= at_s <= gap.to_s]
        sys.stdout.write(f"\nshard {gap.shard}: nothing for {gap.to_s - gap.from_s:.1f} s; kills at {kills}\n")
        for line in gap.lines:
            sys.stdout.write(f"  {line.at_s - origin_s:8.2f}  {line.slot:5} {line.pid:7}  {line.what}\n")
    interrupted = [
        gap.to_s - gap.from_s for gap in found if any(gap.from_s <= at_s <= gap.to_s for at_s in campaign.kills)
    ]
    worst_s = max((gap.to_s - gap.from_s for gap in found), default=0.0)
    median_s = statistics.median(interrupted) if interrupted else 0.0
    sys.stdout.write(
        f"\n{len(campaign.kills)} kills, {campaign.sent} commands, {len(found)} commits that advanced: "
        f"{len(long)} gaps over {gap_s:g} s in {campaign._options.minutes:g} min; the longest {worst_s:.1f} s; with a "
        f"kill in it, the median {median_s:.2f} s\n"
    )


if __name__ == "__main__":
    sys.exit(main())
