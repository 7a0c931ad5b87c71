"""A bank: accounts, and transfers between them. ``repertory run examples.banking:system`` runs it.

``python -m examples.banking`` runs it under load, kills its workers meanwhile, and audits the log.
"""

from examples.banking.accounts import Account
from examples.banking.projections import Balances, Statement
from examples.banking.transfers import Transfer
from repertory import ActorSystem, Backoff, Directive, Settings, restart

#: The snapshot window is smaller than the default, so that less is replayed after a kill and every audit covers
#: snapshots. The restart budget is larger, because the workers are killed on purpose.
system = ActorSystem(
    "bank",
    settings=Settings(snapshot_window_records=1_000),
    workers=restart(max_restarts=1_000, within_s=60, backoff=Backoff(first_s=0.02, max_s=1)),
)
system.host(
    Account,
    partitions=8,
    supervise=restart(
        max_restarts=3, within_s=60, backoff=Backoff(first_s=0.05, max_s=5), on={ValueError: Directive.STOP}
    ),
)
system.host(Transfer, partitions=8)
system.project(Balances, Account)
system.project(Statement, Account)

__all__ = ["Account", "Balances", "Statement", "Transfer", "system"]
