"""What the sagas of these tests ask, perform and answer. Nobody handles it: a test answers by hand."""

from __future__ import annotations

from typing import Self

from repertory import Command, Entity, Event, Rejection, Request, command, effect, event


class Take(Command):
    """Take something."""

    amount: int = 1


class Taken(Event):
    """It was taken."""


class Short(Rejection):
    """There is not enough."""

    left: int = 0


class Back(Command):
    """Bring back what was taken."""

    amount: int = 1


class Returned(Event):
    """It is back."""


class Refused(Rejection):
    """It cannot be brought back."""

    reason: str = "the store is closed"


class Note(Command):
    """Note something."""

    text: str = ""


class Store(Entity):
    """Has things."""

    @command
    def take(self, _cmd: Take) -> Taken | Short:
        """Give it out."""
        return Taken()

    @command
    def back(self, _cmd: Back) -> Returned | Refused:
        """Take it back."""
        return Returned()

    @command
    def note(self, _cmd: Note) -> None:
        """Forget it."""

    @event
    def taken(self, _evt: Taken) -> Self:
        """Stay as it is."""
        return self

    @event
    def returned(self, _evt: Returned) -> Self:
        """Stay as it is."""
        return self


class Letter(Request):
    """A letter."""

    to: str = "ann"


class Posted(Event):
    """It is on its way."""


@effect(timeout_s=5, name="tests.post")
async def post(_do: Letter) -> Posted | None:
    """Post it."""
    return Posted()


class Begin(Command):
    """Begin."""

    number: int = 0


class Approve(Command):
    """Somebody agrees."""

    by: str = ""


class Hurry(Command):
    """Somebody presses."""


class Ended(Event):
    """It is done."""

    text: str = ""


class Failed(Rejection):
    """It is not done."""
