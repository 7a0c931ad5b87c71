"""A bank: accounts, and transfers between them. ``repertory run examples.banking:system`` runs it.

``python -m examples.banking`` runs it under load, kills its workers meanwhile, and audits what they left in the log.
"""

from examples.banking.accounts import Account
from examples.banking.transfers import Transfer
from repertory import ActorSystem, Backoff, Directive, Settings, restart

#: A window smaller than the default: what a kill leaves to replay is less, and snapshots are part of each audit.
#: And a budget for workers that are killed on purpose, which the default takes for a node that is beyond help.
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

__all__ = ["Account", "Transfer", "system"]
