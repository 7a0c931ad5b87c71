"""A failure, and the directive that says what to do about it: two values that all levels of supervision share."""

import enum
import traceback
from typing import Self

import msgspec

MESSAGE_CHARS_MAX = 1_000
"""Enough for a sentence and its numbers. A message can quote a whole record, and a failure is kept for each child."""

TRACEBACK_CHARS_MAX = 8_000
"""About a hundred frames. With the message, far smaller than a Thespian frame (1 MiB) and a Kafka header."""


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
    def of(cls, error: BaseException, where: str) -> Self:
        """Describe `error`, which failed at `where`; never raises, whatever the error's own ``__str__`` does.

        The message keeps its first 1,000 characters. The traceback keeps 8,000, from both ends: its origin and
        the place of the error. Text that is not valid UTF-8 is escaped.
        """
        report = traceback.TracebackException.from_exception(error)
        own, *bases = type(error).__mro__[:-1]
        return cls(
            error_type=qualified_name(own),
            message=_printable(str(report))[:MESSAGE_CHARS_MAX],
            where=where,
            traceback=_both_ends(_printable("".join(report.format())), TRACEBACK_CHARS_MAX),
            bases=tuple(qualified_name(base) for base in bases),
        )


def qualified_name(error_type: type) -> str:
    """Name a class by module and qualified name, a builtin by its bare name: ``ValueError``, ``banking.Broken``."""
    if error_type.__module__ == "builtins":
        return error_type.__qualname__
    return f"{error_type.__module__}.{error_type.__qualname__}"


def _printable(text: str) -> str:
    """Escape lone surrogates, which UTF-8 headers and MessagePack strings cannot contain."""
    return text.encode("utf-8", "backslashreplace").decode()


def _both_ends(text: str, chars_max: int) -> str:
    """Cut out the middle of a long text: the ends of a traceback are its most useful parts."""
    if len(text) <= chars_max:
        return text
    gap = "\n[...]\n"
    head = (chars_max - len(gap)) // 2
    return text[:head] + gap + text[len(text) - (chars_max - len(gap) - head) :]
