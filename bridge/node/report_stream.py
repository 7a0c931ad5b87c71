"""The report stream of a node, read: one JSON object a line, from a pipe that all its processes write to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.bridge.node.status import Report

#: A line is never longer than the kernel keeps whole (`supervision.process.work.Reports`); what is longer is none.
LINE_BYTES_MAX = 1 << 16

_decode = msgspec.json.Decoder(dict[str, str | int | float | bool | None]).decode


class ReportLines:
    """Bytes in, reports out, however the bytes are cut. Pure; owned by whoever reads the pipe.

    A process that is killed may have written half a line, and the pipe is open to whatever runs in a worker: a line
    that is no report is left out and counted in ``lost``. It must not take down who watches over the node.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._rest = bytearray()
        self._skips = False

    def feed(self, chunk: bytes) -> Iterator[Report]:
        """Take what was read, and yield the reports that are complete with it."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line, skips = bytes(self._rest + end), self._skips
            self._rest.clear()
            self._skips = False
            report = None if skips else _report(line)
            if report is None:
                self.lost += 1
            else:
                yield report
        self._rest += rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest.clear()
            self._skips = True


def _report(line: bytes) -> Report | None:
    try:
        report = _decode(line)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors, and so is bad UTF-8
        return None
    return report if isinstance(report.get("event"), str) else None
