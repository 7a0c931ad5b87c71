"""Frames at the open ports of a running node, over real sockets: the process tree goes on, and so does its work."""

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
#: Connections that are left open with half a frame in them, and that are waited for before one looks.
OPEN_MAX = 100
WORKERS = 2
#: A look at the node's reports after so many frames.
LOOK_EVERY = 100


class Taken(Exception):
    """A frame did something."""


def frames_at_every_port(frames: int, seed: int, frame: Callable[[Mutator], bytes]) -> Counter[str]:
    """Throw frames that nobody signed at a node that works; return what was done. Raises Taken if it was noticed."""
    mutator = Mutator(Random(seed))  # noqa: S311 - an input, no secret
    with (
        tempfile.TemporaryDirectory(prefix="repertory-fuzz-") as folder,
        _Target(f"sqlite:{folder}/fuzz.db") as target,
    ):
        target.until(lambda: target.seen.count("worker-running") == WORKERS, "the workers run")
        done = _throw(target, mutator, frames, frame)
        target.until(target.is_done, "every command is handled")
        if dead := [process.pid for process in target.tree if not process.is_running()]:
            raise Taken(f"processes {dead} of the node are dead")
    return done


class _Target:
    """A node of two workers on a log of its own, and the commands that it gets meanwhile."""

    def __init__(self, url: str) -> None:
        sys.path.insert(0, str(ROOT))
        os.environ["PYTHONPATH"] = str(ROOT)
        sys.modules.pop("tests.apps.counting", None)  # another test may have had it under another name
        self._app = importlib.import_module("tests.apps.counting")
        self._backend = connect(url)
        self._app.system.prepare(self._backend)
        self._client = Client(self._app.system, self._backend)
        self._reader = self._backend.reader()
        self._node = NodeHandle("tests.apps.counting:system", url, workers=WORKERS, stop_timeout_s=10.0)
        self.seen: list[str] = []
        self._told = 0

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *_: object) -> None:
        code = self._node.stop()
        self._backend.close()
        if code:
            raise Taken(f"the node ended with {code}")

    @property
    def tree(self) -> list[psutil.Process]:
        """The node and all that it has started."""
        node = psutil.Process(self._node.pid)
        return [node, *node.children(recursive=True)]

    def addresses(self) -> list[tuple[str, int]]:
        """Return what its actors listen on: all but the node's own endpoint, where nobody looks until it stops."""
        own = _listening(self.tree[:1])
        return sorted(_listening(self.tree) - own)

    def own_address(self) -> tuple[str, int]:
        """Return the node's own endpoint."""
        (own,) = _listening(self.tree[:1])
        return own

    def look(self, timeout_s: float = 0.0) -> None:
        """Take in reports; none may tell of an end."""
        for report in self._node.poll(timeout_s):
            self.seen.append(report.event)
            if isinstance(report, WorkerExited | WorkerFailed | WorkerKilled | NodeStopped):
                raise Taken(f"a frame was noticed: {report}")

    def tell(self) -> None:
        """Give it something to do."""
        self._client.tell(self._app.Counter.add, "k", self._app.Add(by=1))
        self._told += 1

    def is_done(self) -> bool:
        """Tell whether everything that it was told is counted."""
        system = self._app.system
        found = entity_state(self._reader, system, system.hosted[self._app.Counter], "k").state
        return found is not None and found.total == self._told

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline_s:
                raise Taken(f"never: {what}; {self.seen[-20:]}")
            self.look(0.1)


def _listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    connections = [each for process in processes for each in process.net_connections(kind="inet")]
    return {(each.laddr.ip, each.laddr.port) for each in connections if each.status == psutil.CONN_LISTEN}


def _throw(target: _Target, mutator: Mutator, frames: int, frame: Callable[[Mutator], bytes]) -> Counter[str]:
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
    """Return the connections that the node has not closed; it answers nothing but a complaint.

    A process of the tree that has nothing to do looks at its clocks when somebody comes, and not before.
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
