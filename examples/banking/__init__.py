"""A bank: accounts, and transfers between them. ``understudy run examples.banking:system`` runs it.

``python -m examples.banking`` runs it under load, kills its workers meanwhile, and audits what they left in the log.
"""

from bridge import ActorSystem
from examples.banking.accounts import Account
from examples.banking.transfers import Transfer
from supervision import Backoff, Directive, restart

system = ActorSystem("bank")
system.host(
    Account,
    partitions=8,
    supervise=restart(
        max_restarts=3, within_s=60, backoff=Backoff(first_s=0.05, max_s=5), on={ValueError: Directive.STOP}
    ),
)
system.host(Transfer, partitions=8)

__all__ = ["Account", "Transfer", "system"]
