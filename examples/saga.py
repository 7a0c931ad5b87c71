"""Example 9, a trip: a saga that books a hotel and a flight, or neither; run it with ``python -m examples.saga``."""

from typing import Self

import repertory
from repertory import PIVOT, ActorSystem, Cancelled, Command, Entity, Event, Rejection, Saga, SagaContext, Undelivered


class Book(Command):
    """Book a place."""


class Unbook(Command):
    """Give it back."""


class SoldOut(Rejection):
    """There is no place left."""


class Seller(Entity):
    """A hotel or a flight, with one place."""

    left: int = 1

    @repertory.command
    def book(self, _cmd: Book) -> Self | SoldOut:
        return self.replace(left=self.left - 1) if self.left else SoldOut()

    @repertory.command
    def unbook(self, _cmd: Unbook) -> Self:
        return self.replace(left=self.left + 1)


class Plan(Command):
    """Plan a trip."""

    hotel: str
    flight: str


class Planned(Event):
    """All is booked."""


class Trip(Saga):
    """A trip; its key is its number."""

    @repertory.run
    async def plan(self, cmd: Plan, ctx: SagaContext) -> Planned | SoldOut | Undelivered | Cancelled:
        """Book the hotel, and then the flight; without a flight the hotel is given back."""
        await ctx.require(Seller.book, cmd.hotel, Book(), undo=ctx.call(Seller.unbook, cmd.hotel, Unbook()))
        await ctx.require(Seller.book, cmd.flight, Book(), undo=PIVOT)  # Nobody takes a flight back.
        return Planned()


system = ActorSystem("trips")
system.host(Seller, partitions=2)
system.host(Trip, partitions=2)


def main() -> None:
    """Plan two trips with one flight, crash in the middle of the second, and ask again."""
    with system.start("memory:") as running:
        print(running.client.ask(Trip.plan, "t-1", Plan(hotel="ritz", flight="LH1")))
        running.client.tell(Trip.plan, "t-2", Plan(hotel="savoy", flight="LH1"))
        running.tick()
        running.crash()
        print(running.client.ask(Trip.plan, "t-2", Plan(hotel="savoy", flight="LH1")))
        print(running.state(Seller, "ritz"), running.state(Seller, "savoy"))


if __name__ == "__main__":
    main()
