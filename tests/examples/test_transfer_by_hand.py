"""The transfer that is written by hand: every path through it, without a log; and the program."""

from __future__ import annotations

import pytest

from examples.banking.accounts import (
    AccountClosed,
    Deposit,
    Deposited,
    InsufficientFunds,
    Refund,
    Refunded,
    Withdraw,
    Withdrawn,
)
from examples.transfer_by_hand import (
    NotPossible,
    RefundRetried,
    RetryRefund,
    Stage,
    StartTransfer,
    Transfer,
    TransferCompleted,
    TransferDebited,
    TransferRefunded,
    TransferRefused,
    TransferStarted,
    TransferStranded,
    TransferUncredited,
)
from repertory import Command, Message, TestKit, Undelivered
from repertory.actors.collected import Tell
from repertory.actors.wire import DecodeError
from tests.examples.test_first_examples import printed

START = StartTransfer(source="a-1", target="a-2", amount=30)


def transfer(stage: Stage = Stage.NEW) -> TestKit[Transfer]:
    if stage is Stage.NEW:
        return TestKit(Transfer(), key="t-1")
    return TestKit(Transfer(source="a-1", target="a-2", amount=30, stage=stage), key="t-1")


def asked(sent: object) -> tuple[str, str, Message, str]:
    """Return the handler, key, message and ``about`` of the only ask."""
    (ask,) = sent  # type: ignore[misc]
    assert isinstance(ask, Tell)
    assert ask.asked
    return repr(ask.handler), ask.key, ask.message, ask.about


@pytest.mark.processes
def test_it_shows_where_the_money_is() -> None:
    """It is with the target; back, as the target is closed; and where it was."""
    assert printed("transfer_by_hand") == ["completed 70", "refunded 70", "refused 70"]


def test_a_transfer_begins_with_the_source() -> None:
    """The source is asked first."""
    outcome = transfer().run(START)
    assert outcome.events == (TransferStarted(source="a-1", target="a-2", amount=30),)
    debit = ("<@command Account.withdraw>", "a-1", Withdraw(amount=30, transfer="t-1"), "debit")
    assert asked(outcome.sent) == debit
    assert outcome.state.stage is Stage.DEBIT


def test_a_debited_transfer_goes_to_the_target() -> None:
    """The transfer completes with the deposit."""
    kit = transfer(Stage.DEBIT)
    outcome = kit.run(Withdrawn(amount=30, transfer="t-1"), about="debit")
    assert outcome.events == (TransferDebited(),)
    credit = ("<@command Account.deposit>", "a-2", Deposit(amount=30, transfer="t-1"), "credit")
    assert asked(outcome.sent) == credit
    outcome = kit.run(Deposited(amount=30, transfer="t-1"), about="credit")
    assert (outcome.events, outcome.sent) == ((TransferCompleted(),), ())
    assert outcome.state.stage is Stage.COMPLETED


def test_a_source_without_funds_refuses_the_transfer() -> None:
    """No money has moved, and nothing is asked."""
    outcome = transfer(Stage.DEBIT).run(InsufficientFunds(balance=7), about="debit")
    assert (outcome.events, outcome.sent) == ((TransferRefused(reason="the source holds 7 cents"),), ())
    assert outcome.state.stage is Stage.REFUSED


def test_a_closed_target_sends_the_money_back() -> None:
    """The transfer ends when the source has the money."""
    kit = transfer(Stage.CREDIT)
    outcome = kit.run(AccountClosed(), about="credit")
    assert outcome.events == (TransferUncredited(reason="the target is closed"),)
    refund = ("<@command Account.refund>", "a-1", Refund(amount=30, transfer="t-1"), "refund")
    assert asked(outcome.sent) == refund
    outcome = kit.run(Refunded(amount=30, transfer="t-1"), about="refund")
    assert (outcome.events, outcome.sent) == ((TransferRefunded(),), ())
    assert outcome.state.stage is Stage.REFUNDED


def test_an_undelivered_debit_refuses() -> None:
    """The debit was not applied and never will be."""
    outcome = transfer(Stage.DEBIT).run(Undelivered(reason="parked"), about="debit")
    assert (outcome.events, outcome.sent) == ((TransferRefused(reason="parked"),), ())


def test_an_undelivered_credit_is_refunded() -> None:
    """The deposit was not applied and never will be, so the refund is safe."""
    outcome = transfer(Stage.CREDIT).run(Undelivered(reason="parked"), about="credit")
    assert outcome.events == (TransferUncredited(reason="parked"),)
    assert asked(outcome.sent)[2] == Refund(amount=30, transfer="t-1")


def test_an_undelivered_refund_waits_for_an_operator() -> None:
    """The transfer holds the money until an operator retries the refund."""
    kit = transfer(Stage.REFUND)
    outcome = kit.run(Undelivered(reason="parked"), about="refund")
    assert (outcome.events, outcome.sent) == ((TransferStranded(reason="parked"),), ())
    assert outcome.state.stage is Stage.STRANDED
    outcome = kit.run(RetryRefund())
    assert outcome.events == (RefundRetried(),)
    assert asked(outcome.sent)[1:3] == ("a-1", Refund(amount=30, transfer="t-1"))
    assert kit.run(Refunded(amount=30, transfer="t-1"), about="refund").state.stage is Stage.REFUNDED


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.NEW])
def test_a_second_start_moves_nothing(stage: Stage) -> None:
    """A second start is rejected at every stage, also with other accounts."""
    outcome = transfer(stage).run(StartTransfer(source="a-9", target="a-8", amount=1))
    assert (outcome.reply, outcome.events, outcome.sent) == (NotPossible(stage=stage), (), ())


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.STRANDED])
def test_only_a_stranded_refund_is_retried(stage: Stage) -> None:
    """Otherwise the money could be refunded twice."""
    outcome = transfer(stage).run(RetryRefund())
    assert (outcome.reply, outcome.events, outcome.sent) == (NotPossible(stage=stage), (), ())


@pytest.mark.parametrize(
    "start",
    [
        StartTransfer(source="", target="a-2", amount=1),
        StartTransfer(source="a-1", target="a\0", amount=1),
        StartTransfer(source="a-1", target="a-2\n", amount=1),
        StartTransfer(source="a-1", target="a" * 65, amount=1),
        StartTransfer(source="a-1", target="a-2", amount=0),
    ],
)
def test_an_invalid_transfer_cannot_be_decoded(start: Command) -> None:
    """A transfer with an invalid account or amount is refused before any money moves."""
    with pytest.raises(DecodeError):
        transfer().run(start)
