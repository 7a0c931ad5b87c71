"""Finds the directive for a failure, and whether a restart is within its budget. Pure, and the same at all levels."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Final, Literal, TypeVar, get_args

import msgspec

from repertory.supervision.directive import Directive, Failure, qualified_name
from repertory.supervision.restart import Backoff, add_restart, exhausted

PROCESS_FAILURES: Final = (MemoryError, SystemExit, KeyboardInterrupt)
"""Never judged: they concern the whole process, not the entity in which they were raised. Do not catch them; the
process's supervisor acts."""


Asked = Literal["park", "answer"]

E = TypeVar("E", bound=BaseException)
"""The common class of the types in a policy's rules. Mapping is invariant in its keys: without the variable, type
checkers would reject a dict that was first assigned to a name."""


class Policy(msgspec.Struct, frozen=True):
    """What to do about failures: a directive by exception type, at most ``max_restarts`` within ``within_s`` seconds.

    Made by `restart`. Beyond the budget, a shard or a worker escalates and an entity's key is parked. Raises ValueError
    or TypeError for invalid settings.

    ``asked`` concerns entities, and commands whose sender waits for an answer: "park" treats them like any other;
    "answer" dead-letters and answers them where a command would be parked, or would be stashed behind a parked one.
    """

    max_restarts: int
    within_s: float
    backoff: Backoff
    on: Mapping[type[BaseException], Directive]
    default: Directive = Directive.RESTART
    asked: Asked = "park"

    def __post_init__(self) -> None:
        """Reject invalid settings, each with its own error message."""
        if not isinstance(self.max_restarts, int) or isinstance(self.max_restarts, bool):
            raise TypeError(f"restart: max_restarts must be an int, not {self.max_restarts!r}")
        if self.max_restarts < 0:
            raise ValueError(f"restart: max_restarts must be 0 or more, not {self.max_restarts}")
        if not math.isfinite(self.within_s) or self.within_s <= 0:
            raise ValueError(f"restart: within_s must be a finite number above 0, not {self.within_s}")
        if not isinstance(self.backoff, Backoff):
            raise TypeError(f"restart: backoff must be a Backoff, not {self.backoff!r}")
        for error_type, directive in self.on.items():
            _check_rule(error_type, directive)
        if not isinstance(self.default, Directive):
            raise TypeError(f"restart: default must be a Directive, not {self.default!r}")
        if self.asked not in get_args(Asked):
            raise ValueError(f"restart: asked must be 'park' or 'answer', not {self.asked!r}")

    def directive_for(self, error_type: type[BaseException]) -> Directive:
        """Return the directive for an exception type: that of the nearest class in its MRO, else the default."""
        for base in error_type.__mro__:
            if base in self.on:
                return self.on[base]
        return self.default

    def directive_of(self, failure: Failure) -> Directive:
        """Return the directive for a failure: its own if it has one, else that for the names of its types."""
        if failure.directive is not None:
            return failure.directive
        by_name = {qualified_name(error_type): directive for error_type, directive in self.on.items()}
        names = (failure.error_type, *failure.bases)
        return next((by_name[name] for name in names if name in by_name), self.default)

    def of_one_gone(self, failure: Failure) -> Failure:
        """Return the failure of a child that has exited: it cannot continue, so RESTART replaces RESUME."""
        if self.directive_of(failure) is not Directive.RESUME:
            return failure
        return msgspec.structs.replace(failure, directive=Directive.RESTART)

    def spend(self, restarts: tuple[float, ...], now_s: float) -> tuple[tuple[float, ...], bool]:
        """Count one restart at `now_s`; return the new history, and whether it exceeds the budget and must not happen.

        The history never holds more than ``max_restarts + 1`` times; more could not change the result.
        """
        history = add_restart(restarts, now_s, self.within_s)[-(self.max_restarts + 1) :]
        return history, exhausted(history, self.max_restarts)


class Judgement(msgspec.Struct, frozen=True):
    """The decision of `judge`.

    ``restarts`` replaces the history. ``spent`` means that the budget allows no restart; an entity's key is parked
    then. ``delay_s`` is the delay before a RESTART that is not ``spent``, else 0.
    """

    directive: Directive
    restarts: tuple[float, ...]
    delay_s: float = 0.0
    spent: bool = False


def restart(
    *,
    max_restarts: int = 3,
    within_s: float = 60.0,
    backoff: Backoff = Backoff(),
    on: Mapping[type[E], Directive] | None = None,
    default: Directive = Directive.RESTART,
    asked: Asked = "park",
) -> Policy:
    """Make a policy: restart after a backoff, at most `max_restarts` times within `within_s` seconds.

    `on` gives exception types another directive (the nearest class counts); `default` is for all other types. `asked`
    is for entities: whether a command whose sender waits for an answer is parked like any other (the sender waits until
    an operator retries or drops it), or is answered ``Undelivered`` instead. Raises ValueError or TypeError for invalid
    settings.
    """
    rules: dict[type[BaseException], Directive] = {} if on is None else dict(on.items())
    return Policy(max_restarts=max_restarts, within_s=within_s, backoff=backoff, on=rules, default=default, asked=asked)


def judge(
    policy: Policy,
    restarts: tuple[float, ...],
    error_type: type[BaseException],
    now_s: float,
    draw: float,
    *,
    attempt: int | None = None,
) -> Judgement:
    """Decide about one failure at `now_s`, given the history of restarts of the same entity (newest last).

    `draw` in [0, 1) determines the jitter. The delay grows with `attempt` (from 1) if the caller counts attempts, as a
    shard does for a command; otherwise with the streak in the history. `PROCESS_FAILURES` must not be passed.
    """
    assert not issubclass(error_type, PROCESS_FAILURES), f"{error_type.__name__} fails the process; do not catch it"
    directive = policy.directive_for(error_type)
    if directive is not Directive.RESTART:
        return Judgement(directive, restarts)
    history, spent = policy.spend(restarts, now_s)
    if spent:
        return Judgement(directive, history, spent=True)
    delay_s = policy.backoff.delay_s(_streak(policy.backoff, history) if attempt is None else attempt, draw)
    return Judgement(directive, history, delay_s)


def _streak(backoff: Backoff, history: tuple[float, ...]) -> int:
    """Count the latest restarts of `history` with no quiet time between them."""
    attempt = 1
    for earlier_s, later_s in pairwise(history):
        attempt = backoff.next_attempt(attempt, earlier_s, later_s)
    return attempt


def _check_rule(error_type: type[BaseException], directive: Directive) -> None:
    """Reject a rule of `on` that could never apply."""
    if not (isinstance(error_type, type) and issubclass(error_type, BaseException)):
        raise TypeError(f"restart: on maps exception types to directives; {error_type!r} is not an exception type")
    if not set(PROCESS_FAILURES).isdisjoint(error_type.__mro__):
        raise ValueError(f"restart: {error_type.__name__} fails the whole process and cannot be given a directive")
    if not isinstance(directive, Directive):
        raise TypeError(f"restart: on maps exception types to directives; {directive!r} is not a Directive")
