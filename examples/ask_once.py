"""Example 2, a concert hall: ask once, query, read your own write; run it with ``python -m examples.ask_once``."""

from datetime import UTC, datetime
from typing import Self

from repertory import ActorSystem, Answer, AskId, Command, Entity, Event, Query, Rejection, command, event, query


class Reserve(Command):
    """Reserve so many seats."""

    seats: int


class Reserved(Event):
    """They are reserved."""

    seats: int


class SoldOut(Rejection):
    """There are not so many."""

    left: int


class CountSeats(Query):
    """How many are left."""


class SeatsLeft(Answer):
    """So many."""

    left: int


class Concert(Entity):
    """A concert; its key is its date."""

    left: int = 10

    @command
    def reserve(self, cmd: Reserve) -> Reserved | SoldOut:
        return Reserved(seats=cmd.seats) if cmd.seats <= self.left else SoldOut(left=self.left)

    @query
    def seats_left(self, _ask: CountSeats) -> SeatsLeft:
        return SeatsLeft(left=self.left)

    @event
    def reserved(self, evt: Reserved) -> Self:
        return self.replace(left=self.left - evt.seats)


system = ActorSystem("hall")
system.host(Concert, partitions=2)


def main() -> None:
    """Reserve eight of ten seats, twice with one id."""
    order = AskId("order-17", made_at=datetime.now(UTC))  # Store both before the first attempt, and use both again.
    with system.start("memory:") as running:
        client = running.client
        first = client.ask_result(Concert.reserve, "may-1", Reserve(seats=8), id=order)
        print(first.value, first.again)
        second = client.ask_result(Concert.reserve, "may-1", Reserve(seats=8), id=order)
        print(second.value, second.again)  # The stored answer: no seat was reserved again.
        print(client.ask(Concert.reserve, "may-1", Reserve(seats=1), id=order))  # The id of another command.
        print(client.ask(Concert.reserve, "may-1", Reserve(seats=8)))  # The same order, without its id.
        print(client.query(Concert.seats_left, "may-1", CountSeats()))
        with client.view(Concert) as view:
            found = view.get("may-1", at_least=first.position)  # That state or a later one, without asking anybody.
        print(found)


if __name__ == "__main__":
    main()
