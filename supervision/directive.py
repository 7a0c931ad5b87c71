"""What is to be done about a failure, and what is known of it: two values that every level of supervision shares."""

import enum
import traceback
from typing import Self

import msgspec

MESSAGE_CHARS_MAX = 1_000
"""Room for a sentence and its figures; a message can quote a whole record, and a report is kept per child."""

TRACEBACK_CHARS_MAX = 8_000
"""About a hundred frames. With the message well below a Thespian frame (1 MiB) and a Kafka header."""


class Directive(enum.Enum):
    """What happens to the one that failed; each level reads it in its own terms.

    ========  ===================================  =======================================  =======================
    ..        an entity's handler failed           a shard failed                           a worker process failed
    ========  ===================================  =======================================  =======================
    RESUME    the command is dead-lettered, the    as RESTART: what it had is dropped       as RESTART: it is gone
              entity goes on
    RESTART   rebuilt from committed state, the    memory dropped, ownership proved, state  a new process after the
              command comes again after a backoff  restored, on from the committed offset   backoff
    STOP      the key is parked                    it stays down, its siblings go on        it stays down, its
                                                                                            siblings go on
    ESCALATE  the shard fails                      the worker fails                         the node fails
    ========  ===================================  =======================================  =======================
    """

    RESUME = "resume"
    RESTART = "restart"
    STOP = "stop"
    ESCALATE = "escalate"


class Failure(msgspec.Struct, frozen=True):
    """A failure as data: plain strings, so that it crosses processes, fits a header and outlives its exception.

    ``error_type`` and ``bases`` are qualified names, the error's own class and then its other classes,
    nearest first: with them a policy that names types can be asked in another process. ``where`` names the
    place, as in ``account/3@120 key a-1``. ``directive`` is what the failed child's own policy decided, None
    if nobody has yet.
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

        The message keeps its first 1,000 characters, the traceback both its ends in 8,000: where it came from
        and where it broke. What is not valid UTF-8 is escaped.
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
    """Escape lone surrogates, which no UTF-8 header or MessagePack string can hold."""
    return text.encode("utf-8", "backslashreplace").decode()


def _both_ends(text: str, chars_max: int) -> str:
    """Cut the middle out of a long text: the ends of a traceback say most."""
    if len(text) <= chars_max:
        return text
    gap = "\n[...]\n"
    head = (chars_max - len(gap)) // 2
    return text[:head] + gap + text[len(text) - (chars_max - len(gap) - head) :]
