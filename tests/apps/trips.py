"""Trips as sagas, for tests: a hotel that may keep its money, a flight that cannot be undone, and a signal between."""

from __future__ import annotations

from typing import Literal, Self

from repertory import (
    PIVOT,
    ActorSystem,
    Cancelled,
    Command,
    Context,
    Entity,
    Event,
    Rejection,
    Saga,
    SagaContext,
    Undelivered,
    command,
    event,
    restart,
    run,
    signal,
)

#: The hotels that cannot give a place back.
BROKEN: set[str] = set()


class Book(Command):
    """Book a place for a trip."""

    trip: str


class Unbook(Command):
    """Give a place back. ``fee``: what is paid for that, in whole cents."""

    trip: str
    fee: int = 0


class AskFee(Command):
    """Give no place back any more below this fee."""

    fee: int


class Booked(Event):
    """A place is booked."""

    trip: str


class Unbooked(Event):
    """A place is given back."""

    trip: str


class FeeAsked(Event):
    """Places cost this fee."""

    fee: int


class Full(Rejection):
    """There is no place."""


class FeeTooLow(Rejection):
    """The place is not given back for so little."""

    asked: int


class Hotel(Entity):
    """Has one place."""

    trips: tuple[str, ...] = ()
    fee: int = 0

    @command
    def book(self, cmd: Book) -> Booked | Full:
        if self.trips:
            return Full()
        return Booked(trip=cmd.trip)

    @command
    def unbook(self, cmd: Unbook, ctx: Context) -> Unbooked | FeeTooLow:
        if ctx.key in BROKEN:
            raise RuntimeError("the till is broken")
        if cmd.fee < self.fee:
            return FeeTooLow(asked=self.fee)
        return Unbooked(trip=cmd.trip)

    @command
    def ask_fee(self, cmd: AskFee) -> FeeAsked:
        return FeeAsked(fee=cmd.fee)

    @event
    def booked(self, evt: Booked) -> Self:
        return self.replace(trips=(*self.trips, evt.trip))

    @event
    def unbooked(self, evt: Unbooked) -> Self:
        return self.replace(trips=tuple(each for each in self.trips if each != evt.trip))

    @event
    def fee_asked(self, evt: FeeAsked) -> Self:
        return self.replace(fee=evt.fee)


class Plan(Command):
    """Plan a trip."""

    hotel: str
    flight: str


class Confirm(Command):
    """Somebody wants the trip."""

    by: str


class Planned(Event):
    """Hotel and flight are booked."""

    by: str


class Trip(Saga):
    """A trip; its key is the trip's id."""

    confirm = signal(Confirm)

    @run
    async def plan(self, cmd: Plan, ctx: SagaContext) -> Planned | Full | Undelivered | Cancelled:
        """Book a hotel, wait until somebody confirms, book a flight."""
        if not cmd.hotel:
            raise ValueError("a trip without a hotel")
        back = ctx.call(Hotel.unbook, cmd.hotel, Unbook(trip=ctx.key))
        await ctx.require(Hotel.book, cmd.hotel, Book(trip=ctx.key), undo=back)
        confirmed = await ctx.signal(Confirm)
        await ctx.require(Hotel.book, cmd.flight, Book(trip=ctx.key), undo=PIVOT)
        return Planned(by=confirmed.by)


class Led(Event):
    """Some guide leads the way."""


class Guide(Saga):
    """A guide who asks another one to lead, as a mistake goes: two that ask each other wait for ever."""

    @run
    async def lead(self, cmd: Plan, ctx: SagaContext) -> Led | Cancelled:
        """Ask the guide ``cmd.hotel``, who asks back."""
        await ctx.ask(Guide.lead, cmd.hotel, Plan(hotel=ctx.key, flight=cmd.flight), undo=None)
        return Led()


def made(name: str = "travel", *, asked: Literal["park", "answer"] = "park") -> ActorSystem:
    """Return a system with its hotels, trips and guides; ``asked``: of the hotels."""
    system = ActorSystem(name)
    system.host(Hotel, partitions=1, supervise=restart(max_restarts=0, asked=asked))
    system.host(Trip, partitions=2, supervise=restart(max_restarts=0))
    system.host(Guide, partitions=1)
    return system


system = made()
