"""The writer of the report stream: whole lines of bounded length, and no report that blocks or raises."""

from __future__ import annotations

import json
import os
import select
import time
from collections.abc import Iterator
from io import FileIO

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision.process.reports import (
    NodeStarted,
    ReportWriter,
    WorkerFailed,
    WorkerRunning,
    encode_line,
)
from repertory.supervision.process.work import Control

Pipe = tuple[FileIO, FileIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    """Give both ends of a pipe: where to read, and where to write."""
    read_fd, write_fd = os.pipe()
    with FileIO(read_fd, "rb") as reader, FileIO(write_fd, "wb") as writer:
        yield reader, writer


def read(pipe: Pipe) -> dict[str, object]:
    """Return the last line that is in the pipe."""
    line: dict[str, object] = json.loads(os.read(pipe[0].fileno(), 1 << 20).splitlines()[-1])
    return line


def failed(traceback: str, message: str = "no") -> WorkerFailed:
    """Return a report with a long text."""
    return WorkerFailed(
        worker="w0", incarnation=1, error_type="ValueError", message=message, where="w0#1", traceback=traceback
    )


def test_a_line_names_its_event_and_its_time(pipe: Pipe) -> None:
    """The stream stays readable JSON, one object a line."""
    before_s = time.time()
    ReportWriter(pipe[1].fileno()).write(NodeStarted(pid=7))
    line = read(pipe)
    at_s = line.pop("at_s")
    assert isinstance(at_s, float)
    assert before_s <= at_s <= time.time()
    assert line == {"event": "node-started", "pid": 7}


def test_a_workers_own_report_carries_its_name_and_incarnation(pipe: Pipe) -> None:
    """Whoever reports from a worker need not know which one it is."""
    Control("w3", 5, ReportWriter(pipe[1].fileno()), lambda: None).report(WorkerRunning(pid=7))
    line = read(pipe)
    assert (line["worker"], line["incarnation"]) == ("w3", 5)


def test_reports_without_a_reader_are_dropped(pipe: Pipe) -> None:
    """A full pipe blocks nobody, and a closed one raises nothing; the next report carries the count."""
    reports = ReportWriter(pipe[1].fileno())
    for _ in range(2_000):
        reports.write(failed("x" * 100))
    assert reports.dropped > 0
    dropped = reports.dropped
    read(pipe)
    reports.write(NodeStarted(pid=7))
    assert read(pipe)["dropped"] == dropped
    assert reports.dropped == 0
    pipe[0].close()
    reports.write(NodeStarted(pid=7))
    assert reports.dropped == 1


def test_a_report_that_cannot_be_encoded_is_dropped(pipe: Pipe) -> None:
    """Text that is not valid Unicode raises nothing where it is reported."""
    reports = ReportWriter(pipe[1].fileno())
    reports.write(failed("\udcff"))
    assert reports.dropped == 1


@given(st.text(max_size=6_000), st.text(max_size=6_000))
def test_a_line_is_bounded_and_long_texts_keep_their_end(traceback: str, message: str) -> None:
    """The kernel keeps lines of up to PIPE_BUF bytes whole; a traceback's end says most."""
    line = encode_line(failed(traceback, message))
    assert line is not None
    assert len(line) <= select.PIPE_BUF
    got = msgspec.json.decode(line, type=WorkerFailed)
    assert traceback.endswith(got.traceback.lstrip("…"))
    assert message.endswith(got.message.lstrip("…"))
    assert (got.error_type, got.where) == ("ValueError", "w0#1")


def test_a_report_that_stays_too_long_is_no_line() -> None:
    """Short strings are not cut; a report of very many would not fit."""

    fields = [(f"field_{number}", str) for number in range(200)]
    wide = msgspec.defstruct("Wide", fields, bases=(NodeStarted,), frozen=True, kw_only=True)
    assert encode_line(wide(pid=1, **{name: "x" * 30 for name, _ in fields})) is None
