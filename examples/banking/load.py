"""The load: accounts and transfers, drawn from a seed so that every way through a transfer is walked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from examples.banking.accounts import Account, Close, Open
from examples.banking.transfers import StartTransfer, Transfer
from repertory import Command, CommandHandler

#: Whom to tell, its key, and what: as ``Client.tell_all`` takes it.
Told = tuple[CommandHandler[Any, Any, Any], str, Command]

#: Of ten accounts one is poor (transfers from it are refused) and one is closed at once (transfers to it are refunded).
_OUT_OF, _POOR, _CLOSED = 10, 8, 9
_RICH_CENTS, _POOR_CENTS, _TRANSFER_CENTS_MAX = 100_000, 100, 10_000
#: This share of the transfers is sent twice, as a client would that did not hear whether the first came through.
_REPEATED = 0.01


class Load:
    """What one run sends. ``run`` begins every key, so that runs on one log do not meet."""

    def __init__(self, run: str, *, accounts: int, transfers: int, seed: int) -> None:
        self._run = run
        self._accounts = accounts
        self._transfers = transfers
        self._random = Random(seed)  # noqa: S311  reproducible on purpose

    def openings(self) -> Iterator[Told]:
        """Yield the commands that open the accounts, and close some of them."""
        for number in range(self._accounts):
            kind = number % _OUT_OF
            cents = _POOR_CENTS if kind == _POOR else _RICH_CENTS
            yield Account.open, self._account(number), Open(initial=self._random.randint(0, cents))
            if kind == _CLOSED:
                yield Account.close, self._account(number), Close()

    def transfers(self) -> Iterator[Told]:
        """Yield the commands that start the transfers, some of them twice."""
        for number in range(self._transfers):
            start = StartTransfer(
                source=self._account(self._random.randrange(self._accounts)),
                target=self._account(self._random.randrange(self._accounts)),
                amount=self._random.randint(1, _TRANSFER_CENTS_MAX),
            )
            for _ in range(2 if self._random.random() < _REPEATED else 1):
                yield Transfer.start, f"{self._run}-t{number}", start

    def _account(self, number: int) -> str:
        return f"{self._run}-a{number}"
