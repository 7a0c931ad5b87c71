"""Other processes of this machine: which of them are alive, and which holds a lock. Reads Linux's ``/proc``."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

#: The byte of the ``-shm`` file that SQLite's WAL writer locks (WAL_WRITE_LOCK; https://sqlite.org/walformat.html).
_WRITE_LOCK_BYTE = "120"
#: States of a process that has ended (proc(5)): a zombie, and a dead process that is being removed.
_DEAD = (b"Z", b"X")


def writer_pid(path: str) -> int | None:
    """Return the process that holds a log's write lock now; None if no process does, or if it cannot be determined.

    Reads the kernel's list of locks. A note left by the holder would cost every commit two system calls, could be
    stale, and would miss other programs; and the process named here may be killed.
    """
    try:
        shm = Path(f"{path}-shm").stat()
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:
        # As "1: POSIX  ADVISORY  WRITE 5427 fe:00:9986108 120 120"; a line with "->" is a waiting process.
        kind, _, mode, pid, file, *byte_range = line.split()[1:]
        if (kind, mode, byte_range) != ("POSIX", "WRITE", [_WRITE_LOCK_BYTE, _WRITE_LOCK_BYTE]):
            continue
        if file.endswith(f":{shm.st_ino}") and _has_open(pid, shm):
            return int(pid)
    return None


def _has_open(pid: str, file: os.stat_result) -> bool:
    """Tell whether a process has a file open. The inode alone is not enough, and btrfs has two names for a device."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), file):
                    return True
    return False


def holds_socket(pid: int, inode: str) -> bool:
    """Tell whether a process has a socket open. False for a process of another user, which cannot be inspected."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return True
    return False


def start_ticks(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot (proc(5), field 22); None if it is gone or a zombie."""
    fields = _stat(pid)
    return None if not fields or fields[0] in _DEAD else fields[19].decode()


def is_stopped(pid: int) -> bool:
    """Tell whether a process is stopped (by SIGSTOP or a debugger), has ended, or cannot be inspected."""
    fields = _stat(pid)
    return not fields or fields[0] in (b"T", b"t", *_DEAD)


def _stat(pid: int) -> list[bytes]:
    """Return the fields of /proc/PID/stat (proc(5)) from the third, the state, on; empty if the process is gone."""
    try:
        # The name in the second field may contain anything, so the fields are counted from its end.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def pid_start(pid: int) -> str | None:
    """Return what distinguishes a process from all others with its pid; None if it is dead, "" without a /proc."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None if Path("/proc/self/stat").exists() else ""
    return f"{_boot_id()}/{ticks}"


@cache
def _boot_id() -> str:
    """Return the kernel's id of this boot of the machine; "" if there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_alive(pid: int, start: str) -> bool:
    """Tell whether the process that had ``pid`` still runs; ``start`` is the result of ``pid_start`` at that time.

    True where it cannot be determined: the expiry of a lease decides then.
    """
    return pid_start(pid) == start
