"""A transfer as a saga, on the embedded log in memory: it is done, or undone."""

from __future__ import annotations

import pytest

from examples.banking.accounts import Account, AccountClosed, Close, Deposit, InsufficientFunds, Open
from repertory import AlreadyBegun, Running
from tests.apps.sagabank import Start, Transfer, Transferred, system


def _open(running: Running) -> None:
    client = running.client
    for name in ("rich", "poor", "shut"):
        client.tell(Account.open, name, Open())
    client.tell(Account.deposit, "rich", Deposit(amount=100, transfer="salary"))
    client.tell(Account.close, "shut", Close())
    running.settle()


@pytest.mark.parametrize(
    ("source", "target", "answer", "left"),
    [
        ("rich", "poor", Transferred(amount=30), 70),
        ("rich", "shut", AccountClosed(), 100),
        ("poor", "rich", InsufficientFunds(balance=0), 100),
    ],
)
def test_a_transfer_is_done_or_undone(source: str, target: str, answer: object, left: int) -> None:
    """What was withdrawn is deposited, or refunded; a rejection is answered after the refund."""
    with system.start("memory:") as running:
        _open(running)
        start = Start(source=source, target=target, amount=30)
        assert running.client.ask(Transfer.transfer, "t", start, timeout_s=10) == answer
        rich = running.state(Account, "rich")
        assert rich is not None
        assert rich.balance == left
        assert running.client.ask(Transfer.transfer, "t", start, timeout_s=10) == answer
        other = Start(source=source, target=target, amount=31)
        assert running.client.ask(Transfer.transfer, "t", other, timeout_s=10) == AlreadyBegun()
        assert not running.parked()
        assert not running.dead_letters()
