"""The bank of ``examples.banking`` with few partitions and without projections, for tests."""

from __future__ import annotations

from examples.banking.accounts import Account
from examples.banking.transfers import StartTransfer as Start
from examples.banking.transfers import Transfer, Transferred
from repertory import ActorSystem

__all__ = ["Account", "Start", "Transfer", "Transferred", "system"]

system = ActorSystem("saga-bank")
system.host(Account, partitions=2)
system.host(Transfer, partitions=2)
