"""The progress of a run, read from the transfers' journal as any consumer can, not from the runtime."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from examples.banking.audit import end_of, is_over
from examples.banking.transfers import Transfer
from repertory import ActorSystem, connect, events_topic
from repertory.verify import Reader, Record

#: How long `Watch.look` waits for new records: the latency of the end of a run.
_QUIET_S = 0.1


class Watch:
    """Counts the ended transfers of a run, and measures the time from each kill to the next commit of a partition.

    One thread calls ``look``; another may read the counts and call ``struck``.
    """

    def __init__(self, system: ActorSystem, run: str, reader: Reader) -> None:
        hosted = system.hosted[Transfer]
        self._topic = events_topic(system.name, hosted.behaviour.name)
        self._behaviour = hosted.behaviour
        #: The transfers of the run that are under way.
        self._open: dict[bytes, Transfer] = {}
        self._prefix = f"{run}-".encode()
        self._positions = {p: reader.bounds(self._topic, p)[1] for p in range(hosted.partitions)}
        #: For each partition that a kill stopped: the first offset after the kill, and its time (monotonic).
        self._stopped: dict[int, tuple[int, float]] = {}
        #: The first transfer that was refunded, by its key, with all its steps.
        self.refunded: tuple[str, Transfer] | None = None
        self.ends: Counter[str] = Counter()
        self.ended = 0
        self.last_end_s = 0.0
        self.gaps_s: list[float] = []

    @property
    def partitions(self) -> list[int]:
        """The partitions of the transfers' journal."""
        return sorted(self._positions)

    def look(self, reader: Reader, timeout_s: float, stopping: threading.Event | None = None) -> None:
        """Process new records, until none comes for ``timeout_s``."""
        for record in reader.follow(self._topic, self._positions, timeout_s):
            self._positions[record.partition] = record.offset + 1
            self._take(record)
            if stopping is not None and stopping.is_set():
                return

    def struck(self, reader: Reader, partitions: Mapping[int, float]) -> None:
        """Record the kill of the owner of some partitions, with its time (monotonic), to measure their next commits."""
        for partition, at_s in partitions.items():
            end = reader.bounds(self._topic, partition)[1]
            self._stopped.setdefault(partition, (end, at_s))

    def _take(self, record: Record) -> None:
        now_s = time.monotonic()
        stopped = self._stopped.get(record.partition)
        if stopped is not None and record.offset >= stopped[0]:
            del self._stopped[record.partition]
            self.gaps_s.append(now_s - stopped[1])
        if record.key is None or not record.key.startswith(self._prefix):
            return
        event = self._behaviour.journal.decode(record.value or b"")
        before = self._open.pop(record.key, None) or Transfer()
        after: Transfer = self._behaviour.evolve[type(event)](before, event)
        if is_over(after):
            self.ends[end := end_of(before)] += 1
            if end == "refunded" and self.refunded is None:
                self.refunded = record.key.decode(), before
            self.ended += 1
            self.last_end_s = now_s
        else:
            self._open[record.key] = after


class Watcher:
    """Calls `Watch.look` in a thread of its own, so that sending and killing do not wait for it. A context manager."""

    def __init__(self, watch: Watch, log: str) -> None:
        self._watch, self._log = watch, log
        self._stopping = threading.Event()
        self._pool = ThreadPoolExecutor(1, "watch")
        self._looking: Future[None] = self._pool.submit(self._run)

    def check(self) -> None:
        """Raise the error that ended the thread, if there is one."""
        if self._looking.done():
            self._looking.result()

    def _run(self) -> None:
        backend = connect(self._log)
        reader = backend.reader()
        try:
            while not self._stopping.is_set():
                self._watch.look(reader, _QUIET_S, self._stopping)
        finally:
            reader.close()
            backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._pool.shutdown()
