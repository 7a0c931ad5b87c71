"""Other processes of this machine: which of them live, and which holds a lock. From Linux's ``/proc``."""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path

#: The byte of the ``-shm`` file that SQLite's WAL writer locks (WAL_WRITE_LOCK; https://sqlite.org/walformat.html).
_WRITE_LOCK_BYTE = "120"
#: States of a process that has ended (proc(5)): a zombie, and one that is just going.
_DEAD = (b"Z", b"X")


def writer_pid(path: str) -> int | None:
    """Return the process that holds a log's write lock now, None if there is none or it cannot be told.

    The kernel's list of locks is asked, not a note that the holder leaves: such a note costs every commit two
    system calls, can be a moment too old, and knows no foreign program; and who is named here may be killed.
    """
    try:
        shm = Path(f"{path}-shm").stat()
        locks = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in locks:
        # As "1: POSIX  ADVISORY  WRITE 5427 fe:00:9986108 120 120"; a line with "->" is one who waits.
        kind, _, mode, pid, file, *byte_range = line.split()[1:]
        if (kind, mode, byte_range) != ("POSIX", "WRITE", [_WRITE_LOCK_BYTE, _WRITE_LOCK_BYTE]):
            continue
        if file.endswith(f":{shm.st_ino}") and _has_open(pid, shm):
            return int(pid)
    return None


def _has_open(pid: str, file: os.stat_result) -> bool:
    """Tell whether a process has a file open. An inode alone is not enough, and btrfs names its devices twice."""
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.path.samestat(descriptor.stat(), file):
                    return True
    return False


def holds_socket(pid: int, inode: str) -> bool:
    """Tell whether a process has a socket open. Of another user's process nothing is known, and it has not."""
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
    """Tell whether a process is stopped, by SIGSTOP or a debugger, or gone, or not to be seen at all."""
    fields = _stat(pid)
    return not fields or fields[0] in (b"T", b"t", *_DEAD)


def _stat(pid: int) -> list[bytes]:
    """Return what proc(5) says of a process from its third field on, its state; empty if it is gone."""
    try:
        # The name in the second field may hold anything, so the fields are counted from its end.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return []


def pid_start(pid: int) -> str | None:
    """Return what tells a process from every other with its pid, None if it is dead. Empty where there is no /proc."""
    ticks = start_ticks(pid)
    if ticks is None:
        return None if Path("/proc/self/stat").exists() else ""
    return f"{_boot_id()}/{ticks}"


@cache
def _boot_id() -> str:
    """Return what tells this boot of the machine from every other, as far as the kernel says."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def is_alive(pid: int, start: str) -> bool:
    """Tell whether the process that once was ``pid`` still runs; ``start`` is what ``pid_start`` said of it.

    Where nothing can be told, yes: a lease that runs out decides then.
    """
    return pid_start(pid) == start
