"""What the node, its Guardian and the workers say to each other: plain data, and never a record."""

from __future__ import annotations

import msgspec

from repertory.supervision.directive import Failure
from repertory.supervision.policy import Policy
from repertory.supervision.process.work import WorkSpec
from repertory.supervision.strategy import Strategy

#: Pings sent while an answer may still come: a late one must not kill a healthy process.
PINGS_PER_TIMEOUT = 5


class Timeouts(msgspec.Struct, frozen=True):
    """How long the node waits for whom, in seconds."""

    ping_timeout_s: float
    stop_timeout_s: float
    progress_timeout_s: float | None = None

    @property
    def turn_s(self) -> float:
        """How often whoever waits for answers looks around."""
        return min(1.0, self.ping_timeout_s / PINGS_PER_TIMEOUT)


class Begin(msgspec.Struct, frozen=True):
    """Node to Guardian: start these workers. The descriptors were inherited by fork."""

    specs: tuple[WorkSpec, ...]
    policy: Policy
    strategy: Strategy
    timeouts: Timeouts
    report_fd: int
    link_fd: int
    node_pidfd: int


class Status(msgspec.Struct, frozen=True):
    """Guardian to node, over the link: the answer to a ping, and the end once there is one."""

    guardian_pid: int
    exit_code: int | None = None
    sentence: str = ""


class StartWork(msgspec.Struct, frozen=True):
    """Guardian to worker: the first message, once."""

    spec: WorkSpec
    incarnation: int
    timeouts: Timeouts
    report_fd: int


class Ping(msgspec.Struct, frozen=True):
    """Guardian to worker: answer."""


class StopWork(msgspec.Struct, frozen=True):
    """Guardian to worker: finish what is under way and return.

    Ports are used again: a message for a dead worker may reach a living one, which is why it names its incarnation.
    """

    incarnation: int


class Leave(msgspec.Struct, frozen=True):
    """Guardian to worker: your last word has arrived; exit."""

    incarnation: int


class Pong(msgspec.Struct, frozen=True):
    """Worker to Guardian: the control thread lives, and the data thread made progress ``silent_s`` ago.

    ``doing``: what it has had under way since then, in words.
    """

    worker: str
    incarnation: int
    silent_s: float
    doing: str


class Up(msgspec.Struct, frozen=True):
    """Worker to Guardian: the work has said that it is started."""

    worker: str
    incarnation: int


class LastWord(msgspec.Struct, frozen=True):
    """Worker to Guardian: the work is over, by request (no failure) or not. Answered with `Leave`."""

    worker: str
    incarnation: int
    failure: Failure | None = None


#: "ping" and "stop", node to Guardian over the link; each is one packet.
PING, STOP = b"ping", b"stop"
