"""What runs in a supervised process, and what it can say: the contract that `bridge.worker` fulfils.

Each supervised process has two threads. The control thread is Thespian's: it answers pings and relays. The data
thread runs one `Work` and nothing else of ours, so that neither can make the other deaf.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

import msgspec

from repertory.supervision.process.reports import ReportWriter, WorkerReport

#: What a work's arguments are made of: plain data that crosses processes.
Scalar = str | int | float | bool | None


class WorkSpec(msgspec.Struct, frozen=True):
    """Which work a supervised process does: plain data, nothing of it is built before the process exists.

    ``name`` is unique in the node. ``target`` is ``module:callable``; it is called with ``arguments`` as keywords,
    on the data thread of the child, and returns the `Work`.
    """

    name: str
    target: str
    arguments: Mapping[str, Scalar] = {}

    def build(self) -> Work:
        """Import the target and make the work. Runs on the data thread; raises whatever the target raises."""
        module_name, _, attribute = self.target.partition(":")
        make: Callable[..., Work] = getattr(import_module(module_name), attribute)
        return make(**self.arguments)


class Work(Protocol):
    """What one supervised process does."""

    def run(self, control: Control) -> None:
        """Work until ``control.stopping`` is set, then finish what is under way and return.

        Runs on the data thread and may block, but should look at ``stopping`` several times a second. Raising, or
        returning before it was asked to, is a failure of the process: the supervisor decides what follows.
        """


class Control:
    """What a `Work` says to its supervisor. Its methods never block; the data thread alone calls them.

    ``under_way``: may be replaced by a function that names what the data thread is doing, "" for nothing in particular;
    the control thread calls it. When its answer changes, that is progress too.
    """

    def __init__(self, worker: str, incarnation: int, reports: ReportWriter, on_started: Callable[[], None]) -> None:
        self.worker = worker
        self.incarnation = incarnation
        #: Set when a graceful stop was asked for. The stop has a deadline; then the process is killed.
        self.stopping = threading.Event()
        self._reports = reports
        self._on_started = on_started
        self.under_way: Callable[[], str] = lambda: ""
        self._progress_s: float | None = None
        self._doing, self._since_s = "", 0.0

    def started(self) -> None:
        """Say that the work is up: from now on it is expected to make progress. Call it once."""
        self._progress_s = time.monotonic()
        self._on_started()

    def progress(self) -> None:
        """Say that the data thread is alive: call it at each turn of its loop (0.1 µs).

        A handler that never returns still lets the control thread answer pings; this is how it is found out.
        """
        self._progress_s = time.monotonic()

    def report(self, report: WorkerReport) -> None:
        """Write a report to the node's report stream, with the worker's name and incarnation."""
        self._reports.write(msgspec.structs.replace(report, worker=self.worker, incarnation=self.incarnation))

    def silence(self) -> tuple[float, str]:
        """Return the seconds since the last sign of progress, 0 until started, and what is under way meanwhile.

        Called by the control thread, at each ping.
        """
        if self._progress_s is None:
            return 0.0, ""
        now_s, doing = time.monotonic(), self.under_way()
        if doing != self._doing:
            self._doing, self._since_s = doing, now_s
        return now_s - max(self._progress_s, self._since_s), doing
