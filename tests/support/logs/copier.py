"""The smallest job on the port: each fetched record is committed to the events topic once. In a thread or a process.

``python tests/support/logs/copier.py URL GROUP SLOT SESSION_S`` runs one until its standard input closes.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import (
    Aborted,
    Assigned,
    Claimed,
    Committed,
    Fenced,
    Fetched,
    Log,
    LogEvent,
    Lost,
    Member,
    OutputsRefused,
    Transaction,
)
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.system.settings import Settings


class Copier:
    """One worker: claims its shards, starts at the group's offset, and copies in batches that grow with the load."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.seen: list[LogEvent] = []
        self.owned: set[TopicPartition] = set()
        self._fetched: dict[TopicPartition, list[Record]] = {}
        self._busy: set[TopicPartition] = set()

    def turn(self) -> None:
        """Process events, and commit the records fetched so far."""
        for event in self.log.poll(0.02):
            self._on(event)
        for shard, records in self._fetched.items():
            if records and shard not in self._busy:
                outputs = [Output(f"{_system(shard)}.events", shard.partition, r.key, r.value) for r in records]
                self._busy.add(shard)
                self.log.commit(Transaction(shard, records[-1].offset + 1, outputs))
                self._fetched[shard] = []

    def _on(self, event: LogEvent) -> None:
        shard = event.shard
        if not isinstance(event, Fetched):
            self.seen.append(event)
        match event:
            case Assigned():
                self.owned.add(shard)
                self.log.claim(shard, ())
            case Claimed(committed=committed, start_offset=low):
                self._fetched[shard] = []
                self.log.begin(shard, low if committed is None else committed)
            case Fetched(records=records):
                self._fetched[shard] += records
            case Committed():
                self._busy.discard(shard)
            case Aborted() | OutputsRefused():
                self._drop(shard)
                self.log.claim(shard, ())
            case Lost() | Fenced():
                self._drop(shard)
                self.owned.discard(shard)

    def _drop(self, shard: TopicPartition) -> None:
        self._fetched.pop(shard, None)
        self._busy.discard(shard)


class CopierThread(threading.Thread):
    """A copier that runs until it is stopped; ``failure`` is the error that ended it, if any."""

    def __init__(self, log: Log) -> None:
        super().__init__(daemon=True)
        self.copier = Copier(log)
        self.failure: Exception | None = None
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Copy until stopped, then close the log."""
        try:
            while not self._stop_asked.is_set():
                self.copier.turn()
            self.copier.log.close()
        except Exception as failure:  # noqa: BLE001 - the test checks it
            self.failure = failure

    def stop(self) -> None:
        """Stop the copier and wait until its log is closed."""
        self._stop_asked.set()
        self.join(30.0)
        assert not self.is_alive()
        assert self.failure is None, self.failure


def _system(shard: TopicPartition) -> str:
    return shard.topic.removesuffix(".commands")


def main(arguments: Sequence[str]) -> None:
    """Run one until its standard input closes; print the events."""
    url, group, slot, session_s = arguments
    backend = connect(url, Settings(session_timeout_s=float(session_s)))
    copier = Copier(backend.log(Member(group, "here", int(slot)), [f"{group}.account.commands"]))
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    while not ended.is_set():
        copier.turn()
        for event in copier.seen:
            print(type(event).__name__, event.shard.partition, getattr(event, "reason", ""), flush=True)  # noqa: T201
        copier.seen.clear()
    copier.log.close()


if __name__ == "__main__":
    main(sys.argv[1:])
