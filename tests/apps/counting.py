"""An application for tests of whole nodes: counters that can be told to fail, kill or hang their worker."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from typing import Self

from repertory import ActorSystem, Backoff, Command, Directive, Entity, Event, Strategy, command, event, restart
from repertory.bridge.system.settings import Settings

#: A node imports its application before it forks its workers.
NODE_PID = os.getpid()


class Add(Command):
    """Count ``by`` more."""

    by: int = 1


class Break(Command):
    """Fail in a way: ``restart`` or ``stop`` raise, ``exit``, ``crash`` and ``hang`` end or stop the whole process.

    ``slow`` only takes its time. ``node`` takes the whole node along, as a handler does that brings its machine down.
    ``stumble`` fails the shard, once in each process; ``never`` does always, until the code is mended.
    """

    how: str


class Stumble(Exception):
    """Fails the whole shard."""


class _Stumbled:
    """What no restart of a shard undoes."""

    done = False


class Added(Event):
    """Counted."""

    by: int


class Counter(Entity):
    """Counts."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        """Count."""
        return Added(by=cmd.by)

    @command
    def break_down(self, cmd: Break) -> Added | None:
        """Fail as told."""
        match cmd.how:
            case "stop":
                raise ValueError("told to stop")
            case "never":
                if "COUNTING_MENDED" in os.environ:
                    return None
                raise Stumble("told never to go on")
            case "stumble":
                if not _Stumbled.done:
                    _Stumbled.done = True
                    raise Stumble("told to stumble")
                return None
            case "slow":
                time.sleep(2.5)
                return None
            case "exit":
                os._exit(3)
            case "node":
                os.kill(NODE_PID, signal.SIGKILL)
                os._exit(3)
            case "crash":
                ctypes.string_at(0)
            case "hang":
                while True:
                    pass
        raise RuntimeError("told to fail")

    @event
    def added(self, evt: Added) -> Self:
        """Add up."""
        return self.replace(total=self.total + evt.by)


# A name and a lease of its own for each test, inherited by the workers.
system = ActorSystem(
    os.environ.get("COUNTING_NAME", "counting"),
    settings=Settings(
        session_timeout_s=float(os.environ.get("COUNTING_SESSION_S", "6")),
        ping_timeout_s=float(os.environ.get("COUNTING_PING_S", "15")),
        progress_timeout_s=float(os.environ.get("COUNTING_PROGRESS_S", "60")),
    ),
    shards=restart(max_restarts=int(os.environ.get("COUNTING_SHARDS_RESTARTS", "10")), backoff=Backoff(first_s=0.05)),
    shard_strategy=Strategy(os.environ.get("COUNTING_SHARD_STRATEGY", "one_for_one")),
    workers=restart(
        max_restarts=int(os.environ.get("COUNTING_WORKERS_RESTARTS", "20")),
        backoff=Backoff(first_s=0.02, max_s=float(os.environ.get("COUNTING_WORKERS_BACKOFF_S", "5"))),
    ),
    worker_strategy=Strategy(os.environ.get("COUNTING_WORKER_STRATEGY", "one_for_one")),
)
system.host(
    Counter,
    partitions=int(os.environ.get("COUNTING_PARTITIONS", "4")),
    supervise=restart(
        max_restarts=1,
        backoff=Backoff(first_s=0.01),
        on={ValueError: Directive.STOP, Stumble: Directive.ESCALATE},
    ),
)
