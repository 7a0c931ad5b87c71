"""``AppendThread``: appends for callers that must not wait in the append itself, many at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from repertory.bridge.log.errors import ClientClosed, Refused
from repertory.bridge.log.record import Output

#: Entries are appended together up to this many records.
_BATCH_RECORDS = 1_000
#: The thread ends after this long without an entry; the next one starts another.
IDLE_S = 5.0


class _Entry(NamedTuple):
    outputs: Sequence[Output]
    outcome: Future[None]


class AppendThread:
    """A queue of appends, and the thread that makes them. Any thread may call it.

    What is queued while an append is under way becomes one append: on a busy client, that is one wait for the log
    instead of one for each. Its callers bound the queue: each has one entry and waits for it.
    """

    def __init__(self, append: Callable[[Sequence[Output]], object], name: str, *, idle_s: float = IDLE_S) -> None:
        """``append`` raises what ``Appender.append`` does, or ClientClosed; ``name`` is the thread's."""
        self._append, self._name, self._idle_s = append, name, idle_s
        self._changed = threading.Condition()
        self._entries: deque[_Entry] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, outputs: Sequence[Output]) -> Future[None]:
        """Queue an append, and return its outcome: done, or an error. If that is cancelled, nothing is appended."""
        entry = _Entry(outputs, Future())
        with self._changed:
            if self._closed:
                entry.outcome.set_exception(ClientClosed("nothing was appended: this client is closed"))
                return entry.outcome
            self._entries.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        return entry.outcome

    def close(self) -> None:
        """Take no more entries, and end those that wait with ClientClosed. Does not wait for an append under way."""
        with self._changed:
            self._closed = True
            entries = [*self._entries]
            self._entries.clear()
            self._changed.notify()
        for entry in entries:
            if entry.outcome.set_running_or_notify_cancel():
                entry.outcome.set_exception(ClientClosed("nothing was appended: this client was closed"))

    def _run(self) -> None:
        while entries := self._next():
            self._append_all(entries)

    def _next(self) -> list[_Entry]:
        """Wait for entries and take some; none ends the thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._closed, self._idle_s)
            if not self._entries:
                self._thread = None
                return []
            taken = [self._entries.popleft()]
            count = len(taken[0].outputs)
            while self._entries and count + len(self._entries[0].outputs) <= _BATCH_RECORDS:
                taken.append(self._entries.popleft())
                count += len(taken[-1].outputs)
            return taken

    def _append_all(self, entries: Sequence[_Entry]) -> None:
        live = [entry for entry in entries if entry.outcome.set_running_or_notify_cancel()]
        try:
            self._append([output for entry in live for output in entry.outputs])
        except Refused as error:
            if len(live) == 1:
                live[0].outcome.set_exception(error)
                return
            for entry in live:  # Nothing was appended, because of one of them.
                self._append_one(entry)
        except Exception as error:  # noqa: BLE001 - each caller raises it
            for entry in live:
                entry.outcome.set_exception(error)
        else:
            for entry in live:
                entry.outcome.set_result(None)

    def _append_one(self, entry: _Entry) -> None:
        try:
            self._append(entry.outputs)
        except Exception as error:  # noqa: BLE001 - its caller raises it
            entry.outcome.set_exception(error)
        else:
            entry.outcome.set_result(None)
