"""``EventLoopWatch``: notices that a sync call blocks the event loop of a worker's effects, and says where.

Nothing else on an event loop goes on while a call on it blocks, no time-out either. So another thread asks the loop for
a sign of life, and looks at the stack of its thread if there is none.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
import traceback
from contextlib import suppress

#: How often the loop is asked.
_ASK_S = 0.25
#: The most that counts between two looks: a process that was stopped, or a machine that slept, has blocked nothing.
_STEP_S_MAX = 0.1
#: How many frames of a stack are shown, the innermost ones.
_FRAMES_MAX = 20


class EventLoopWatch:
    """Owned by the thread of the worker's loop, which looks at the thread of the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._loop, self._thread = loop, thread
        self._asked: threading.Event | None = None
        self._asked_s = self._looked_s = 0.0
        #: For how long the loop has been seen to give no sign of life, and for how long it was looked at in all.
        self.blocked_s = self.seen_s = 0.0

    def look(self) -> float:
        """Return for how long the loop has been blocked, as far as this was called meanwhile; 0 if it is not."""
        now_s = time.monotonic()
        passed_s, self._looked_s = min(now_s - self._looked_s, _STEP_S_MAX), now_s
        self.seen_s += passed_s
        if self._asked is not None and not self._asked.is_set():
            self.blocked_s += passed_s
        elif now_s - self._asked_s >= _ASK_S:
            self._asked, self._asked_s, self.blocked_s = threading.Event(), now_s, 0.0
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(self._asked.set)
        else:
            self.blocked_s = 0.0
        return self.blocked_s

    def task(self) -> str:
        """Return the name of the task that runs now; "" if none does."""
        task = asyncio.current_task(self._loop)
        return "" if task is None else task.get_name()

    def stack(self) -> str:
        """Return the stack of the call that runs now, innermost last, without the frames of the event loop itself."""
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001  there is no other way to see it
        if frame is None:
            return ""
        frames = traceback.extract_stack(frame)
        own = [at for at, each in enumerate(frames) if each.filename == asyncio.events.__file__]
        return "".join(traceback.format_list(frames[max(own, default=-1) + 1 :][-_FRAMES_MAX:]))
