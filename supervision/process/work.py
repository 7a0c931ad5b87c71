"""The contract between a supervised process and the work that runs in it; `bridge.worker` implements a `Work`.

Each supervised process has two threads. The control thread is Thespian's: it answers pings and sends messages. The data
thread only runs one `Work`, so that neither thread blocks the other.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Protocol

import msgspec

from repertory.supervision.process.reports import ReportWriter, WorkerReport

#: The type of a work's arguments: plain data that crosses processes.
Scalar = str | int | float | bool | None


class WorkSpec(msgspec.Struct, frozen=True):
    """Describes the work of a supervised process as plain data; the work itself is built in that process.

    ``name`` is unique in the node. ``target`` is ``module:callable``. The child calls it on its data thread, with
    ``arguments`` as keywords, and it returns the `Work`.
    """

    name: str
    target: str
    arguments: Mapping[str, Scalar] = {}

    def build(self) -> Work:
        """Import the target and make the work. Runs on the data thread; raises any error of the target."""
        module_name, _, attribute = self.target.partition(":")
        make: Callable[..., Work] = getattr(import_module(module_name), attribute)
        return make(**self.arguments)


class Work(Protocol):
    """The work of one supervised process."""

    def run(self, control: Control) -> None:
        """Work until ``control.stopping`` is set, then finish the work under way and return.

        Runs on the data thread and may block, but should check ``stopping`` several times a second. If it raises, or
        returns before ``stopping`` is set, the process has failed and its supervisor decides what follows.
        """


class Control:
    """A `Work`'s link to its supervisor. Its methods never block; only the data thread calls them, except `silence`.

    ``under_way`` may be replaced by a function that names what the data thread is doing, or returns "". The control
    thread calls it. A changed answer counts as progress.
    """

    def __init__(self, worker: str, incarnation: int, reports: ReportWriter, on_started: Callable[[], None]) -> None:
        self.worker = worker
        self.incarnation = incarnation
        #: Set when a graceful stop is requested. At the stop's deadline the process is killed.
        self.stopping = threading.Event()
        self._reports = reports
        self._on_started = on_started
        self.under_way: Callable[[], str] = lambda: ""
        self._progress_s: float | None = None
        self._doing, self._since_s = "", 0.0

    def started(self) -> None:
        """Report that the work has started; from now on it must make progress. Call it once."""
        self._progress_s = time.monotonic()
        self._on_started()

    def progress(self) -> None:
        """Record progress of the data thread. Call it at each turn of the loop (0.1 µs).

        While a handler hangs, the control thread still answers pings; the missing progress reveals the hang.
        """
        self._progress_s = time.monotonic()

    def report(self, report: WorkerReport) -> None:
        """Write a report to the node's report stream, with the worker's name and incarnation."""
        self._reports.write(msgspec.structs.replace(report, worker=self.worker, incarnation=self.incarnation))

    def silence(self) -> tuple[float, str]:
        """Return the seconds since the last progress (0 before the start), and what has been under way since then.

        The control thread calls it at each ping.
        """
        if self._progress_s is None:
            return 0.0, ""
        now_s, doing = time.monotonic(), self.under_way()
        if doing != self._doing:
            self._doing, self._since_s = doing, now_s
        return now_s - max(self._progress_s, self._since_s), doing
