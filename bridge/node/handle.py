"""``NodeHandle``: a node of supervised worker processes, as seen by the process that started it."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

import msgspec

from repertory.bridge.log_lines import LOG_DEFAULTS, LogOptions, entry
from repertory.bridge.node.publisher import Publisher
from repertory.bridge.node.readiness import Readiness
from repertory.bridge.node.report_stream import ReportLines
from repertory.bridge.node.status import NodeStatus, NodeStatusRecord
from repertory.bridge.reports import (
    EntityOwes,
    IncidentReport,
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardHandedOver,
    ShardStalled,
    WorkerJoined,
)
from repertory.bridge.system.settings import Settings
from repertory.bridge.text import one_line
from repertory.supervision.process.proc import pid_start
from repertory.supervision.process.reports import (
    Escalated,
    Report,
    WorkerExited,
    WorkerFailed,
    WorkerKilled,
    WorkerStarted,
)

#: Added to the node's own stop timeout before the node is killed. Within it, the node ends its children and itself.
STOP_GRACE_S = 15.0

logger = logging.getLogger("repertory")


class NodeHandle:
    """A running ``python -m repertory.bridge.worker``. One thread may use it. As a context manager, it stops the node.

    Call :meth:`poll` regularly: it reads and returns the node's reports.
    """

    def __init__(
        self,
        target: str,
        log: str,
        *,
        workers: int,
        projectors: int = 0,
        stop_timeout_s: float,
        settings: Settings | None = None,
        node: str | None = None,
        kafka_config: str | None = None,
        publish: Callable[[NodeStatus], Publisher] | None = None,
        log_options: LogOptions = LOG_DEFAULTS,
        shards: int = 0,
    ) -> None:
        """``shards``: how many the system has, on all nodes."""
        self._stop_timeout_s = stop_timeout_s
        #: The node's name within the group; by default this machine's.
        self.name = node or socket.gethostname()
        #: Pids of the live workers by name (``worker-0``), according to the reports so far.
        self.workers: dict[str, int] = {}
        #: Reports that their writers dropped, and lines that were not valid reports.
        self.reports_lost = 0
        self._lines = ReportLines()
        read_fd, write_fd = os.pipe()
        command = [
            sys.executable, "-m", "repertory.bridge.worker", target, "--log", log, "--workers", str(workers),
            "--projectors", str(projectors),
            "--node", self.name, "--report-fd", str(write_fd), "--parent", str(os.getpid()), *log_options.arguments(),
        ]  # fmt: skip
        if settings is not None:
            command += ["--settings", msgspec.json.encode(settings).decode()]
        if kafka_config is not None:
            command += ["--kafka-config", kafka_config]
        try:
            # In a session of its own: Ctrl-C reaches only this process, which relays it once.
            self._process = subprocess.Popen(command, pass_fds=(write_fd,), start_new_session=True)  # noqa: S603
        except BaseException:
            os.close(read_fd)
            raise
        finally:
            os.close(write_fd)
        os.set_blocking(read_fd, False)
        self._read_fd: int | None = read_fd
        started_ms = time.time_ns() // 1_000_000
        self._readiness = Readiness(self.name, workers, shards, started_ms / 1000)
        self._status = NodeStatus(self.name, self.pid, pid_start(self.pid) or "", started_ms)
        self._publisher = None if publish is None else publish(self._status)

    @property
    def pid(self) -> int:
        """The pid of the node process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code of the node process, None while it runs."""
        return self._process.poll()

    @property
    def is_ready(self) -> bool:
        """Whether all workers had joined and their shards were recovered, according to the reports so far."""
        return self._readiness.reached

    def record(self) -> NodeStatusRecord:
        """Return the status from the reports so far: workers, counters, last incidents. Any thread may call it."""
        return self._status.record(time.time_ns() // 1_000_000)

    def poll(self, timeout_s: float) -> list[NodeReport]:
        """Return new reports; wait up to ``timeout_s`` for the first. Empty if there are none or the node has ended."""
        if self._read_fd is None:
            return []
        if (ready := self._readiness.sentence(time.time())) is not None:
            logger.info("%s", one_line(ready))
        if not select.select([self._read_fd], [], [], timeout_s)[0]:
            return []
        reports = list(self._read())
        for report in reports:
            self._take(report)
        return reports

    def _read(self) -> Iterator[NodeReport]:
        assert self._read_fd is not None
        try:
            while chunk := os.read(self._read_fd, 1 << 16):
                lost = self._lines.lost
                yield from self._lines.feed(chunk)
                self.reports_lost += self._lines.lost - lost
        except BlockingIOError:
            return
        os.close(self._read_fd)  # The end of the stream: no process of the node is left.
        self._read_fd = None
        self._status.end(self._process.poll())
        if self._publisher is not None:
            self._publisher.changed()

    def _take(self, report: NodeReport) -> None:
        match report:
            case WorkerStarted(worker=worker, pid=pid):
                self.workers[worker] = pid
            case WorkerExited(worker=worker, pid=pid) | WorkerKilled(worker=worker, pid=pid):
                if self.workers.get(worker) == pid:
                    del self.workers[worker]
            case _:
                pass
        self.reports_lost += report.dropped
        self._readiness.take(report)
        if self._status.take(report) and self._publisher is not None:
            self._publisher.changed()

    def _finish(self, exit_code: int) -> int:
        self._status.end(exit_code)
        if self._publisher is not None:
            self._publisher.close()
            self._publisher = None
        return exit_code

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the node. The first SIGTERM stops it gracefully; another, half a second later, at once."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until the node ends; relay SIGTERM and Ctrl-C to it, log its reports, and return its exit code."""
        before = {number: signal.signal(number, self._relay) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while self._read_fd is not None:
                for report in self.poll(timeout_s=1.0):
                    log_report(report)
            return self._finish(self._process.wait())
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _relay(self, number: int, _frame: FrameType | None) -> None:
        self.signal(signal.Signals(number))

    def stop(self) -> int:
        """Stop the node gracefully, or kill it after the timeout; return its exit code. No process of it is left."""
        self.signal(signal.SIGTERM)
        deadline_s = time.monotonic() + self._stop_timeout_s + STOP_GRACE_S
        while self._read_fd is not None and time.monotonic() < deadline_s:
            for report in self.poll(timeout_s=0.2):
                log_report(report)
        if self._read_fd is not None:
            self._process.kill()
            os.close(self._read_fd)
            self._read_fd = None
        self.workers.clear()
        return self._finish(self._process.wait())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def log_report(report: Report) -> None:
    """Write one report as a log line: the event and its fields. The traceback of a worker's failure is below it."""
    level = _level(report)
    if not logger.isEnabledFor(level):
        return
    fields = msgspec.to_builtins(report)
    shown = " ".join(f"{name}={value}" for name, value in fields.items() if name not in _NOT_SHOWN)
    trace = report.traceback if isinstance(report, WorkerFailed) else ""
    logger.handle(entry(logger, level, f"{report.event} {shown}", trace))


def _level(report: Report) -> int:
    match report:
        case IncidentReport() | ShardAborted() | ShardFenced() | ShardFailed() | ShardStalled() | ShardHandedOver():
            return logging.DEBUG  # The worker has logged it; see `bridge.worker_log`.
        case WorkerJoined() | ShardAssigned() | EntityOwes():
            return logging.DEBUG  # A line says when the node is ready; `status` shows what is owed.
        case WorkerFailed() | WorkerKilled() | Escalated():
            return logging.WARNING
        case _:
            return logging.INFO


#: Fields of a report that its log line leaves out.
_NOT_SHOWN = frozenset({"event", "at_s", "traceback"})
