"""A network namespace with one link to this machine, which can be cut both ways or one way, in silence.

Needs ``ip`` (iproute2) and the right to make namespaces. A cut sends the frames of one side to a hardware address that
nobody has: nothing is refused and no link goes down, packets are just not there, as behind a switch that died. (A qdisc
that drops, ``tc … netem loss 100%``, needs a kernel module that not every machine has.)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

#: Locally administered, and nobody's.
NOBODY = "02:00:00:00:00:00"
PREFIX = "repertory-"
_CLONE_NEWNET = 0x40000000
_COMMAND_TIMEOUT_S = 10.0
_HOME = Path("/run/netns")


class NotPermittedError(Exception):
    """No namespace can be had on this machine; the message says what refused it."""


class Namespace:
    """One namespace, with an address on either side of its link. Close it: it outlives the process otherwise."""

    def __init__(self) -> None:
        """Make it; NotPermittedError where that is not to be."""
        if shutil.which("ip") is None:
            raise NotPermittedError("ip (iproute2) is not installed")
        pid = os.getpid()
        self.name = f"{PREFIX}{pid}"
        self._outer, self._inner = f"uso{pid}", f"usi{pid}"
        network = f"10.{200 + (pid >> 6) % 50}.{(pid >> 14) % 250}.{4 * (pid % 64)}"
        base, _, last = network.rpartition(".")
        #: The address of this machine, as whoever is in the namespace sees it.
        self.outside = f"{base}.{int(last) + 1}"
        self.inside = f"{base}.{int(last) + 2}"
        _remove_stale()
        _ip("netns", "add", self.name)
        try:
            self._link()
            with self.entered():
                pass
        except BaseException:
            self.close()
            raise

    def _link(self) -> None:
        _ip("link", "add", self._outer, "type", "veth", "peer", "name", self._inner, "netns", self.name)
        _ip("addr", "add", f"{self.outside}/30", "dev", self._outer)
        _ip("link", "set", self._outer, "up")
        _ip("-n", self.name, "addr", "add", f"{self.inside}/30", "dev", self._inner)
        _ip("-n", self.name, "link", "set", self._inner, "up")
        _ip("-n", self.name, "link", "set", "lo", "up")
        self._outer_mac = Path(f"/sys/class/net/{self._outer}/address").read_text().strip()
        self._inner_mac = _ip("-n", self.name, "-br", "link", "show", self._inner).split()[2]
        self.heal()

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Start processes in the namespace: those that this thread starts meanwhile are in it, and nothing else."""
        with Path("/proc/thread-self/ns/net").open("rb") as home, (_HOME / self.name).open("rb") as away:
            _set_namespace(away.fileno())
            try:
                yield
            finally:
                _set_namespace(home.fileno())

    def cut(self, ways: str) -> None:
        """Lose all packets that go ``out`` of the namespace, ``in``, or both, until `heal`; what was cut stays so."""
        if "out" in ways:
            self._neighbour(self.outside, NOBODY, self._inner, "-n", self.name)
        if "in" in ways:
            self._neighbour(self.inside, NOBODY, self._outer)

    def heal(self) -> None:
        """Undo `cut`."""
        self._neighbour(self.outside, self._outer_mac, self._inner, "-n", self.name)
        self._neighbour(self.inside, self._inner_mac, self._outer)

    def _neighbour(self, address: str, mac: str, link: str, *where: str) -> None:
        _ip(*where, "neigh", "replace", address, "lladdr", mac, "dev", link, "nud", "permanent")

    def close(self) -> None:
        """Remove it, and with it the link. Processes that are still in it see nobody any more."""
        with contextlib.suppress(NotPermittedError):
            _ip("netns", "del", self.name)
        with contextlib.suppress(NotPermittedError):  # at once: the kernel takes its time while somebody is within
            _ip("link", "del", self._outer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _remove_stale() -> None:
    """Remove what runs that were killed have left behind."""
    for path in _HOME.glob(f"{PREFIX}*"):
        pid = path.name.removeprefix(PREFIX)
        if not Path(f"/proc/{pid}").exists():
            with contextlib.suppress(NotPermittedError):
                _ip("netns", "del", path.name)


def _ip(*arguments: str) -> str:
    command = ["ip", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    if done.returncode:
        raise NotPermittedError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _set_namespace(fd: int) -> None:
    """Move this thread. ``os.setns`` comes with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET):
        raise NotPermittedError(f"setns: {os.strerror(ctypes.get_errno())}")
