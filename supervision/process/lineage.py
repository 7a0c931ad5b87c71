"""Ties the processes of a node together: none outlives its parent, and the node ends all of them.

Linux only. This module knows one fact about Thespian: its Admin is forked twice.

The node process is a *subreaper*: a process that loses its parent becomes the node's child. A child keeps its pid until
it is reaped, so the node can kill its children by pid and never kills an unrelated process.
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

#: node → Thespian's launcher (1) → Admin (2) → Guardian and logger (3) → workers (4). Processes that a worker forks are
#: not part of the tree.
GENERATIONS = 4
#: The launcher exits at once, and the Admin becomes the node's child.
ADMIN_GENERATION = 2
#: The time between the launcher's fork and its exit; less than 10 ms was measured.
ADOPTION_TIMEOUT_S = 5.0

#: Signals that a terminal or an operator sends to a whole group. Only the node acts on them.
RELAYED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Crashes in native code, and abort(). Python's own handlers only set a flag and return to the faulting instruction.
FATAL = (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT)

_libc = ctypes.CDLL(None, use_errno=True)


class _Lineage:
    """This process's place in the tree; changed only around a fork, on the forking thread."""

    hooks_registered = False
    generation = 0
    node_pid = 0
    parent_pid = 0


def become_node() -> None:
    """Make this process the node of all processes that it forks from now on. Idempotent; call on the main thread."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    _Lineage.node_pid = os.getpid()
    if not _Lineage.hooks_registered:
        _Lineage.hooks_registered = True
        os.register_at_fork(before=_record_parent, after_in_child=_join_node)


def ignore_relayed_signals() -> None:
    """Ignore Ctrl-C, SIGTERM and SIGHUP, by a handler: programs started here would inherit SIG_IGN."""
    for number in RELAYED:
        signal.signal(number, lambda _number, _frame: None)


def let_crashes_kill() -> None:
    """Have a native crash write the stacks to stderr and end this process; Thespian's handlers hang it at 100 % CPU."""
    faulthandler.disable()  # Otherwise enable() does nothing, and the handlers stay those from before the fork.
    for number in FATAL:
        signal.signal(number, signal.SIG_DFL)
    faulthandler.enable(file=2)


def end_with(parent_pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Have the kernel signal this process when its parent ends. Exits at once if the parent has ended already."""
    _prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent_pid:
        os._exit(os.EX_OSERR)


def reap() -> None:
    """Reap all children that have ended: Thespian's launcher, and processes that a worker left. Never blocks."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def end_children(timeout_s: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Kill all children with SIGKILL and wait for their end, then their orphaned children; return (killed, left).

    Blocks for at most ``timeout_s``. ``left`` is empty unless the kernel cannot end a process, as with a dead disk.
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
    """Return the pids of this process's children, including those that have ended and are not reaped."""
    own = os.getpid()
    found_pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # "pid (name) state ppid ...": the name may contain blanks and brackets.
                fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
                if int(fields[1]) == own:
                    found_pids.append(int(entry.name))
    return found_pids


def _record_parent() -> None:
    _Lineage.parent_pid = os.getpid()


def _join_node() -> None:
    """Set up a new process of the node: it ends with its parent, and ignores the operator's signals."""
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
            time.sleep(0.001)  # A process is not notified when it is adopted.
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
