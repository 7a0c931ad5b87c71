"""A slot's lock, which every process of this machine can see: it distinguishes a live owner from a dead one.

After SIGKILL the group keeps the dead worker's static id until its session ends, and its successor must take it over
at once. So a newcomer is refused only if a live process of this machine holds the slot's lock. The group cannot tell
the two apart: for a member that returns under a static id it keeps showing the predecessor's ``client.id`` (seen on
Kafka 4.3.1).

A lock is the name of an abstract Unix socket that is never connected to: nothing is on disk, and the kernel removes it
with its process. The name contains a process id, and counts only if that process holds the socket, so another user of
the machine cannot keep a worker from starting.
"""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from pathlib import Path

from repertory.bridge.log.port import Member
from repertory.supervision.process.proc import holds_socket

_SOCKETS = Path("/proc/net/unix")


class SlotLock:
    """Held by this process for one slot of a cluster's group, from its creation until :meth:`close`."""

    def __init__(self, cluster: str, member: Member) -> None:
        digest = hashlib.blake2b(f"{cluster}\0{member.instance_id}".encode(), digest_size=16).hexdigest()
        pid = os.getpid()
        self._prefix = f"repertory-{digest}-"
        self._name = f"{self._prefix}{pid}-{uuid.uuid4().hex[:8]}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{self._name}")

    def other_pid(self) -> int | None:
        """Return the id of a live process that holds the slot too: another one, or this one with another log."""
        for line in _SOCKETS.read_text(encoding="utf-8", errors="replace").splitlines():
            # As "ffff…: 00000002 00000000 00000000 0002 01 5427 @repertory-…": the inode, and @ for NUL.
            columns, _, name = line.partition(" @")
            if not name.startswith(self._prefix) or name == self._name:
                continue
            pid = name.removeprefix(self._prefix).partition("-")[0]
            if pid.isdigit() and holds_socket(int(pid), columns.rpartition(" ")[2]):
                return int(pid)
        return None

    def close(self) -> None:
        """Release the slot. Idempotent."""
        self._socket.close()
