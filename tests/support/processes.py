"""Programs that tests start: with the signals of a terminal, in a session of their own, and none is left behind.

A test run may itself have been started with signals ignored: ``nohup`` ignores SIGHUP, and a shell without job control
ignores SIGINT and SIGQUIT for what it starts in the background. Programs inherit that, and Python installs its handler
for Ctrl-C only where SIGINT is not ignored.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

#: What tests send, and a test run may have inherited as ignored.
SIGNALS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
#: What was killed, or asked to end, is gone within milliseconds; the rest is for a busy machine.
END_TIMEOUT_S = 30.0


@contextmanager
def inherited_signals(ignored: Collection[signal.Signals] = ()) -> Iterator[None]:
    """Have programs that are started within inherit the default signals, but for those to be ignored.

    Main thread only. This process goes on ignoring what it ignored: with a handler that does nothing, because a program
    inherits SIG_IGN, and the default in place of a handler.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        for number, handler in before.items():
            if number in ignored:
                signal.signal(number, signal.SIG_IGN)
            elif handler == signal.SIG_IGN:
                signal.signal(number, lambda _number, _frame: None)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def started(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    ignored: Collection[signal.Signals] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Start a program as a terminal does, or with some signals ignored; kill all that is left of it at the end.

    It leads a session and a process group of its own. While it runs its descendants are killed with it, whatever their
    session; once it has ended by itself, what is left of its session is. So a failed test neither waits for them nor
    leaves them behind. Main thread only.
    """
    with inherited_signals(ignored):
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdout=stdout, stderr=stderr, text=True, start_new_session=True
        )
    with process:
        try:
            yield process
        finally:
            end(process)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a program that leads a session, its descendants, and what is left of its session; wait for all of them."""
    left: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        if process.poll() is None:
            left = psutil.Process(process.pid).children(recursive=True)
    process.kill()  # First: a supervisor must not start again what is killed next.
    left += _session(process.pid)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()  # psutil compares the start time first.
    process.wait(END_TIMEOUT_S)
    wait_until_ended(left)


def send_signal(pid: int, number: signal.Signals) -> bool:
    """Send a signal to a process that a node has reported; return False if it has ended since."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_until_ended(processes: Collection[psutil.Process]) -> None:
    """Wait for processes that are ending, children or not; AssertionError if some do not."""
    deadline_s = time.monotonic() + END_TIMEOUT_S
    while alive := running(processes):
        assert time.monotonic() < deadline_s, f"still there after {END_TIMEOUT_S:g} s: {alive}"
        psutil.wait_procs(alive, timeout=0.02)


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended: what waits for an idle ``init`` to collect it has."""
    found = []
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            if each.is_running() and each.status() != psutil.STATUS_ZOMBIE:
                found.append(each)
    return found


def _session(leader_pid: int) -> list[psutil.Process]:
    """Return the processes of a session but for its leader: a pid is not used again while its session has members."""
    found = []
    for each in psutil.process_iter():
        with suppress(ProcessLookupError, psutil.NoSuchProcess):
            if each.pid != leader_pid and os.getsid(each.pid) == leader_pid:
                found.append(each)
    return found
