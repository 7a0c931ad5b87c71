"""The ledger job: its messages, its entity and its input.

A worker process imports ``benchmarks.job:system``; the environment says which one of a run it is (``BENCH_NAME``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Self

from repertory import ActorSystem, Answer, Command, Entity, Event, Query, command, event, query
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.topics import commands_topic, events_topic

PARTITIONS = 4
ACCOUNTS = 10_000
AMOUNT = 5
BATCH = 1_000
PRELOAD = 20_000


class Deposit(Command):
    """Pay in."""

    amount: int


class Deposited(Event):
    """Paid in."""

    amount: int


class GetBalance(Query):
    """Ask what is there."""


class Balance(Answer):
    """What is there."""

    amount: int


class Account(Entity):
    """A balance."""

    balance: int = 0

    @command
    def deposit(self, cmd: Deposit) -> Deposited:
        """Accept every deposit."""
        return Deposited(amount=cmd.amount)

    @query
    def look(self, _ask: GetBalance) -> Balance:
        """Answer it."""
        return Balance(amount=self.balance)

    @event
    def deposited(self, evt: Deposited) -> Self:
        """Add it."""
        return self.replace(balance=self.balance + evt.amount)


def ledger_system(name: str, partitions: int = PARTITIONS) -> ActorSystem:
    """Return a system that hosts the accounts."""
    made = ActorSystem(name)
    made.host(Account, partitions=partitions)
    return made


NAME, SHARDS = "BENCH_NAME", "BENCH_PARTITIONS"
system = ledger_system(os.environ.get(NAME, "ledger"), int(os.environ.get(SHARDS, PARTITIONS)))


def commands_of(name: str) -> str:
    """Return the topic of the commands of the system ``name``."""
    return commands_topic(name, "account")


def events_of(name: str) -> str:
    """Return the topic of its events."""
    return events_topic(name, "account")


def places(accounts: int = ACCOUNTS, partitions: int = PARTITIONS) -> list[tuple[int, bytes]]:
    """Return the partition and the key of each account."""
    keys = [b"account-%d" % number for number in range(accounts)]
    return [(partition_of(key, partitions), key) for key in keys]


def commands(topic: str, count: int, accounts: int = ACCOUNTS, partitions: int = PARTITIONS) -> Iterator[Output]:
    """Yield deposits over all accounts, round robin."""
    value = encode(Deposit(amount=AMOUNT))
    found = places(accounts, partitions)
    for number in range(count):
        partition, key = found[number % accounts]
        yield Output(topic, partition, key, value)


def preload(backend: Backend, topic: str, count: int, accounts: int = ACCOUNTS, partitions: int = PARTITIONS) -> None:
    """Append the commands of one round."""
    appender = backend.appender()
    pending: list[Output] = []
    for output in commands(topic, count, accounts, partitions):
        pending.append(output)
        if len(pending) == PRELOAD:
            appender.append(pending)
            pending.clear()
    if pending:
        appender.append(pending)
    appender.close()
