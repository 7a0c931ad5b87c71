"""The report stream of a node: what is no report is counted, and takes nobody down."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.node.report_stream import LINE_BYTES_MAX, ReportLines

GOOD = {"event": "worker-running", "at_s": 1.5, "worker": "worker-0", "why": None}
LINE = msgspec.json.encode(GOOD) + b"\n"


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"{", b"null", b"[]", b"{}", b'{"event": 1}', b'{"event": "a", "deep": [1]}', b"\xff",
        b'{"event": "\xff"}', b"[" * 100_000, b"x" * (LINE_BYTES_MAX + 1), LINE[:20] + LINE[:-1],
    ],
)  # fmt: skip
def test_a_line_that_is_no_report_is_left_out_and_counted(garbage: bytes) -> None:
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
