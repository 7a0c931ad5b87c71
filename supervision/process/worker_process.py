"""A worker's process as its Guardian sees it: which incarnation it is, whether it answers, and when it must exit."""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.process import BaseProcess

from repertory.supervision.directive import Failure


class Silence:
    """How long a peer has not answered. It counts only time in which this process itself was running.

    Otherwise all peers would seem silent after the machine was suspended, or after this process got no CPU.
    """

    def __init__(self, now_s: float, *, turn_s_max: float) -> None:
        self.total_s = 0.0
        self._turn_s_max = turn_s_max
        self._updated_s = now_s

    def end(self) -> None:
        """The peer answered."""
        self.total_s = 0.0

    def update(self, now_s: float) -> float:
        """Return the seconds of silence until ``now_s``. A turn longer than ``turn_s_max`` counts as ``turn_s_max``."""
        self.total_s += min(now_s - self._updated_s, self._turn_s_max)
        self._updated_s = now_s
        return self.total_s


class WorkerProcess:
    """One incarnation of a worker: its process, its deadline, and its failure. Owned by the Guardian's only thread.

    It holds a pidfd, opened before the process could have been reaped, so that a reused pid is never killed.
    """

    def __init__(self, worker: str, incarnation: int, address: object, process: BaseProcess, silence: Silence) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.address = address
        self.silence = silence
        self.pid = process.pid or 0
        self.pidfd = os.pidfd_open(self.pid)
        #: When the process must have exited, and the reason that is reported if it has not; None without a deadline.
        self.deadline: tuple[float, str] | None = None
        #: Why the worker failed, if that is known before the process has exited.
        self.failure: Failure | None = None
        self.stopping = False
        self.killed = False
        self._process = process

    def exit_by(self, deadline_s: float, why: str) -> None:
        """Set the deadline for the exit, unless there is an earlier one."""
        if self.deadline is None or deadline_s < self.deadline[0]:
            self.deadline = (deadline_s, why)

    def kill(self) -> None:
        """Send SIGKILL. The exit is seen at the pidfd."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> str:
        """Reap the process after its pidfd became readable, and return how it ended: "exit code 70", "SIGSEGV"."""
        os.close(self.pidfd)
        code = self._process.exitcode  # Reaps it; if Thespian has done so already, multiprocessing has kept the code.
        if code is None:
            return "unknown"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"
