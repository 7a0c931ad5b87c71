"""The values of a supervision tree: its children and their phases, its events, and its commands.

`supervision.machine` makes the decisions. The contract with the shell that carries out the commands:

- The events of a tree are passed one at a time, with ``now_s``. All commands of the result are carried out, in order,
  before the next event.
- ``Start`` is answered by ``Started``, ``Failed`` or ``Exited`` with its incarnation.
- ``Stop`` is always answered by ``Exited`` with its incarnation: after a kill if necessary, and also if the child has
  just failed. Several may be under way. For a child that stops synchronously, the shell passes ``Exited`` itself.
- ``WakeAfter`` is answered by ``Due`` with its incarnation. Timers need not be cancelled: a stale one is ignored.
- After ``Failed`` an incarnation is over. The shell makes sure that it exits, or kills it, at the latest before it
  carries out the child's next ``Start``. A later ``Exited`` has no effect.
"""

import enum
from typing import TypeAlias

import msgspec

from repertory.supervision.directive import Failure
from repertory.supervision.phase import ChildPhase
from repertory.supervision.policy import Policy
from repertory.supervision.strategy import Strategy


class TreePhase(enum.Enum):
    """The phase of a tree. A tree that has stopped never runs again; make a new one."""

    RUNNING = "running"
    STOPPING = "stopping"
    """StopRequested was received; the children are being stopped."""
    STOPPED = "stopped"
    ESCALATING = "escalating"
    """It gave up; the children are being stopped, then Escalate follows."""
    ESCALATED = "escalated"
    """Escalate was sent. All children are down."""


class Child(msgspec.Struct, frozen=True):
    """A child as its supervisor sees it.

    ``incarnation`` is the newest that was started, 0 before the first. ``attempts`` counts the failures of the current
    streak, ``failed_s`` is the time of the last of them, and ``failure`` is the last failure that was reported.
    """

    name: str
    phase: ChildPhase = ChildPhase.ABSENT
    incarnation: int = 0
    attempts: int = 0
    failed_s: float | None = None
    failure: Failure | None = None


class Tree(msgspec.Struct, frozen=True):
    """A supervisor and its children. Make it with ``Tree(policy, strategy)``, then `Add` the children in start order.

    ``policy`` has this level's budget and backoff. ``seed`` makes the jitter differ between trees and repeatable in a
    run. ``restarts`` is the sliding window. ``last_incarnation`` counts for all children together, so that a child that
    is removed and added again gets a new one. ``failure`` is the one that was escalated.
    """

    policy: Policy
    strategy: Strategy = Strategy.ONE_FOR_ONE
    seed: int = 0
    phase: TreePhase = TreePhase.RUNNING
    children: tuple[Child, ...] = ()
    restarts: tuple[float, ...] = ()
    last_incarnation: int = 0
    failure: Failure | None = None

    def child(self, name: str) -> Child:
        """Return a child; an ABSENT one for an unknown or removed name."""
        return next((child for child in self.children if child.name == name), Child(name))

    def names(self) -> tuple[str, ...]:
        """Return the names of the children in start order."""
        return tuple(child.name for child in self.children)


class Add(msgspec.Struct, frozen=True):
    """Start a child, last in the order or just before the sibling `before`.

    A child that is STOPPED or being removed starts again; one that runs or is about to is left alone. A tree that stops
    or escalates ignores it.
    """

    child: str
    before: str | None = None


class Remove(msgspec.Struct, frozen=True):
    """Remove a child, after a Stop if it is running. With `gone` it is removed at once, without a Stop."""

    child: str
    gone: bool = False


class Started(msgspec.Struct, frozen=True):
    """The incarnation is running."""

    child: str
    incarnation: int


class Failed(msgspec.Struct, frozen=True):
    """The incarnation failed and does nothing more. (With RESUME it continues, and nothing changes.)"""

    child: str
    incarnation: int
    failure: Failure


class Exited(msgspec.Struct, frozen=True):
    """The incarnation has exited. If it was not stopped, this is a failure even without a report."""

    child: str
    incarnation: int


class Due(msgspec.Struct, frozen=True):
    """The delay of a WakeAfter is over."""

    child: str
    incarnation: int


class StopRequested(msgspec.Struct, frozen=True):
    """Stop the tree. It is STOPPED when all children have exited, also after an escalation."""


class Start(msgspec.Struct, frozen=True):
    """Start the child, after the end of any earlier incarnation. Its events must carry this incarnation."""

    child: str
    incarnation: int


class Stop(msgspec.Struct, frozen=True):
    """Ask the child to stop, kill it after the timeout, and pass Exited in any case."""

    child: str
    incarnation: int


class WakeAfter(msgspec.Struct, frozen=True):
    """Pass Due with the same child and incarnation after `delay_s` seconds."""

    child: str
    incarnation: int
    delay_s: float


class Escalate(msgspec.Struct, frozen=True):
    """This level has given up and all its children are down: fail, so that the level above decides. Sent once."""

    failure: Failure


TreeEvent: TypeAlias = Add | Remove | Started | Failed | Exited | Due | StopRequested
TreeCommand: TypeAlias = Start | Stop | WakeAfter | Escalate
