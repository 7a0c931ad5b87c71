"""Callbacks of librdkafka's clients that raise: whatever they raise, Ctrl-C above all, leaves the ``poll`` they ran in.

Python handles a signal between any two instructions, so also within a callback. If another callback of the same poll
follows, the binding (2.16.1) loses the exception, and raises SystemError: "returned NULL without setting an exception".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Callbacks:
    """Keeps what the callbacks of one client raise. For one thread."""

    def __init__(self) -> None:
        self._raised: BaseException | None = None

    def kept(self, callback: Callable[P, None]) -> Callable[P, None]:
        """Return the callback for the client; what it raises, the :meth:`poll` around it raises."""

        def call(*arguments: P.args, **options: P.kwargs) -> None:
            try:
                callback(*arguments, **options)
            except BaseException as error:  # noqa: BLE001 - `poll` raises it
                self._raised = error

        return call

    def poll(self, poll: Callable[[float], T], timeout_s: float) -> T:
        """Call the client's ``poll``; raise what a callback raised in it."""
        try:
            polled = poll(timeout_s)
        except SystemError as lost:  # Ctrl-C came in a callback, but outside of what is kept.
            raise self._take() or KeyboardInterrupt from lost
        if (raised := self._take()) is not None:
            raise raised
        return polled

    def _take(self) -> BaseException | None:
        raised, self._raised = self._raised, None
        return raised
