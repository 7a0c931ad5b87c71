"""The text of an exception that outlives it: its message, and its traceback with the frames of user code first.

Pure, apart from the source lines that ``linecache`` reads. The text is the same in each process that runs the same
code: it names files as they are imported (``shop/orders.py``), and holds neither local variables nor addresses.
"""

from __future__ import annotations

import itertools
import re
import sys
import traceback
from collections.abc import Iterator
from types import TracebackType
from typing import Any

MESSAGE_CHARS_MAX = 1_000
"""Enough for a sentence and its numbers. A message can quote a whole record, and a failure is kept for each child."""

TRACEBACK_BYTES_MAX = 4_000
"""About forty frames. It is kept with each parked key and each dead letter, so it is far below the size of a record."""

LINE_CHARS_MAX = 500
"""A longer line of a traceback keeps both ends: a message that quotes a record must not displace the frames."""

_FRAMEWORK = __name__.partition(".")[0]
#: The file name of a line that stands for frames that were left out.
_LEFT_OUT = "<left out>"
_ADDRESS = re.compile(r"(?<= at 0x)[0-9a-fA-F]+(?=>)")


def message_of(error: BaseException) -> str:
    """Return what an exception says, at most 1,000 characters; never raises, whatever its ``__str__`` does."""
    try:
        text = str(error)
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001  user code
        text = f"<its __str__ failed with {type(failure).__name__}>"
    return _plain(text[:MESSAGE_CHARS_MAX])[:MESSAGE_CHARS_MAX]


def traceback_of(error: BaseException, doing: str = "") -> str:
    """Return the traceback of an exception and of those that it is chained to, in at most ``TRACEBACK_BYTES_MAX``.

    Frames of the framework are left out where there are frames of user code. ``doing`` says what failed, and becomes
    the last line. A text that is too long keeps both ends: the place where user code began, and the error. Never
    raises.
    """
    try:
        report = traceback.TracebackException.from_exception(error, compact=True)
        for each, its_report in _chain(error, report):
            its_report.stack = _shown(its_report.stack, each.__traceback__)
            if isinstance(each, SyntaxError) and its_report.filename:
                its_report.filename = _below_path(its_report.filename)
        text = "".join(map(_short, "".join(report.format()).splitlines(keepends=True)))
    except MemoryError:
        raise
    except Exception as failure:  # noqa: BLE001  an exception is an object of user code
        text = f"{type(error).__name__}: {message_of(error)}\n(its traceback: {type(failure).__name__})\n"
    return bounded(_plain(text) + (f"while {doing}\n" if doing else ""), TRACEBACK_BYTES_MAX)


def user_traceback(error: BaseException) -> str:
    """Return the traceback if user code is part of it, else "": a refusal of the framework is a sentence by itself."""
    todo: list[BaseException | None] = [error]
    seen: set[int] = set()
    while todo:
        each = todo.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if not all(_is_framework(module) for module in _modules(each.__traceback__)):
            return traceback_of(error)
        todo += [each.__cause__, each.__context__]
    return ""


def bounded(text: str, bytes_max: int) -> str:
    """Return a text in at most so many bytes of UTF-8. A longer one keeps both ends."""
    data = text.encode()
    if len(data) <= bytes_max:
        return text
    gap = b"\n[...]\n"
    head = (bytes_max - len(gap)) // 2
    tail = bytes_max - len(gap) - head
    return (data[:head] + gap + data[len(data) - tail :]).decode(errors="ignore")


def _chain(
    error: BaseException, report: traceback.TracebackException
) -> Iterator[tuple[BaseException, traceback.TracebackException]]:
    """Yield an exception, its cause or context, and the members of groups, each with its report."""
    todo: list[tuple[Any, traceback.TracebackException | None]] = [(error, report)]
    while todo:
        each, its_report = todo.pop()
        if its_report is None or each is None:
            continue
        yield each, its_report
        todo += [(each.__cause__, its_report.__cause__), (each.__context__, its_report.__context__)]
        todo += zip(getattr(each, "exceptions", ()), its_report.exceptions or (), strict=False)


class _Frames(traceback.StackSummary):
    """Frames, some of which stand for those that were left out."""

    def format_frame_summary(self, frame_summary: traceback.FrameSummary, **options: Any) -> str:
        if frame_summary.filename == _LEFT_OUT:
            return f"  [{frame_summary.name}]\n"
        return super().format_frame_summary(frame_summary, **options)


def _shown(frames: traceback.StackSummary, trace: TracebackType | None) -> traceback.StackSummary:
    """Leave out the frames of the framework before user code, and count those behind; keep all if there is no other."""
    named = [(_is_framework(module), frame, module) for module, frame in zip(_modules(trace), frames, strict=False)]
    has_user_code = not all(is_framework for is_framework, *_ in named)
    shown = _Frames()
    for is_framework, run in itertools.groupby(named, key=lambda each: each[0]):
        of_run = list(run)
        if is_framework and has_user_code:
            if shown:
                count = f"{len(of_run)} frame{'s' if len(of_run) > 1 else ''} of {_FRAMEWORK}"
                shown.append(traceback.FrameSummary(_LEFT_OUT, 0, count, lookup_line=False, line=""))
            continue
        for _, frame, module in of_run:
            frame.filename = _as_imported(frame.filename, module)
            shown.append(frame)
    return shown


def _modules(trace: TracebackType | None) -> Iterator[str]:
    return (str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(trace))


def _is_framework(module: str) -> bool:
    return module.partition(".")[0] == _FRAMEWORK


def _as_imported(filename: str, module: str) -> str:
    """Return ``shop/orders.py`` for the file of the module ``shop.orders``, wherever it is installed."""
    parts = filename.split("/")
    names = module.split(".")
    length = len(names) + (parts[-1] == "__init__.py")
    if [part.removesuffix(".py") for part in parts[-length:]][: len(names)] == names:
        return "/".join(parts[-length:])
    return _below_path(filename)


def _below_path(filename: str) -> str:
    """Return a file below the folder from which Python would import it; its name alone if there is none."""
    if filename.startswith("<"):
        return filename
    found = [folder for folder in sys.path if folder and filename.startswith(folder.rstrip("/") + "/")]
    return filename.removeprefix(max(found, key=len).rstrip("/") + "/") if found else filename.rpartition("/")[2]


def _short(line: str) -> str:
    if len(line) <= LINE_CHARS_MAX:
        return line
    half = LINE_CHARS_MAX // 2
    return f"{line[:half]}[...]{line[-half:]}"


def _plain(text: str) -> str:
    """Escape lone surrogates, which UTF-8 cannot hold, and leave out the addresses of objects."""
    return _ADDRESS.sub("…", text.encode("utf-8", "backslashreplace").decode())
