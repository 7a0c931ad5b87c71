"""A slot's live owner, told from a dead one: a mark in the consumer's ``client.id`` that the group shows to all.

After SIGKILL the dead worker's static id stands in the group until its session ends, and its successor must take it
over at once. So a newcomer is refused only where the mark names a process of this machine that is alive.
"""

from __future__ import annotations

import os
import uuid

from bridge.log import Member
from bridge.processes import start_ticks

#: Marks of the logs that this process holds open: two of one slot in one process are duplicates too.
_OPEN: set[str] = set()


def open_mark(member: Member) -> str:
    """Return a new mark for a log of this process: ``understudy-{node}-{slot}-{pid}-{start}-{token}``."""
    pid = os.getpid()
    token = uuid.uuid4().hex[:8]
    mark = f"understudy-{member.node}-{member.slot}-{pid}-{start_ticks(pid)}-{token}"
    _OPEN.add(mark)
    return mark


def close_mark(mark: str) -> None:
    """The log is closed: its slot is free."""
    _OPEN.discard(mark)


def live_pid(mark: str, own: str) -> int | None:
    """Return the process that holds a mark if it is alive on this machine and not ``own``, else None."""
    parts = mark.rsplit("-", 3)
    if mark == own or len(parts) != 4 or not parts[1].isdigit():
        return None
    pid = int(parts[1])
    if pid == os.getpid():
        return pid if mark in _OPEN else None
    return pid if start_ticks(pid) == parts[2] else None
