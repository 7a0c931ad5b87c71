"""The load: accounts and transfers, drawn from a seed, that take every path through a transfer."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

from examples.banking.accounts import Account, Close, Open
from examples.banking.transfers import StartTransfer, Transfer
from repertory import Command, CommandHandler

#: A handler, a key and a command, as ``Client.tell_all`` takes them.
AddressedCommand = tuple[CommandHandler[Any, Any, Any], str, Command]

#: Of ten accounts, one is poor (transfers from it are refused) and one is closed (transfers to it are refunded).
_OUT_OF, _POOR, _CLOSED = 10, 8, 9
_RICH_CENTS, _POOR_CENTS, _TRANSFER_CENTS_MAX = 100_000, 100, 10_000
#: The share of transfers that are sent twice, as by a client that did not learn the outcome of the first send.
_REPEATED = 0.01


class Load:
    """The commands of one run. ``run`` is the prefix of all keys, so that several runs can share a log."""

    def __init__(self, run: str, *, accounts: int, transfers: int, seed: int) -> None:
        self._run = run
        self._accounts = accounts
        self._transfers = transfers
        self._random = Random(seed)  # noqa: S311  reproducible on purpose

    def openings(self) -> Iterator[AddressedCommand]:
        """Yield the commands that open the accounts and close some of them."""
        for number in range(self._accounts):
            kind = number % _OUT_OF
            cents = _POOR_CENTS if kind == _POOR else _RICH_CENTS
            yield Account.open, self._account(number), Open(initial=self._random.randint(0, cents))
            if kind == _CLOSED:
                yield Account.close, self._account(number), Close()

    def transfers(self) -> Iterator[AddressedCommand]:
        """Yield the commands that start the transfers, some of them twice."""
        for number in range(self._transfers):
            start = StartTransfer(
                source=self._account(self._random.randrange(self._accounts)),
                target=self._account(self._random.randrange(self._accounts)),
                amount=self._random.randint(1, _TRANSFER_CENTS_MAX),
            )
            for _ in range(2 if self._random.random() < _REPEATED else 1):
                yield Transfer.transfer, f"{self._run}-t{number}", start

    def _account(self, number: int) -> str:
        return f"{self._run}-a{number}"
