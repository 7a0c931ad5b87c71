"""The ledger job: its messages, its entity and its input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from repertory import ActorSystem, Command, Entity, Event, command, event
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output

PARTITIONS = 4
ACCOUNTS = 10_000
BATCH = 1_000
PRELOAD = 20_000


class Deposit(Command):
    """Pay in."""

    amount: int


class Deposited(Event):
    """Paid in."""

    amount: int


class Account(Entity):
    """A balance."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        """Accept every deposit."""
        return Deposited(amount=cmd.amount)

    @event
    def deposited(self, evt: Deposited) -> Self:
        """Add it."""
        return self.replace(balance=self.balance + evt.amount)


def ledger_system(name: str) -> ActorSystem:
    """Return a system that hosts the accounts."""
    system = ActorSystem(name)
    system.host(Account, partitions=PARTITIONS)
    return system


def commands(topic: str, count: int) -> Iterator[Output]:
    """Yield deposits over all accounts, round robin."""
    value = encode(Deposit(amount=5))
    keys = [b"account-%d" % number for number in range(ACCOUNTS)]
    places = [(partition_of(key, PARTITIONS), key) for key in keys]
    for number in range(count):
        partition, key = places[number % ACCOUNTS]
        yield Output(topic, partition, key, value)


def preload(backend: Backend, topic: str, count: int) -> None:
    """Append the commands of one round."""
    appender = backend.appender()
    pending: list[Output] = []
    for output in commands(topic, count):
        pending.append(output)
        if len(pending) == PRELOAD:
            appender.append(pending)
            pending.clear()
    if pending:
        appender.append(pending)
    appender.close()
