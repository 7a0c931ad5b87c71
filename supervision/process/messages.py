"""The control messages between the node, its Guardian and the workers: plain data, and never a record."""

from __future__ import annotations

import msgspec

from repertory.supervision.directive import Failure
from repertory.supervision.policy import Policy
from repertory.supervision.process.work import WorkSpec
from repertory.supervision.strategy import Strategy

#: Pings that are sent within one ping timeout: a healthy process is not killed for one late answer.
PINGS_PER_TIMEOUT = 5


class Timeouts(msgspec.Struct, frozen=True):
    """How long to wait for answers, for a stop, and for progress, in seconds."""

    ping_timeout_s: float
    stop_timeout_s: float
    progress_timeout_s: float | None = None

    @property
    def turn_s(self) -> float:
        """The interval between two pings."""
        return min(1.0, self.ping_timeout_s / PINGS_PER_TIMEOUT)


class Begin(msgspec.Struct, frozen=True):
    """Node to Guardian: start these workers. The Guardian has inherited the file descriptors over fork."""

    specs: tuple[WorkSpec, ...]
    policy: Policy
    strategy: Strategy
    timeouts: Timeouts
    report_fd: int
    link_fd: int
    node_pidfd: int


class GuardianStatus(msgspec.Struct, frozen=True):
    """Guardian to node, over the link: the answer to a ping. ``exit_code`` is set once supervision has ended."""

    guardian_pid: int
    exit_code: int | None = None
    sentence: str = ""


class StartWork(msgspec.Struct, frozen=True):
    """Guardian to worker: the first message, sent once."""

    spec: WorkSpec
    incarnation: int
    timeouts: Timeouts
    report_fd: int


class Ping(msgspec.Struct, frozen=True):
    """Guardian to worker: answer with a `Pong`."""


class StopWork(msgspec.Struct, frozen=True):
    """Guardian to worker: finish the work under way and return.

    It names the incarnation because ports are reused: a message for a dead worker may reach its successor.
    """

    incarnation: int


class Exit(msgspec.Struct, frozen=True):
    """Guardian to worker: `WorkEnded` was received; exit."""

    incarnation: int


class Pong(msgspec.Struct, frozen=True):
    """Worker to Guardian: the control thread runs, and the data thread last made progress ``silent_s`` ago.

    ``doing`` names what the data thread has had under way since then.
    """

    worker: str
    incarnation: int
    silent_s: float
    doing: str

    def describe(self) -> str:
        """Say how long there was no progress, and in what: "no progress for 1.5 s in counter/3@17"."""
        place = f" in {self.doing}" if self.doing else ""
        return f"no progress for {self.silent_s:.1f} s{place}"


class WorkStarted(msgspec.Struct, frozen=True):
    """Worker to Guardian: the work has called `Control.started`."""

    worker: str
    incarnation: int


class WorkEnded(msgspec.Struct, frozen=True):
    """Worker to Guardian: the work has ended, as requested (no failure) or not. Answered with `Exit`."""

    worker: str
    incarnation: int
    failure: Failure | None = None


#: "ping" and "stop", node to Guardian over the link; each is one packet.
PING, STOP = b"ping", b"stop"
