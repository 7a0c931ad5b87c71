"""Reads the report stream of a node: one JSON object a line, on a pipe that all its processes write to."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.bridge.reports import NodeReport

#: The writers keep their lines far shorter (`supervision.process.reports.ReportWriter`); longer lines are discarded.
LINE_BYTES_MAX = 1 << 16

_decoder: msgspec.json.Decoder[NodeReport] = msgspec.json.Decoder(NodeReport)


class ReportLines:
    """Bytes in, reports out, wherever the bytes are cut. Pure; owned by the reader of the pipe.

    A process that is killed may have written half a line, and any code in a worker may write to the pipe. A line that
    is not a known report is discarded and counted in ``lost``; it must never raise an error in the reader.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._rest = bytearray()
        self._skips = False

    def feed(self, chunk: bytes) -> Iterator[NodeReport]:
        """Add bytes that were read; yield the reports that they complete."""
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
