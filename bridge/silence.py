"""Keeps quiet what user code logs and prints when it decides or applies again what was decided long ago.

An operator who verifies a log must not read 3,000 lines "charging …": nothing is charged. Only the thread that works
again is silent, and only for loggers of the application. A silence holds while the function runs that asked for it:
Ctrl-C between any two instructions, those of its end included, leaves nobody silent.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, ParamSpec, TextIO, TypeVar

from repertory.bridge.log_lines import handlers

P = ParamSpec("P")
R = TypeVar("R")

_FRAMEWORK = __name__.partition(".")[0]


class Silenced:
    """What is dropped on one thread, and how many lines that were. Made by `silenced`."""

    def __init__(self, asked: FrameType, outer: Silenced | None) -> None:
        self.lines = 0
        self.outer = outer
        self._asked = asked
        self.is_lifted = False
        self._last: logging.LogRecord | None = None

    def is_over(self) -> bool:
        """Return whether this thread has left the function that asked for the silence, perhaps before it was ended."""
        frame: FrameType | None = sys._getframe(1)  # noqa: SLF001
        while frame is not None and frame is not self._asked:
            frame = frame.f_back
        return frame is None

    def drop(self, record: logging.LogRecord) -> None:
        """Count a line; several handlers may see it."""
        if record is not self._last:
            self.lines, self._last = self.lines + 1, record

    def outside(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function of the caller's, within which nothing is dropped."""

        def call(*values: P.args, **named: P.kwargs) -> R:
            before, self.is_lifted = self.is_lifted, True
            try:
                return function(*values, **named)
            finally:
                self.is_lifted = before

        return call


class _Current(threading.local):
    """The silence of each thread."""

    silenced: Silenced | None = None

    def holds(self) -> Silenced | None:
        """Return the current thread's silence, None if it is heard now."""
        while (held := self.silenced) is not None and held.is_over():
            _dropping.silences.discard(held)
            self.silenced = held.outer
        return None if held is None or held.is_lifted else held


_current = _Current()


class _Dropper(logging.Filter):
    """Drops the application's lines of a silent thread."""

    def filter(self, record: logging.LogRecord) -> bool:
        held = _current.holds()
        if held is None or record.name.partition(".")[0] == _FRAMEWORK:
            return True
        held.drop(record)
        return False


class _Printed:
    """Takes the place of stdout: drops what a silent thread prints, and hands on all else."""

    def __init__(self, stdout: TextIO) -> None:
        self.stdout = stdout

    def write(self, text: str) -> int:
        held = _current.holds()
        if held is None:
            return self.stdout.write(text)
        held.lines += text.count("\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stdout, name)


class _Dropping:
    """The handlers and the stdout of this process, which drop lines while any thread is silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.silences: set[Silenced] = set()  #: That may still hold, of all threads.
        self._filtered: set[logging.Handler] = set()
        self._dropper = _Dropper()
        #: Kept, and used again: ``print`` borrows sys.stdout and writes to it twice (CPython 3.11). So another thread's
        #: print may still use what the end of a silence has taken out of sys. Freed then, it crashed.
        self._printed: _Printed | None = None

    def begin(self, silence: Silenced) -> None:
        """Begin to drop."""
        with self._lock:
            self.silences.add(silence)
            for handler in handlers():
                self._filtered.add(handler)
                handler.addFilter(self._dropper)
            if not isinstance(sys.stdout, _Printed):
                if self._printed is None or self._printed.stdout is not sys.stdout:
                    self._printed = _Printed(sys.stdout)
                sys.stdout = self._printed

    def end(self, silence: Silenced) -> None:
        """Leave all as it was, unless another thread is still silent."""
        with self._lock:
            self.silences.discard(silence)
            if self.silences:
                return
            while self._filtered:
                self._filtered.pop().removeFilter(self._dropper)
            if isinstance(sys.stdout, _Printed):
                sys.stdout = sys.stdout.stdout


_dropping = _Dropping()


@contextlib.contextmanager
def silenced() -> Iterator[Silenced]:
    """Drop what user code logs and prints on this thread. Within a silence of the same thread it changes nothing.

    Threads may be silent at the same time, and end it in any order.
    """
    if (held := _current.holds()) is not None:
        yield held
        return
    made = Silenced(sys._getframe(2), _current.silenced)  # noqa: SLF001  behind contextlib's frame
    _current.silenced = made
    try:
        _dropping.begin(made)
        yield made
    finally:
        _current.silenced = made.outer
        _dropping.end(made)
