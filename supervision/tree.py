"""The values of a supervision tree: its children and their phases, what happens to it, what it wants done.

Nothing here decides; `supervision.machine` does. The contract with the shell that carries out the commands:

- Events of one tree are handed over one at a time, with the clock's ``now_s``, and every command of the
  answer is carried out in order before the next event.
- ``Start`` is answered by ``Started``, ``Failed`` or ``Exited`` with its incarnation.
- ``Stop`` is always answered by ``Exited`` with its incarnation, after a kill if need be, and also when the
  child had failed a moment before: the next sibling is told to stop only then. A child that stops
  synchronously has its ``Exited`` handed over by the shell itself.
- ``WakeAfter`` is answered by ``Due`` with its incarnation. Timers need no cancelling: one that no longer
  matters is ignored.
- After ``Failed`` an incarnation is over. Whether it exits by itself or is killed is the shell's to see to;
  at the latest before it carries out the child's next ``Start``. An ``Exited`` may follow and changes
  nothing.
"""

import enum
from typing import TypeAlias

import msgspec

from repertory.supervision.directive import Failure
from repertory.supervision.phase import ChildPhase
from repertory.supervision.policy import Policy
from repertory.supervision.strategy import Strategy


class TreePhase(enum.Enum):
    """Where a tree is. It never runs again: a new life is a new tree."""

    RUNNING = "running"
    STOPPING = "stopping"
    """StopRequested came; children stop one after another."""
    STOPPED = "stopped"
    ESCALATING = "escalating"
    """It gave up; children stop one after another, Escalate follows."""
    ESCALATED = "escalated"
    """Escalate was sent. Everything is down."""


class Child(msgspec.Struct, frozen=True):
    """A child as its supervisor sees it.

    ``incarnation`` is the newest started, 0 before the first. ``attempts`` counts the failures of the present
    streak and ``failed_s`` is when the last of them was; ``failure`` is the last thing that it reported.
    """

    name: str
    phase: ChildPhase = ChildPhase.ABSENT
    incarnation: int = 0
    attempts: int = 0
    failed_s: float | None = None
    failure: Failure | None = None


class Tree(msgspec.Struct, frozen=True):
    """A supervisor and its children: begin with ``Tree(policy, strategy)``, then `Add` each child in start order.

    ``policy`` holds this level's budget and backoff, ``seed`` makes jitter differ between trees and repeat in a run.
    ``restarts`` is the sliding window. ``last_incarnation`` counts for all children together, so it outlives those that
    come and go. ``awaited`` is the child that was told to stop and has not exited. ``failure`` is what was escalated.
    """

    policy: Policy
    strategy: Strategy = Strategy.ONE_FOR_ONE
    seed: int = 0
    phase: TreePhase = TreePhase.RUNNING
    children: tuple[Child, ...] = ()
    restarts: tuple[float, ...] = ()
    last_incarnation: int = 0
    awaited: str | None = None
    failure: Failure | None = None

    def child(self, name: str) -> Child:
        """Show a child; a name that is none (any more) is an ABSENT child."""
        return next((child for child in self.children if child.name == name), Child(name))

    def names(self) -> tuple[str, ...]:
        """Name the children in start order."""
        return tuple(child.name for child in self.children)


class Add(msgspec.Struct, frozen=True):
    """A child comes: it is started, last in the order or just before the sibling `before`.

    A child that is STOPPED or being removed starts anew; one that is up, or about to be, is left alone. A tree that
    escalates or stops takes nobody.
    """

    child: str
    before: str | None = None


class Remove(msgspec.Struct, frozen=True):
    """A child goes: it is stopped if it lives, then forgotten. With `gone` it is forgotten at once, without a Stop."""

    child: str
    gone: bool = False


class Started(msgspec.Struct, frozen=True):
    """The incarnation runs."""

    child: str
    incarnation: int


class Failed(msgspec.Struct, frozen=True):
    """The incarnation reports why it dies; it does nothing more. (With RESUME it goes on, and nothing changes.)"""

    child: str
    incarnation: int
    failure: Failure


class Exited(msgspec.Struct, frozen=True):
    """The incarnation is gone. Without a report this is a failure too: children run until they are stopped."""

    child: str
    incarnation: int


class Due(msgspec.Struct, frozen=True):
    """The time of a WakeAfter has come."""

    child: str
    incarnation: int


class StopRequested(msgspec.Struct, frozen=True):
    """The tree is to stop. It ends in STOPPED when each child has exited, also after an escalation."""


class Start(msgspec.Struct, frozen=True):
    """Start the child; whatever it says must carry this incarnation. What is left of an earlier one is ended first."""

    child: str
    incarnation: int


class Stop(msgspec.Struct, frozen=True):
    """Ask the child to stop, kill it when its time is over, and hand over Exited in any case."""

    child: str
    incarnation: int


class WakeAfter(msgspec.Struct, frozen=True):
    """Hand over Due with the same child and incarnation in `delay_s` seconds."""

    child: str
    incarnation: int
    delay_s: float


class Escalate(msgspec.Struct, frozen=True):
    """This level cannot go on and everything under it is down: fail, so that the level above decides. Comes once."""

    failure: Failure


TreeEvent: TypeAlias = Add | Remove | Started | Failed | Exited | Due | StopRequested
TreeCommand: TypeAlias = Start | Stop | WakeAfter | Escalate
