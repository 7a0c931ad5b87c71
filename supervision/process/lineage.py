"""The processes of a node belong together: none outlives its parent, and the node ends every one of them.

Linux only. Nothing here knows Thespian, but for one fact: its Admin is forked twice.

The node process is a *subreaper*: whatever loses its parent becomes the node's child. A child that has not been
waited for keeps its pid, so the node can kill its children by pid and never hits a stranger.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import time
from pathlib import Path

#: From <linux/prctl.h>.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

#: node → Thespian's launcher (1) → Admin (2) → Guardian and logger (3) → workers (4). What a worker forks is its own.
GENERATIONS = 4
#: The launcher leaves at once, and the Admin becomes the node's child.
ADMIN_GENERATION = 2
#: Between the launcher's fork and its exit; less than 10 ms measured.
ADOPTION_TIMEOUT_S = 5.0

#: What a terminal or an operator sends to a whole group; the node alone acts on it and relays.
RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: A crash in native code, and abort(). Python's own handlers only set a flag and return to the faulting instruction.
FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

_libc = ctypes.CDLL(None, use_errno=True)


class _Lineage:
    """Where this process stands; changed only around a fork, on the forking thread."""

    founded = False
    generation = 0
    node_pid = 0
    parent_pid = 0


def found() -> None:
    """Make this process the node of all that it forks from now on. Idempotent; call on the main thread."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _Lineage.node_pid = os.getpid()
    if not _Lineage.founded:
        _Lineage.founded = True
        os.register_at_fork(before=_note_parent, after_in_child=_join)


def ignore_relayed_signals() -> None:
    """Do nothing on Ctrl-C, SIGTERM and SIGHUP. A handler, not SIG_IGN, which programs started here would inherit."""
    for number in RELAYED:
        signal.signal(number, lambda _number, _frame: None)


def let_crashes_kill() -> None:
    """Have a native crash write the stacks to stderr and end this process; Thespian's handlers hang it at 100 % CPU."""
    faulthandler.disable()  # else enabling does nothing, and the handlers stay those from before the fork
    for number in FATAL:
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(file=2)


def end_with(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent ends; it ends at once if that has happened already."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(os.EX_OSERR)


def reap() -> None:
    """Collect what has ended: Thespian's launcher, and what the workers left behind. Never blocks."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_children(timeout_s: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kill (SIGKILL) and await all children, and theirs as they become ours: returns (killed, left).

    Blocks for at most ``timeout_s``; ``left`` is empty unless the kernel cannot end a process (a dead disk).
    """
    killed: list[int] = []
    deadline_s = time.monotonic() + timeout_s
    while pids := children():
        if time.monotonic() > deadline_s:
            return tuple(killed), tuple(pids)
        for pid in pids:
            if _reaped(pid):
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
        for pid in pids:
            _await_exit(pid, deadline_s)
    return tuple(dict.fromkeys(killed)), ()


def children() -> list[int]:
    """The pids of this process's children, those that wait to be reaped included."""
    own = os.getpid()
    found_pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid ...": the name may hold blanks and brackets.
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == own:
                    found_pids.append(int(entry.name))
    return found_pids


def _note_parent() -> None:
    _Lineage.parent_pid = os.getpid()


def _join() -> None:
    """In a new process of the node: end with the parent, and leave the operator's signals to the node."""
    _Lineage.generation += 1
    if _Lineage.generation > GENERATIONS:
        return
    signal.set_wakeup_fd(-1)
    ignore_relayed_signals()
    parent_pid = _Lineage.parent_pid
    if _Lineage.generation == ADMIN_GENERATION:
        parent_pid = _Lineage.node_pid
        deadline_s = time.monotonic() + ADOPTION_TIMEOUT_S
        while os.getppid() != parent_pid and time.monotonic() < deadline_s:
            time.sleep(0.001)  # nothing tells a process that it was adopted
    end_with(parent_pid)


def _reaped(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    return True


def _await_exit(pid: int, deadline_s: float) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        fd = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(max(0.0, deadline_s - time.monotonic()) * 1_000)
        finally:
            os.close(fd)
        os.waitpid(pid, os.WNOHANG)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"prctl({option}, {value}): {os.strerror(error)}")
