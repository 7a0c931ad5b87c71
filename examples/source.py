"""Example 8, payments: a foreign topic feeds accounts, each record once; run it with ``python -m examples.source``."""

from typing import Self

import msgspec

from repertory import ActorSystem, Command, Entity, Event, Route, SourceRecord, command, event, route


class Payment(msgspec.Struct):
    """A record of the topic ``payments.v1``, as its producer writes it: JSON."""

    account: str
    cents: int
    is_test: bool = False


class Deposit(Command):
    """Put money on an account."""

    cents: int


class Deposited(Event):
    """The money is there."""

    cents: int


class Account(Entity):
    """An account; its key is its number."""

    cents: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        return Deposited(cents=cmd.cents)

    @event
    def deposited(self, evt: Deposited) -> Self:
        return self.replace(cents=self.cents + evt.cents)


def from_payment(record: SourceRecord) -> list[Route]:
    """Decide from the record alone what it means here. What is no payment raises, and becomes a dead letter."""
    paid = record.json(Payment)
    return [] if paid.is_test else [route(Account.deposit, paid.account, Deposit(cents=paid.cents))]


system = ActorSystem("till")
system.host(Account, partitions=2)
system.source("payments", "payments.v1", from_payment)


def main() -> None:
    """Be the producer too, and kill the worker in between: it goes on where it was."""
    with system.start("memory:") as running:
        for record in (b'{"account": "a-1", "cents": 500}', b"{}", b'{"account": "a-1", "cents": 1, "is_test": true}'):
            running.produce("payments.v1", record, key=b"a-1")
        running.settle()
        running.crash()
        running.produce("payments.v1", b'{"account": "a-1", "cents": 250}', key=b"a-1")
        running.settle()
        print(running.state(Account, "a-1"))
        for letter in running.dead_letters():
            print(letter.source, letter.reason)


if __name__ == "__main__":
    main()
