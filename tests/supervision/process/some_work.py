"""Works that behave, or fail in every way that a worker can fail. The child processes of test_process import this."""

from __future__ import annotations

import ctypes
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from repertory.supervision.process.reports import WorkerReport
from repertory.supervision.process.work import Control


class Ready(WorkerReport, frozen=True, kw_only=True, tag="ready"):
    """The work has started, in this process."""

    pid: int


class Drained(WorkerReport, frozen=True, kw_only=True, tag="drained"):
    """The work has stopped as it was asked to."""


class Plodded(WorkerReport, frozen=True, kw_only=True, tag="plodded"):
    """Two seconds of small steps are over."""


class Deaf(WorkerReport, frozen=True, kw_only=True, tag="deaf"):
    """The request to stop was heard, and nothing follows."""


class Program(WorkerReport, frozen=True, kw_only=True, tag="program"):
    """A program was started."""

    program: int


class Much(WorkerReport, frozen=True, kw_only=True, tag="much"):
    """One of many long lines."""

    number: int
    text: str


class Steady:
    """Works until it is asked to stop; first does ``deed``, in incarnations up to ``until``."""

    def __init__(self, deed: str = "nothing", until: int = 1_000_000, where: str = "") -> None:
        self.deed = DEEDS[deed]
        self.until = until
        #: A directory that the workers share.
        self.where = Path(where)

    def run(self, control: Control) -> None:
        """Report the pid, so that a test can wait for it."""
        control.started()
        control.report(Ready(pid=os.getpid()))
        if control.incarnation <= self.until:
            self.deed(control)
        if self.deed is stop_together:
            self._await_others(control)
        while not control.stopping.wait(0.02):
            control.progress()
        control.report(Drained())

    def _await_others(self, control: Control) -> None:
        """Once told to stop, wait until all workers of the node (there are two) have been told."""
        control.stopping.wait()
        (self.where / f"{control.worker}.told").touch()
        while len(list(self.where.glob("*.told"))) < 2:
            time.sleep(0.01)


def nothing(_control: Control) -> None:
    """Work as it should be."""


def stop_together(_control: Control) -> None:
    """Stop only when the other worker is told to stop too; see `Steady`."""


def fail(_control: Control) -> None:
    raise ValueError("broken on purpose")


def be_fenced(_control: Control) -> None:
    """Fail with a type that the policy stops (see some_node)."""
    raise KeyError("fenced on purpose")


def stumble(_control: Control) -> None:
    """Fail with a type that is to resume."""
    raise EOFError("stumbled on purpose")


def lose_everything(_control: Control) -> None:
    """Fail with a type whose base the policy escalates."""
    raise BrokenPipeError("lost on purpose")


def leave(_control: Control) -> None:
    sys.exit(3)


def crash(_control: Control) -> None:
    ctypes.string_at(0)


def abort(_control: Control) -> None:
    os.abort()


def catastrophic(_control: Control) -> None:
    """Hold the GIL for longer than the universe is old."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def spin(_control: Control) -> None:
    """Never return, but leave the GIL to others."""
    while True:
        pass


def plod(control: Control) -> None:
    """Say nothing for two seconds, and have something else under way every tenth of one."""
    begun_s = time.monotonic()
    control.under_way = lambda: f"step {int((time.monotonic() - begun_s) * 10)}"
    control.stopping.wait(2)
    control.report(Plodded())


def refuse_to_stop(control: Control) -> None:
    """Hear the request and do nothing."""
    control.stopping.wait()
    control.report(Deaf())
    while True:
        control.stopping.wait(1)


def fail_while_stopping(control: Control) -> None:
    control.stopping.wait()
    raise ValueError("broken while stopping")


def return_early(control: Control) -> None:
    control.stopping.wait = lambda _timeout=None: True  # type: ignore[method-assign] # it looks stopped to the work


def log(_control: Control) -> None:
    logging.getLogger(__name__).warning("a line of the data thread")


def start_a_program(control: Control) -> None:
    """Start something that outlives its worker."""
    program = subprocess.Popen(["sleep", "600"])
    control.report(Program(program=program.pid))


def report_much(control: Control) -> None:
    """Write lines that are too long for the stream, and more of them than the pipe holds at once."""
    for number in range(500):
        control.report(Much(number=number, text="x" * 5_000 + "end"))


DEEDS: dict[str, Callable[[Control], None]] = {
    deed.__name__: deed
    for deed in (
        nothing,
        stop_together,
        fail,
        be_fenced,
        stumble,
        lose_everything,
        leave,
        crash,
        abort,
        catastrophic,
        spin,
        plod,
        refuse_to_stop,
        fail_while_stopping,
        return_early,
        log,
        start_a_program,
        report_much,
    )
}
