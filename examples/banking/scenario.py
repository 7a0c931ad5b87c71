"""The bank in the simulator: its workload, and its audit as the invariant. See ``repertory simulate``."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from examples.banking.audit import LEFT, audit
from examples.banking.load import AddressedCommand, Load
from repertory.simulation import Outcome

#: A transfer makes about five commands in the log.
_ACCOUNTS, _TRANSFERS = 12, 42


def commands(random: Random) -> Iterator[AddressedCommand]:
    """Yield the commands of one run: open accounts, close some, and transfer money between them."""
    load = Load("s", accounts=_ACCOUNTS, transfers=_TRANSFERS, seed=random.randrange(1 << 30))
    yield from load.openings()
    yield from load.transfers()


def invariant(outcome: Outcome) -> None:
    """Raise AssertionError if the bank's audit fails.

    The simulator causes dead letters and parked keys on purpose. Their commands were not applied, so that the sums
    cannot be compared with the commands that were sent. The simulator itself checks the promises of the runtime in
    every run, and decides each command again.
    """
    if outcome.lossless:
        for check in audit(outcome.reader, outcome.system, decides=False):
            assert check.ok or check.name == LEFT, f"{check.name}: {check.detail}"
