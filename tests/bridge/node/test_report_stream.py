"""The report stream of a node: every report survives it; an invalid line is counted, and stops nobody."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.node.report_stream import LINE_BYTES_MAX, ReportLines
from repertory.bridge.reports import IncidentReport
from repertory.supervision.process.reports import Report, WorkerRunning, encode_line
from tests.bridge.node.some_reports import TYPES, any_report

GOOD = WorkerRunning(at_s=1.5, worker="worker-0", incarnation=1, pid=2)
LINE = b'{"event":"worker-running","at_s":1.5,"worker":"worker-0","incarnation":1,"pid":2}\n'


def line(**changes: Any) -> bytes:
    """Return the good line, changed; a field that is changed to ``...`` is left out."""
    fields = {**json.loads(LINE), **changes}
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def test_a_report_on_its_line() -> None:
    """The format that other programs may read: the event's name and plain fields."""
    assert encode_line(GOOD) == LINE


@given(any_report)
def test_every_report_survives_its_line(report: Report) -> None:
    """What is written is what is read, for each type of report."""
    encoded = encode_line(report)
    assert encoded is not None
    lines = ReportLines()
    assert list(lines.feed(encoded)) == [report]
    assert lines.lost == 0


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.__name__)
def test_an_event_is_named_after_its_type(kind: type[Report]) -> None:
    """Whoever sees an event in a log line finds its definition."""
    tag = re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower()
    assert kind.__struct_config__.tag == ("incident" if kind is IncidentReport else tag)


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"event": 1}', b'{"event": "a", "deep": [1]}', b"\xff",
        b'{"event": "\xff"}', b"[" * 100_000, b"x" * (LINE_BYTES_MAX + 1), LINE[:20] + LINE[:-1],
        line(event=...), line(event="worker-flies"), line(event=None),
        line(pid="2"), line(pid=None), line(pid=...), line(pid=-1), line(pid=1 << 70), line(worker=7),
        line(at_s="now"), line(at_s=1e300), line(at_s=-1), line(dropped=True), line(dropped=-1),
        line(worker="x" * LINE_BYTES_MAX),
    ],
)  # fmt: skip
def test_an_invalid_line_is_left_out_and_counted(garbage: bytes) -> None:
    """A process that is killed leaves half a line; a library that writes to any descriptor leaves what it likes."""
    lines = ReportLines()
    assert list(lines.feed(LINE + garbage + b"\n" + LINE)) == [GOOD, GOOD]
    assert lines.lost == 1


@given(st.lists(st.integers(1, 50), max_size=30), st.lists(st.sampled_from([LINE, b"no report\n"]), max_size=5))
def test_reports_come_out_however_the_bytes_are_cut(cuts: list[int], sent: list[bytes]) -> None:
    """A pipe hands over what there is."""
    lines, data, found = ReportLines(), b"".join(sent), []
    for cut in [*cuts, len(data)]:
        found += lines.feed(data[:cut])
        data = data[cut:]
    assert found == [GOOD] * sent.count(LINE)
    assert lines.lost == len(sent) - len(found)


def test_a_line_without_an_end_is_not_kept() -> None:
    """Memory is bounded, and what follows the line's end is read again."""
    lines = ReportLines()
    for _ in range(10):
        assert not list(lines.feed(b"x" * LINE_BYTES_MAX))
    assert len(lines._rest) <= LINE_BYTES_MAX
    assert list(lines.feed(b"\n" + LINE)) == [GOOD]
    assert lines.lost == 1
