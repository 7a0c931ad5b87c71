"""A failure, and the directive that says what to do about it: two values that all levels of supervision share."""

import enum
from typing import Self

import msgspec

from repertory.supervision.traceback_text import message_of, traceback_of


class Directive(enum.Enum):
    """What happens to a child that failed. The meaning at each level:

    ========  ===================================  =======================================  =======================
    ..        an entity's handler failed           a shard failed                           a worker process failed
    ========  ===================================  =======================================  =======================
    RESUME    the command is dead-lettered, the    as RESTART: its memory is discarded      as RESTART: the process
              entity continues                                                              has ended
    RESTART   it is rebuilt from committed state,  its memory is discarded; it is claimed,  a new process after the
              and the command is repeated after a  restored, and continues from the         backoff
              backoff                              committed offset
    STOP      the key is parked                    it stays down, its siblings continue     it stays down, its
                                                                                            siblings continue
    ESCALATE  the shard fails                      the worker fails                         the node fails
    ========  ===================================  =======================================  =======================
    """

    RESUME = "resume"
    RESTART = "restart"
    STOP = "stop"
    ESCALATE = "escalate"


class Failure(msgspec.Struct, frozen=True):
    """A failure as data: plain strings, so that it crosses processes, fits a header and outlives its exception.

    ``error_type`` and ``bases`` are the qualified names of the error's class and its base classes, nearest first. With
    them, a policy that names types can be applied in another process. ``where`` names the place, as in
    ``account/3@120 key a-1``. ``directive`` is the decision of the failed child's own policy, None without one.
    """

    error_type: str
    message: str
    where: str
    traceback: str = ""
    bases: tuple[str, ...] = ()
    directive: Directive | None = None

    @classmethod
    def of(cls, error: BaseException, where: str, doing: str = "") -> Self:
        """Describe `error`, which failed at `where` while `doing` was under way; never raises.

        See ``supervision.traceback_text`` for the bounds. An error that carries a failure (its attribute ``failure``)
        has the traceback of that one: it reports what a child could not describe itself.
        """
        own, *bases = type(error).__mro__[:-1]
        carried = getattr(error, "failure", None)
        return cls(
            error_type=qualified_name(own),
            message=message_of(error),
            where=where,
            traceback=carried.traceback if isinstance(carried, Failure) else traceback_of(error, doing),
            bases=tuple(qualified_name(base) for base in bases),
        )


def qualified_name(error_type: type) -> str:
    """Name a class by module and qualified name, a builtin by its bare name: ``ValueError``, ``banking.Broken``."""
    if error_type.__module__ == "builtins":
        return error_type.__qualname__
    return f"{error_type.__module__}.{error_type.__qualname__}"
