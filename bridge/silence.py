"""Keeps quiet what user code logs and prints when it decides or applies again what was decided long ago.

An operator who verifies a log must not read 3,000 lines "charging …": nothing is charged. Only the thread that works
again is silent, and only for loggers of the application.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TextIO, TypeVar

from repertory.bridge.log_lines import handlers

P = ParamSpec("P")
R = TypeVar("R")

_FRAMEWORK = __name__.partition(".")[0]


class Silenced(logging.Filter):
    """What is dropped on one thread, and how many lines that were. Made by `silenced`."""

    def __init__(self) -> None:
        super().__init__()
        self.lines = 0
        self._thread, self._is_lifted = threading.get_ident(), False
        self._last: logging.LogRecord | None = None

    @property
    def holds(self) -> bool:
        """Whether the current thread is silent now."""
        return threading.get_ident() == self._thread and not self._is_lifted

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop a line of the application."""
        if not self.holds or record.name.partition(".")[0] == _FRAMEWORK:
            return True
        if record is not self._last:  # Several handlers may see one line.
            self.lines, self._last = self.lines + 1, record
        return False

    def outside(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return a function of the caller's, within which nothing is dropped."""

        def call(*values: P.args, **named: P.kwargs) -> R:
            before, self._is_lifted = self._is_lifted, True
            try:
                return function(*values, **named)
            finally:
                self._is_lifted = before

        return call


class _Printed:
    """Takes the place of stdout: drops what the silent thread prints, and hands on all else."""

    def __init__(self, silenced: Silenced, stdout: TextIO) -> None:
        self._silenced, self._stdout = silenced, stdout

    def write(self, text: str) -> int:
        if not self._silenced.holds:
            return self._stdout.write(text)
        self._silenced.lines += text.count("\n")
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)


class _Current:
    """The innermost silence of this process."""

    silenced: Silenced | None = None


@contextlib.contextmanager
def silenced() -> Iterator[Silenced]:
    """Drop what user code logs and prints on this thread. Within a silence of the same thread it changes nothing."""
    if _Current.silenced is not None and _Current.silenced.holds:
        yield _Current.silenced
        return
    made, before, stdout = Silenced(), _Current.silenced, sys.stdout
    filtered = list(handlers())
    try:  # Ctrl-C may come at any moment.
        for handler in filtered:
            handler.addFilter(made)
        sys.stdout, _Current.silenced = _Printed(made, stdout), made
        yield made
    finally:
        sys.stdout, _Current.silenced = stdout, before
        for handler in filtered:
            handler.removeFilter(made)
