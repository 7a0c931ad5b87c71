"""A transfer of money written by hand: what a saga replaces (``examples/banking/transfers.py`` does the same as one).

Each step is an ask, and follows the reply to the previous one. ``python -m examples.transfer_by_hand`` runs it.

::

    start ── withdraw at the source ─┬─ refused ──> REFUSED
                                     └─ withdrawn ── deposit at the target ─┬─ deposited ──> COMPLETED
                                                                            └─ refused ──┐
                                           REFUNDED <── refunded ── refund at the source ┘

Each arrow is a reply in the log, so that after a crash the transfer continues from its last commit. Money that has
left the source is held by the transfer until one of the two accounts has it; the transfer does not end before. It
cannot be cancelled, and a client is not told how it ended: each of both would be more stages.
"""

from enum import StrEnum
from typing import Self

from examples.banking.accounts import (
    Account,
    AccountClosed,
    Cents,
    Close,
    Deposit,
    Deposited,
    InsufficientFunds,
    Open,
    Refund,
    Refunded,
    Withdraw,
    Withdrawn,
)
from examples.banking.transfers import AccountNumber
from repertory import ActorSystem, Command, Context, Entity, Event, Rejection, Undelivered, command, event, reply


class Stage(StrEnum):
    """The step that a transfer is at, or how it ended."""

    NEW = "new"
    DEBIT = "debit"
    CREDIT = "credit"
    REFUND = "refund"
    STRANDED = "stranded"
    COMPLETED = "completed"
    REFUSED = "refused"
    REFUNDED = "refunded"


class StartTransfer(Command):
    """Move ``amount`` from one account to another: once, even if this command is sent several times."""

    source: AccountNumber
    target: AccountNumber
    amount: Cents


class RetryRefund(Command):
    """Retry the refund of a stranded transfer, after the cause of its failure is removed."""


class TransferStarted(Event):
    """The source was asked for the money."""

    source: str
    target: str
    amount: int


class TransferDebited(Event):
    """The money has left the source; the target was asked to accept it."""


class TransferUncredited(Event):
    """The target did not accept the money; the source was asked to take it back."""

    reason: str


class TransferStranded(Event):
    """The refund failed: the transfer holds the money until a `RetryRefund`."""

    reason: str


class RefundRetried(Event):
    """The source was asked again to take its money back."""


class TransferCompleted(Event):
    """End: the target has the money."""


class TransferRefused(Event):
    """End: the money never left the source."""

    reason: str


class TransferRefunded(Event):
    """End: the source has its money back."""


class NotPossible(Rejection):
    """The command is not possible at the current stage of the transfer."""

    stage: Stage


class Transfer(Entity):
    """One transfer; its key is the transfer's id."""

    source: str = ""
    target: str = ""
    amount: int = 0
    stage: Stage = Stage.NEW

    @command
    def start(self, cmd: StartTransfer, ctx: Context) -> TransferStarted | NotPossible:
        if self.stage is not Stage.NEW:
            return NotPossible(stage=self.stage)
        ctx.ask(Account.withdraw, cmd.source, Withdraw(amount=cmd.amount, transfer=ctx.key), about="debit")
        return TransferStarted(source=cmd.source, target=cmd.target, amount=cmd.amount)

    @reply
    def debit_done(self, evt: Withdrawn, ctx: Context) -> TransferDebited:
        ctx.ask(Account.deposit, self.target, Deposit(amount=evt.amount, transfer=ctx.key), about="credit")
        return TransferDebited()

    @reply
    def debit_refused(self, rejection: InsufficientFunds) -> TransferRefused:
        return TransferRefused(reason=f"the source holds {rejection.balance} cents")

    @reply
    def credit_done(self, _evt: Deposited) -> TransferCompleted:
        return TransferCompleted()

    @reply
    def credit_refused(self, _rejection: AccountClosed, ctx: Context) -> TransferUncredited:
        self._ask_refund(ctx)
        return TransferUncredited(reason="the target is closed")

    @reply
    def refund_done(self, _evt: Refunded) -> TransferRefunded:
        return TransferRefunded()

    @reply
    def undelivered(
        self, rejection: Undelivered, ctx: Context
    ) -> TransferRefused | TransferUncredited | TransferStranded:
        """The asked command was not applied and never will be, so the transfer can safely take its next exit."""
        match ctx.about:
            case "debit":
                return TransferRefused(reason=rejection.reason)
            case "credit":
                self._ask_refund(ctx)
                return TransferUncredited(reason=rejection.reason)
            case _:
                return TransferStranded(reason=rejection.reason)

    @command
    def retry_refund(self, _cmd: RetryRefund, ctx: Context) -> RefundRetried | NotPossible:
        if self.stage is not Stage.STRANDED:
            return NotPossible(stage=self.stage)
        self._ask_refund(ctx)
        return RefundRetried()

    def _ask_refund(self, ctx: Context) -> None:
        ctx.ask(Account.refund, self.source, Refund(amount=self.amount, transfer=ctx.key), about="refund")

    @event
    def started(self, evt: TransferStarted) -> Self:
        return self.replace(source=evt.source, target=evt.target, amount=evt.amount, stage=Stage.DEBIT)

    @event
    def debited(self, _evt: TransferDebited) -> Self:
        return self.replace(stage=Stage.CREDIT)

    @event
    def uncredited(self, _evt: TransferUncredited) -> Self:
        return self.replace(stage=Stage.REFUND)

    @event
    def stranded(self, _evt: TransferStranded) -> Self:
        return self.replace(stage=Stage.STRANDED)

    @event
    def refund_retried(self, _evt: RefundRetried) -> Self:
        return self.replace(stage=Stage.REFUND)

    @event
    def completed(self, _evt: TransferCompleted) -> Self:
        return self.replace(stage=Stage.COMPLETED)

    @event
    def refused(self, _evt: TransferRefused) -> Self:
        return self.replace(stage=Stage.REFUSED)

    @event
    def refunded(self, _evt: TransferRefunded) -> Self:
        return self.replace(stage=Stage.REFUNDED)


system = ActorSystem("bank-by-hand")
system.host(Account, partitions=2)
system.host(Transfer, partitions=2)


def main() -> None:
    """Transfer money to an open and to a closed account, and more than there is; show where it is."""
    with system.start("memory:") as running:
        client = running.client
        for name in ("ada", "bob", "eve"):
            client.tell(Account.open, name, Open(initial=100))
        client.tell(Account.close, "eve", Close())
        for number, (target, amount) in enumerate((("bob", 30), ("eve", 30), ("bob", 300)), 1):
            client.tell(Transfer.start, f"t-{number}", StartTransfer(source="ada", target=target, amount=amount))
            running.settle()
            transfer, ada = running.state(Transfer, f"t-{number}"), running.state(Account, "ada")
            print(transfer and transfer.stage, ada and ada.balance)


if __name__ == "__main__":
    main()
