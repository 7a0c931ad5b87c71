"""Send frames to the open ports of a running node over real sockets: processes and work must not be affected."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable
from random import Random

import psutil

from repertory.bridge.log.connect import connect
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.system.client import Client
from repertory.bridge.system.committed import entity_state
from repertory.supervision.process.reports import NodeStopped, WorkerExited, WorkerFailed, WorkerKilled
from tests.campaigns.byte_mutator import Mutator
from tests.support.paths import ROOT

PATIENCE_S = 30.0
#: The most connections that are left open, and that are expected to be closed, before they are checked.
OPEN_MAX = 100
WORKERS = 2
#: The node's reports are checked after this many frames.
LOOK_EVERY = 100


class FrameAccepted(Exception):
    """An unsigned frame had an effect."""


def frames_at_every_port(frames: int, seed: int, frame: Callable[[Mutator], bytes]) -> Counter[str]:
    """Send unsigned frames to a working node; return what was sent. Raises FrameAccepted if one had an effect."""
    mutator = Mutator(Random(seed))  # noqa: S311 - an input, not a secret
    with (
        tempfile.TemporaryDirectory(prefix="repertory-fuzz-") as folder,
        _Target(f"sqlite:{folder}/fuzz.db") as target,
    ):
        target.until(lambda: target.seen.count("worker-running") == WORKERS, "the workers run")
        done = _send_frames(target, mutator, frames, frame)
        target.until(target.is_done, "every command is handled")
        if dead := [process.pid for process in target.tree if not process.is_running()]:
            raise FrameAccepted(f"processes {dead} of the node are dead")
    return done


class _Target:
    """A node of two workers on its own log, and the commands that it handles meanwhile."""

    def __init__(self, url: str) -> None:
        sys.path.insert(0, str(ROOT))
        os.environ["PYTHONPATH"] = str(ROOT)
        sys.modules.pop("tests.apps.counting", None)  # Another test may have imported it with another system name.
        self._app = importlib.import_module("tests.apps.counting")
        self._backend = connect(url)
        self._app.system.prepare(self._backend)
        self._client = Client(self._app.system, self._backend)
        self._reader = self._backend.reader()
        self._node = NodeHandle("tests.apps.counting:system", url, workers=WORKERS, stop_timeout_s=10.0)
        self.seen: list[str] = []
        self._sent = 0

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        code = self._node.stop()
        self._backend.close()
        if code:
            raise FrameAccepted(f"the node ended with {code}")

    @property
    def tree(self) -> list[psutil.Process]:
        """The processes of the node."""
        node = psutil.Process(self._node.pid)
        return [node, *node.children(recursive=True)]

    def addresses(self) -> list[tuple[str, int]]:
        """Return the addresses of its actors, without the node's own endpoint, which is only read at its stop."""
        own = _listening(self.tree[:1])
        return sorted(_listening(self.tree) - own)

    def own_address(self) -> tuple[str, int]:
        """Return the address of the node's own endpoint."""
        (own,) = _listening(self.tree[:1])
        return own

    def look(self, timeout_s: float = 0.0) -> None:
        """Read the reports. None may report the end of a process."""
        for report in self._node.poll(timeout_s):
            self.seen.append(report.event)
            if isinstance(report, WorkerExited | WorkerFailed | WorkerKilled | NodeStopped):
                raise FrameAccepted(f"a frame had an effect: {report}")

    def tell(self) -> None:
        """Send a command."""
        self._client.tell(self._app.Counter.add, "k", self._app.Add(by=1))
        self._sent += 1

    def is_done(self) -> bool:
        """Return whether all commands are counted."""
        system = self._app.system
        found = entity_state(self._reader, system, system.hosted[self._app.Counter], "k").state
        return found is not None and found.total == self._sent

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise FrameAccepted(f"never: {what}; {self.seen[-20:]}")
            self.look(0.1)


def _listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    connections = [each for process in processes for each in process.net_connections(kind="inet")]
    return {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}


def _send_frames(target: _Target, mutator: Mutator, frames: int, frame: Callable[[Mutator], bytes]) -> Counter[str]:
    addresses, own = target.addresses(), target.own_address()
    done: Counter[str] = Counter(ports=len(addresses) + 1)
    held: deque[socket.socket] = deque()
    awaited: list[socket.socket] = []
    for number in range(frames):
        if number % LOOK_EVERY == 0:
            target.look()
            target.tell()
            with socket.create_connection(own, timeout=PATIENCE_S) as stranger:
                stranger.sendall(frame(mutator))
        stranger = socket.create_connection(mutator.source.choice(addresses), timeout=PATIENCE_S)
        try:
            stranger.sendall(frame(mutator))
        except ConnectionError:
            done["closed before all was sent"] += 1
        match mutator.source.randrange(4):
            case 0:
                held.append(stranger)
                done["left open"] += 1
            case 1:
                stranger.setblocking(False)  # noqa: FBT003 - it takes no keywords
                awaited.append(stranger)
                done["closed by the node"] += 1
            case _:
                stranger.close()
                done["closed by us"] += 1
        if len(held) > OPEN_MAX:
            held.popleft().close()
        if len(awaited) > OPEN_MAX:
            awaited = _still_open(target, awaited)
    target.until(lambda: not _still_open(target, awaited), "the node closes every connection")
    for stranger in held:
        stranger.close()
    return done


def _still_open(target: _Target, awaited: list[socket.socket]) -> list[socket.socket]:
    """Return the connections that the node has not closed. It sends nothing but an error.

    An idle process of the tree checks its timeouts only at a new connection, so this makes one to each.
    """
    for address in target.addresses():
        socket.create_connection(address, timeout=PATIENCE_S).close()
    return [stranger for stranger in awaited if not _is_closed(stranger)]


def _is_closed(stranger: socket.socket) -> bool:
    try:
        while stranger.recv(4_096):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    stranger.close()
    return True
