"""The replies to a client's asks: finds them in one partition of the replies topic by their correlation ids.

Whichever way it is read, the end of the partition is known before an ask is sent: read later, the end might already be
behind the reply.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing

from repertory.actors.headers import CORRELATION_ID
from repertory.bridge import topics
from repertory.bridge.log.errors import ClientClosed, LogError, TopicMismatch
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.system.ask import Ask

#: How often the thread looks whether it is to stop; closing a client may take as long.
_STEP_S = 0.25
#: The thread ends when no ask was open for so long; the next one starts another, which reads the end anew.
IDLE_S = 5.0
#: The pause after a read that failed, and after one of a log in memory, which waits for nothing.
_PAUSE_S, _MEMORY_PAUSE_S = 0.2, 0.005


class Replies:
    """The open asks of one client by their correlation ids. Any thread may call it."""

    def __init__(self, open_reader: Callable[[], Reader], system: str) -> None:
        """``open_reader`` is called before the first ask; clients of one system spread over the partitions."""
        self._open_reader = open_reader
        #: The partition that this client reads.
        self.partition = TopicPartition(
            topics.replies_topic(system),
            secrets.randbelow(topics.REPLIES_PARTITIONS),
        )
        self._system = system
        self._lock = threading.Lock()
        self._asks: dict[bytes, Ask] = {}
        self._closed = False
        self._used_s = 0.0

    def open(self, ask: Ask) -> Future[None]:
        """Register an ask. When the future is done, a reply to it will be found, and the ask may be sent.

        The future has a LogError if the end is not known: TopicMismatch with the remedy if there is no such topic.
        """
        raise NotImplementedError

    def forget(self, ask: Ask) -> None:
        """Drop an ask that has ended."""
        with self._lock:
            self._asks.pop(ask.correlation_id, None)
            self._used_s = time.monotonic()

    def fail_all(self) -> None:
        """End all asks without an answer: each raises OutcomeUnknown. Later ones are not taken."""
        with self._lock:
            self._closed = True
            asks = [*self._asks.values()]
            self._asks.clear()
        for ask in asks:
            ask.closed()

    def close(self) -> None:
        """Release what was opened, after ``fail_all``."""
        raise NotImplementedError

    def _check_open(self) -> None:
        """With the lock, before anything is opened."""
        if self._closed:
            raise ClientClosed(f"nothing was appended: this client of {self._system} is closed")

    def _take(self, record: Record) -> None:
        """Give a record to the ask that it answers; those of other clients, and whatever else is there, are ignored."""
        ask = self._asks.get(record.header(CORRELATION_ID) or b"")
        if ask is not None:
            ask.take(record)

    def _end(self, reader: Reader) -> int:
        topic, partition = self.partition
        try:
            return reader.bounds(topic, partition)[1]
        except TopicMismatch as error:
            raise TopicMismatch(
                f"nothing was appended: replies to asks go to {self.partition}, and {error}. Create the topics with: "
                "repertory topics MODULE:SYSTEM --log URL --create"
            ) from error


class PolledReplies(Replies):
    """Replies that their callers read, between their other work: for a system that runs on the caller's thread."""

    def __init__(self, open_reader: Callable[[], Reader], system: str) -> None:
        super().__init__(open_reader, system)
        self._reader: Reader | None = None
        self._position = 0
        self._reading = threading.Lock()

    def open(self, ask: Ask) -> Future[None]:
        """See ``Replies.open``; waits for the log."""
        ready: Future[None] = Future()
        with self._reading, self._lock:
            self._check_open()
            if self._reader is None:
                self._reader = self._open_reader()
            if not self._asks:
                self._position = self._end(self._reader)
            self._asks[ask.correlation_id] = ask
        ready.set_result(None)
        return ready

    def poll(self) -> None:
        """Take the replies that have been committed."""
        topic, partition = self.partition
        with self._reading:
            if self._reader is None or self._closed or self._end(self._reader) <= self._position:
                return
            for record in self._reader.read(topic, partition, self._position):
                self._position = record.offset + 1
                self._take(record)

    def close(self) -> None:
        """See ``Replies.close``."""
        with self._reading:
            if self._reader is not None:
                self._reader.close()
                self._reader = None


class FollowedReplies(Replies):
    """Replies that a thread of their own reads, while there are asks."""

    def __init__(self, open_reader: Callable[[], Reader], system: str, *, idle_s: float = IDLE_S) -> None:
        super().__init__(open_reader, system)
        self._idle_s = idle_s
        self._thread: threading.Thread | None = None
        self._is_running = False
        self._ready: Future[None] = Future()
        self._stop = threading.Event()

    def open(self, ask: Ask) -> Future[None]:
        """See ``Replies.open``; waits for nothing."""
        with self._lock:
            self._check_open()
            self._asks[ask.correlation_id] = ask
            if not self._is_running:
                self._is_running, self._ready = True, Future()
                self._ready.set_running_or_notify_cancel()
                self._thread = threading.Thread(
                    target=self._run, args=(self._ready,), name=f"{self._system} replies", daemon=True
                )
                self._thread.start()
            return self._ready

    def close(self) -> None:
        """See ``Replies.close``; waits for the thread, mostly ``_STEP_S`` at most."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, ready: Future[None]) -> None:
        try:
            with closing(self._open_reader()) as reader:
                position = self._end(reader)
                ready.set_result(None)
                while not self._is_over():
                    position = self._follow(reader, position)
        except BaseException as error:
            with self._lock:
                self._is_running, asks = False, [*self._asks.values()]
            if not ready.done():
                ready.set_exception(error)
                if isinstance(error, LogError):
                    return
            for ask in asks:
                ask.fail(error)
            raise

    def _is_over(self) -> bool:
        """Return whether the thread ends."""
        with self._lock:
            is_idle = not self._asks and time.monotonic() - self._used_s >= self._idle_s
            if is_idle or self._closed:
                self._is_running = False
                return True
        return False

    def _follow(self, reader: Reader, position: int) -> int:
        """Take replies until there was none for a moment; return the next offset."""
        topic, partition = self.partition
        began_s, pause_s = time.monotonic(), 0.0
        try:
            for record in reader.follow(topic, {partition: position}, _STEP_S):
                position = record.offset + 1
                self._take(record)
                if self._stop.is_set():
                    return position
        except LogError:  # The asks that wait see it as their time-out; a later read may succeed.
            pause_s = _PAUSE_S
        if time.monotonic() - began_s < _STEP_S / 2:
            pause_s = pause_s or _MEMORY_PAUSE_S
        if pause_s:
            self._stop.wait(pause_s)
        return position
