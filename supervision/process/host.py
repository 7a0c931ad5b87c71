"""A supervised process as its Guardian sees it: who it is, whether it answers, when it must be gone."""

from __future__ import annotations

import contextlib
import os
import signal
from multiprocessing.process import BaseProcess

from repertory.supervision.directive import Failure


class Silence:
    """How long the other side has not answered; counts only time in which we ourselves were awake.

    A machine that was suspended, or a Guardian that got no CPU, would else find everybody else silent.
    """

    def __init__(self, now_s: float, *, turn_s_max: float) -> None:
        self.total_s = 0.0
        self._turn_s_max = turn_s_max
        self._seen_s = now_s

    def heard(self) -> None:
        """The other side answered."""
        self.total_s = 0.0

    def lasts(self, now_s: float) -> float:
        """Seconds of silence until ``now_s``. A turn longer than ``turn_s_max`` counts as that."""
        self.total_s += min(now_s - self._seen_s, self._turn_s_max)
        self._seen_s = now_s
        return self.total_s


class Host:
    """One incarnation of a worker: its process, and what it owes. Owned by the Guardian's only thread.

    Holds a pidfd, taken while the process could not have been reaped: a pid that was used again is never killed.
    """

    def __init__(self, worker: str, incarnation: int, address: object, process: BaseProcess, silence: Silence) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.address = address
        self.silence = silence
        self.pid = process.pid or 0
        self.pidfd = os.pidfd_open(self.pid)
        #: When it must be gone, and what is said when it is not; None while nobody wants it gone.
        self.deadline: tuple[float, str] | None = None
        #: Why it failed, as far as it is known before it is gone.
        self.failure: Failure | None = None
        self.stopping = False
        self.killed = False
        self._process = process

    def leave_by(self, deadline_s: float, why: str) -> None:
        """Expect it to be gone by then; a deadline that is nearer stays."""
        if self.deadline is None or deadline_s < self.deadline[0]:
            self.deadline = (deadline_s, why)

    def kill(self) -> None:
        """SIGKILL, once; its exit is seen at the pidfd."""
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def gone(self) -> str:
        """Reap the process after its pidfd became readable, and say how it ended: "exit code 70", "SIGSEGV"."""
        os.close(self.pidfd)
        code = self._process.exitcode  # reaps; or Thespian did, and multiprocessing has kept the code
        if code is None:
            return "unknown"
        if code >= 0:
            return f"exit code {code}"
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
        return f"signal {-code}"
