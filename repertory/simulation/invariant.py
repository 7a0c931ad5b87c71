"""What must hold for an application after every run: its own function of the committed records."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import msgspec

from repertory.actors.entity import Entity
from repertory.actors.message import Message
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.failed import DeadLetter, Parked, dead_letters, parked_keys
from repertory.bridge.system.projected import Projectable
from repertory.bridge.system.published import PublishedRecord, published_records
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.projecting import Projecting
from repertory.simulation.virtual import Violation
from repertory.supervision.traceback_text import message_of, traceback_of

E = TypeVar("E", bound=Entity)

#: The name of the rule that an invariant holds; one that raises something else breaks another rule for each type.
HOLDS = "the invariant of the application"
RAISES = "the invariant raises"


class Outcome(msgspec.Struct, frozen=True):
    """The argument of a user's invariant: the log at the end of a run. It is of this run alone, and thrown away after.

    ``lossless`` is True if every command was applied or rejected. It is False if one is parked or dead-lettered: the
    simulator made its handler fail, or sent a record that is no valid command. It is False, too, if a projection has
    stopped or parked a key with an error that is allowed.
    """

    system: ActorSystem
    reader: Reader
    lossless: bool
    projections: Projecting = Projecting()

    def state(self, entity: type[E], key: str) -> E | None:
        """Return an entity's committed state, None if it never existed, or has stopped."""
        return cast("E | None", entity_state(self.reader, self.system, self.system.hosted[entity], key).state)

    def parked(self) -> list[Parked]:
        """Return the parked keys."""
        return list(parked_keys(self.reader, self.system))

    def dead_letters(self) -> list[DeadLetter]:
        """Return the commands that were not applied and never will be."""
        return list(dead_letters(self.reader, self.system))

    def published(self, topic: str, *message_types: type[Message]) -> list[PublishedRecord]:
        """Return the records of a topic outside the system; see ``Running.published``."""
        return list(published_records(self.reader, self.system, topic, message_types))

    def rows(self, projection: type[Projectable], attribute: str = "rows") -> list[dict[str, Any]]:
        """Return the rows of a projection's table, by columns; all events are in it, unless one is not ``lossless``.

        Raises LookupError for a projection of another system and for a table that it does not have.
        """
        return self.projections.rows(projection, attribute)


#: Raises AssertionError if something is wrong with an outcome, and returns nothing.
Invariant = Callable[[Outcome], None]


def no_invariant(_outcome: Outcome) -> None:
    """Accept every outcome."""


def hold(invariant: Invariant, outcome: Outcome) -> None:
    """Raise Violation if an invariant does not hold, or raises anything but AssertionError: that is no answer.

    Raises TypeError if it returns something: a bool would be mistaken for an answer, and the body of a generator or
    of a coroutine would never run.
    """
    try:
        returned = cast("Callable[[Outcome], object]", invariant)(outcome)
    except AssertionError as error:
        raise Violation(HOLDS, message_of(error) or f"it failed without a message\n{user_frames(error)}") from error
    except (Exception, SystemExit) as error:
        raise Violation(
            f"{RAISES} {type(error).__name__}, where only AssertionError is an answer", user_frames(error)
        ) from error
    if returned is not None:
        name = getattr(invariant, "__qualname__", repr(invariant))
        raise TypeError(
            f"the invariant {name} returned {returned!r:.100}: it raises AssertionError (with assert) if something is "
            "wrong, and returns nothing"
        )


def user_frames(error: BaseException) -> str:
    """Return the traceback of an error in user code."""
    with frames_shown():
        return traceback_of(error).rstrip()


@contextlib.contextmanager
def frames_shown() -> Iterator[None]:
    """Allow tracebacks where ``silence`` suppresses them."""
    limit = getattr(sys, "tracebacklimit", None)
    if limit is not None:
        del sys.tracebacklimit
    try:
        yield
    finally:
        if limit is not None:
            sys.tracebacklimit = limit
