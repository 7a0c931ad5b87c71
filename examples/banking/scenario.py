"""The bank in the simulator: what its clients send, and that its money is all there. See ``repertory simulate``."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from examples.banking.audit import LEFT, audit
from examples.banking.load import Load, Told
from repertory.simulation import Outcome

#: Each transfer is about five commands in the log.
_ACCOUNTS, _TRANSFERS = 12, 42


def commands(random: Random) -> Iterator[Told]:
    """Yield the commands of one run: accounts are opened, some closed, and money is sent to and fro."""
    load = Load("s", accounts=_ACCOUNTS, transfers=_TRANSFERS, seed=random.randrange(1 << 30))
    yield from load.openings()
    yield from load.transfers()


def invariant(outcome: Outcome) -> None:
    """Raise AssertionError if the bank's audit finds anything wrong.

    Faults of the simulation make dead letters (what was no command) and parked keys on purpose. A command that is one
    has not happened: then the sums cannot be held against what was sent. The runtime's promises are the simulator's to
    check, whatever was lost; it also decides each command again.
    """
    if outcome.lossless:
        for check in audit(outcome.reader, outcome.system, decides=False):
            assert check.ok or check.name == LEFT, f"{check.name}: {check.detail}"
