"""The report stream of a node, read: one JSON object a line, from a pipe that all its processes write to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.bridge.reports import NodeReport

#: The writers keep their lines far shorter (`supervision.process.reports.ReportWriter`); longer lines are discarded.
LINE_BYTES_MAX = 1 << 16

_decoder: msgspec.json.Decoder[NodeReport] = msgspec.json.Decoder(NodeReport)


class ReportLines:
    """Bytes in, reports out, however the bytes are cut. Pure; owned by whoever reads the pipe.

    A process that is killed may have written half a line, and the pipe is open to whatever runs in a worker: a line
    that is no report is left out and counted in ``lost``. It must not take down who watches over the node.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._rest = bytearray()
        self._skips = False

    def feed(self, chunk: bytes) -> Iterator[NodeReport]:
        """Take what was read, and yield the reports that are complete with it."""
        *ends, rest = chunk.split(b"\n")
        for end in ends:
            line, skips = bytes(self._rest + end), self._skips
            self._rest.clear()
            self._skips = False
            report = None if skips or len(line) > LINE_BYTES_MAX else _decoded(line)
            if report is None:
                self.lost += 1
            else:
                yield report
        self._rest += rest
        if len(self._rest) > LINE_BYTES_MAX:
            self._rest.clear()
            self._skips = True


def _decoded(line: bytes) -> NodeReport | None:
    try:
        return _decoder.decode(line)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors, and so is invalid UTF-8
        return None
