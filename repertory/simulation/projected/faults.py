"""What may happen to projectors: faults are armed, and take effect at a later step of any of them that fits."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

from repertory.bridge.log.errors import LogUnavailable
from repertory.projections.partition import DIED
from repertory.projections.progress import PlacedEvent, ProjectedPlace, TooSlow, WorldError
from repertory.simulation.choices import Choices
from repertory.simulation.virtual import VirtualClock

#: What is in the errors that the simulator makes up.
_SIMULATED = "the simulator made it so"
#: What is in the errors for which a projection stops or parks a key because of faults.
CAUSED = (_SIMULATED, DIED)
#: The steps at which a projector can be killed: those of its database (see ``SimulatedDatabase``), ``read`` for each
#: record and call of the log, and ``handle`` for each event.
KILLED_AT = ("read", "load", "loaded", "begin", "statement", "handle", "commit", "committed")
#: The steps at which each kind can take effect.
_STEPS = {
    "projector-killed": KILLED_AT,
    "projector-meanwhile": ("read", "load", "loaded", "begin", "statement", "commit", "committed"),
    "database-away": ("load", "begin", "statement", "commit"),
    "database-slow": ("statement", "commit"),
    "commit-unheard": ("committed",),
    "log-unread": ("read",),
}
#: So many steps at most are passed before a fault takes effect at one; of those that are passed often, more.
_PASSES, _PASSES_OFTEN, _OFTEN = 3, 9, ("read", "statement")
_ALWAYS = 1 << 30


class ProjectorKilled(BaseException):
    """The process of a projector ends here. It is a BaseException, so that no handler and no projector catches it."""


class EventFails(Exception):
    """An event fails in its handler, once, several times, or until an operator retries."""


def is_caused(why: str) -> bool:
    """Return whether faults have made a projection stop or park a key, from the error that it shows."""
    return any(each in why for each in CAUSED)


class ProjectionFaults:
    """Shared by the projectors of a run. ``meanwhile`` lets others work, at the step that is its argument."""

    def __init__(
        self, choices: Choices, clock: VirtualClock, probes: Counter[str], meanwhile: Callable[[str], None]
    ) -> None:
        self._choices, self._clock, self._probes, self._meanwhile = choices, clock, probes, meanwhile
        #: By step: the kinds that take effect there, each after so many passings.
        self._armed: dict[str, deque[tuple[str, int]]] = {}
        self._away_until_s = 0.0
        self._is_idle = True
        #: How the next events fail and how often, and how often those still do that have begun to.
        self._next_failures: deque[tuple[str, int]] = deque()
        self._failing: dict[tuple[str, ProjectedPlace, int], tuple[str, int]] = {}

    def arm(self, kind: str) -> str:
        """Arm a fault and return its description."""
        self._is_idle = False
        if kind in ("event-fails", "event-kills"):
            times = (1, 2, 4, _ALWAYS)[self._choices.below(4, "times")]
            self._next_failures.append((kind, times))
            return "until an operator retries" if times == _ALWAYS else f"x{times}"
        done = []
        for _ in range((1, 3, 6)[self._choices.below(3, "times")]):
            at = _STEPS[kind][self._choices.below(len(_STEPS[kind]), "step")]
            passes = self._choices.below(_PASSES_OFTEN if at in _OFTEN else _PASSES, "pass")
            self._armed.setdefault(at, deque()).append((kind, passes))
            done.append(f"{at} +{passes}")
        if kind == "database-away" and (seconds := (0.0, 0.3, 3.0)[self._choices.below(3, "for")]):
            self._away_until_s = self._clock.monotonic_s() + seconds
            done.append(f"for {seconds} s")
        return ", ".join(done)

    def lift(self, projection: str, place: ProjectedPlace) -> None:
        """An operator acts: what fails in a partition fails no more."""
        for key in [key for key in self._failing if key[:2] == (projection, place)]:
            del self._failing[key]

    def heal(self) -> None:
        """End all faults."""
        self._armed.clear()
        self._next_failures.clear()
        self._failing.clear()
        self._away_until_s, self._is_idle = 0.0, True

    def reached(self, at: str) -> None:
        """A projector has reached a step."""
        if self._is_idle:
            return
        if at in ("load", "begin", "statement", "commit") and self._clock.monotonic_s() < self._away_until_s:
            raise WorldError(f"the database is away: {_SIMULATED}")
        if armed := self._armed.get(at):
            kind, passes = armed.popleft()
            if passes:
                armed.appendleft((kind, passes - 1))
            else:
                self._strike(kind, at)

    def handling(self, projection: str, place: ProjectedPlace, event: PlacedEvent) -> None:
        """A projector is about to run the handler of an event."""
        if self._is_idle:
            return
        self.reached("handle")
        key = projection, place, event.seq
        if self._next_failures and key not in self._failing:
            self._failing[key] = self._next_failures.popleft()
        kind, left = self._failing.get(key, ("", 0))
        if not left:
            return
        self._failing[key] = kind, left - 1
        if kind == "event-kills":
            self._probes["projector killed by an event"] += 1
            raise ProjectorKilled(f"event {event.seq}")
        self._probes["projector's event failed"] += 1
        raise EventFails(_SIMULATED)

    def _strike(self, kind: str, at: str) -> None:
        match kind:
            case "projector-killed":
                self._probes[f"projector killed at {at}"] += 1
                raise ProjectorKilled(at)
            case "projector-meanwhile":
                self._meanwhile(at)
            case "log-unread":
                self._probes["projector could not read"] += 1
                raise LogUnavailable(f"the log is out of reach: {_SIMULATED}")
            case "commit-unheard":
                self._probes["projector did not hear of its commit"] += 1
                raise WorldError(f"the answer to a COMMIT is lost: {_SIMULATED}")
            case "database-slow":
                raise TooSlow(f"the database ended a transaction that sent nothing: {_SIMULATED}")
            case _:
                raise WorldError(f"the database is away: {_SIMULATED}")
