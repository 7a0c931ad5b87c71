"""What the processes of a node report: typed events, and the stream that they are written to.

A report is one line of JSON on a pipe that all processes of the node share: ``{"event": "worker-started", ...}``.
The reports of the node and the Guardian are here. `bridge.reports` adds those of a worker's loop, and
`bridge.node.report_stream` decodes the union of all of them. Log lines, counters and the node's status are made from
reports.
"""

from __future__ import annotations

import os
import select
import time
from typing import Annotated

import msgspec

#: Strings of a report are not cut below this; a report that is still too long then is dropped.
REPORT_TEXT_BYTES_MIN = 64

#: The traceback of a report, so that the rest of the line has room: it keeps both ends. The log has the whole of it.
REPORTED_TRACEBACK_BYTES_MAX = 2_000

#: Bounds for the numbers of a report, so that a reader can calculate with each of them and encode the result.
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10**12)]


class Report(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="event"):
    """The base of all reports. The tag names the event.

    ``at_s`` (Unix time) and ``dropped`` (the reports that were lost before this one) are filled in by `ReportWriter`.
    """

    at_s: Seconds = 0.0
    dropped: Count = 0

    @property
    def event(self) -> str:
        """The name of the event, as on the line."""
        return str(self.__struct_config__.tag)


class WorkerReport(Report, frozen=True, kw_only=True):
    """The base of reports about one worker. `Control.report` fills in both fields for a worker's own reports."""

    worker: str = ""
    incarnation: Count = 0


# --- the node -------------------------------------------------------------------------------------------------


class NodeStarted(Report, frozen=True, kw_only=True, tag="node-started"):
    """The process tree is up; its workers are being started."""

    pid: Count


class NodeStopping(Report, frozen=True, kw_only=True, tag="node-stopping"):
    """A graceful stop was requested by a signal."""

    pid: Count
    signal: str


class NodeStopped(Report, frozen=True, kw_only=True, tag="node-stopped"):
    """The node's last report. ``sentence`` says why it gave up, and is empty after a graceful stop.

    ``killed``: processes that outlived their worker or the tree and were killed; ``left``: those that did not end.
    """

    pid: Count
    exit_code: int
    sentence: str
    killed: Count
    left: Count


class Escalated(Report, frozen=True, kw_only=True, tag="escalated"):
    """The tree of workers escalated a failure: the node gives up."""

    message: str
    where: str


# --- its workers, as the Guardian sees them -------------------------------------------------------------------


class WorkerStarted(WorkerReport, frozen=True, kw_only=True, tag="worker-started"):
    """A process was forked for a worker."""

    pid: Count


class WorkerRunning(WorkerReport, frozen=True, kw_only=True, tag="worker-running"):
    """The worker's work has started."""

    pid: Count


class WorkerWaits(WorkerReport, frozen=True, kw_only=True, tag="worker-waits"):
    """The worker is started again after a delay."""

    delay_s: Seconds


class WorkerExited(WorkerReport, frozen=True, kw_only=True, tag="worker-exited"):
    """The worker's process has ended. ``how``: "exit code 70", "SIGSEGV"."""

    pid: Count
    how: str


class WorkerFailed(WorkerReport, frozen=True, kw_only=True, tag="worker-failed"):
    """A worker failed: its work raised, or its process ended unasked. The supervisor decides what follows."""

    error_type: str
    message: str
    where: str
    traceback: str


class WorkerKilled(WorkerReport, frozen=True, kw_only=True, tag="worker-killed"):
    """The Guardian kills a worker: ``why`` in words; ``reason`` for counters: "ping", "progress" or "stop"."""

    pid: Count
    why: str
    reason: str


class WorkerDown(WorkerReport, frozen=True, kw_only=True, tag="worker-down"):
    """The worker is not started again."""

    pid: Count


#: What the node process and its Guardian report.
SupervisionReport = (
    NodeStarted
    | NodeStopping
    | NodeStopped
    | Escalated
    | WorkerStarted
    | WorkerRunning
    | WorkerWaits
    | WorkerExited
    | WorkerFailed
    | WorkerKilled
    | WorkerDown
)


class ReportWriter:
    """Writes the node's report stream: one JSON object a line, on a pipe that all processes of the node share.

    A line is no longer than PIPE_BUF (4,096 bytes), so the kernel keeps lines of different processes whole. Writing
    never blocks and never raises: when the pipe is full or has no reader, the report is dropped and counted, and
    the next one that gets through carries the count as ``dropped``. Any thread may write.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.dropped = 0
        os.set_blocking(fd, False)
        # A program that a worker starts would keep the stream open.
        os.set_inheritable(fd, False)  # noqa: FBT003 # it takes no keywords

    def write(self, report: Report) -> None:
        """Write a report with the current time; long strings lose their beginning."""
        stamped = msgspec.structs.replace(report, at_s=time.time(), dropped=self.dropped)
        try:
            line = encode_line(stamped)
            if line is None:
                self.dropped += 1
            else:
                os.write(self.fd, line)
                self.dropped = 0
        except (OSError, UnicodeEncodeError):  # The pipe is full or has no reader, or a string is not valid Unicode.
            self.dropped += 1


def encode_line(report: Report) -> bytes | None:
    """Encode a report in at most PIPE_BUF bytes; halve its longest string until it fits. None if it cannot fit."""
    while len(line := msgspec.json.encode(report) + b"\n") > select.PIPE_BUF:
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        texts = {name: value for name, value in fields.items() if isinstance(value, str)}
        longest = max(texts, key=lambda name: len(texts[name]), default=None)
        if longest is None or len(texts[longest]) < REPORT_TEXT_BYTES_MIN:
            return None
        report = msgspec.structs.replace(report, **{longest: "…" + texts[longest][len(texts[longest]) // 2 :]})
    return line
