"""A limit on the time of one run: a handler, a workload or an invariant that never ends is reported, not waited for."""

from __future__ import annotations

import contextlib
import itertools
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

#: A run takes about 50 ms. It may take this many ticks, with a tick every so many seconds: a machine that is suspended
#: meanwhile, or a process that is stopped, costs one tick, however long it was.
TICK_S, TICKS_MAX = 10.0, 6


class RunTooLong(BaseException):
    """A run takes too long. It is a BaseException, so that no handler and no loop catches it."""


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise RunTooLong in what is run here when it takes too long, wherever it is.

    There is no limit outside of the main thread, while a debugger or a tracer is at work, and where the caller has an
    interval timer of its own (pytest-timeout): that one is the limit.
    """
    if threading.current_thread() is not threading.main_thread() or signal.getitimer(signal.ITIMER_REAL)[0]:
        yield
        return
    ticks = itertools.count(1)

    def tick(_signal: int, _frame: FrameType | None) -> None:
        if next(ticks) >= TICKS_MAX and sys.gettrace() is None:
            raise RunTooLong

    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, TICK_S, TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
