"""The bank in the simulator: its workload, and its audit as the invariant. See ``repertory simulate``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random

from examples.banking.accounts import Account, Close, Deposit, Open, Withdraw
from examples.banking.audit import LEFT, audit
from examples.banking.load import AddressedCommand, Load
from examples.banking.projections import Balances, Statement
from examples.banking.transfers import StartTransfer, Transfer
from repertory.simulation import Outcome

#: A transfer makes about five commands in the log.
_ACCOUNTS, _TRANSFERS = 12, 36
#: Accounts with a few cents: they are emptied, closed and opened again all the time.
_PURSES, _PURSE_CENTS_MAX = 4, 3


def commands(random: Random) -> Iterator[AddressedCommand]:
    """Yield the commands of one run: open accounts, close some, and transfer money between them.

    In between, cash is paid in and out of purses, and so are transfers: their lives end and begin again.
    """
    load = Load("s", accounts=_ACCOUNTS, transfers=_TRANSFERS, seed=random.randrange(1 << 30))
    yield from load.openings()
    for number, transfer in enumerate(load.transfers()):
        yield transfer
        yield _cash(random)
        if number % 4 == 0:
            source, target = random.sample([_purse(random), _purse(random), "s-a0"], 2)
            start = StartTransfer(source=source, target=target, amount=random.randint(1, _PURSE_CENTS_MAX))
            yield Transfer.transfer, f"s-p{number}", start


def _purse(random: Random) -> str:
    return f"s-purse{random.randrange(_PURSES)}"


def _cash(random: Random) -> AddressedCommand:
    """Return a command for a purse."""
    amount = random.randint(1, _PURSE_CENTS_MAX)
    kinds: list[AddressedCommand] = [
        (Account.open, _purse(random), Open(initial=amount - 1)),
        (Account.deposit, _purse(random), Deposit(amount=amount)),
        (Account.withdraw, _purse(random), Withdraw(amount=amount)),
        (Account.close, _purse(random), Close()),
    ]
    return random.choice(kinds)


def invariant(outcome: Outcome) -> None:
    """Raise AssertionError if the bank's audit fails.

    The simulator causes dead letters and parked keys on purpose. Their commands were not applied, so that the sums
    cannot be compared with the commands that were sent. The simulator itself checks the promises of the runtime in
    every run, and decides each command again. The tables agree with each other and with the accounts, whatever failed.
    """
    balances = {row["account"]: row["balance"] for row in outcome.rows(Balances)}
    lines = Counter[str]()
    for line in outcome.rows(Statement):
        lines[line["account"]] += line["amount"]
    assert balances == lines, f"Balances has {balances}, the lines of Statement make {dict(lines)}"
    for key in ("s-a0", "s-purse0"):
        account = outcome.state(Account, key)
        held = 0 if account is None else account.balance
        assert balances.get(key, 0) == held, f"Balances has {balances.get(key)} of {key}, which holds {held}"
    if outcome.lossless:
        for check in audit(outcome.reader, outcome.system, decides=False):
            assert check.ok or check.name == LEFT, f"{check.name}: {check.detail}"
