"""A system with every kind of entity for the simulator: journaled, stateful, a router, asks, lives that end."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import msgspec

from repertory import ActorSystem, Backoff, Command, ContractViolation, Directive, restart
from tests.actors.domain import (
    Account,
    Bag,
    Close,
    Deposit,
    Desk,
    Hold,
    Pay,
    Put,
    Release,
    Router,
    Split,
    Spoil,
    Teller,
    Trip,
    Withdraw,
)

POLICY = restart(
    max_restarts=2,
    within_s=60,
    backoff=Backoff(first_s=0.02, max_s=1.0),
    on={KeyError: Directive.RESUME, ValueError: Directive.STOP},
)

#: Of the accounts, which all others ask: what is asked is answered instead of parked, so that keys block less.
ANSWER = msgspec.structs.replace(POLICY, asked="answer")

system = ActorSystem("simulated")
for entity in (Account, Teller, Router, Desk, Bag):
    system.host(entity, partitions=2, supervise=ANSWER if entity is Account else POLICY)

COMMANDS = 200
#: ``Trip`` and ``Spoil`` raise these, so that entities also fail where no fault is injected.
allowed_errors = (RuntimeError, KeyError, ValueError, ContractViolation)


def commands(random: Random, count: int = COMMANDS) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run: few keys, so that they meet."""
    for _ in range(count):
        key = f"k{random.randrange(5)}"
        amount = random.randrange(1, 9)
        failing = Trip(times=random.randrange(3), error=random.choice(("restart", "restart", "resume", "stop")))
        yield random.choices(
            (
                (Account.deposit, key, Deposit(amount=amount)),
                (Account.withdraw, key, Withdraw(amount=2 * amount)),
                (Account.split, key, Split(amounts=(1,) * (amount % 4))),
                (Account.close, key, Close()),
                (Account.trip, key, failing),
                (Teller.pay, key, Pay(account=f"k{random.randrange(5)}", amount=amount)),
                (Teller.trip, key, failing),
                (Teller.close, key, Close()),
                (Router.deposit, key, Deposit(amount=amount)),
                (Desk.hold, key, Hold()),
                (Desk.release, key, Release()),
                (Bag.put, key, Put(item=f"i{amount}")),
                (Bag.spoil, key, Spoil(how=random.choice(("", "list", "raise")))),
            ),
            weights=(8, 6, 3, 2, 1, 6, 1, 1, 3, 3, 2, 3, 1),
        )[0]


def asked(random: Random, count: int = COMMANDS) -> Iterator[tuple[Any, str, Command]]:
    """Yield the commands of one run whose asks have ids: some of the desks stop instead of answering."""
    for handler, key, message in commands(random, count):
        if handler is Desk.release and random.randrange(2):
            yield Desk.close, key, Close()
        else:
            yield handler, key, message
