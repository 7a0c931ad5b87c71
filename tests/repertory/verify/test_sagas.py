"""``verify`` and sagas: a whole log passes, with answers that were rejected and asks that were revoked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import msgspec
import pytest

from examples.banking.accounts import Account, Deposit, Open
from repertory import ActorSystem, Directive, Done, Running, commands_topic, restart
from repertory.actors.control import DropParked
from repertory.actors.entity import resolved
from repertory.actors.headers import REJECTED
from repertory.actors.saga.messages import CancelSaga
from repertory.actors.wire import encode
from repertory.bridge.log.record import Output, Record
from repertory.verify import VerificationReport, verify
from tests.apps.sagabank import Start, Transfer

SYSTEM = ActorSystem("saga-bank")
SYSTEM.host(Account, partitions=1, supervise=restart(on={ZeroDivisionError: Directive.STOP}))
SYSTEM.host(Transfer, partitions=1)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A log with transfers that are done, rejected, cancelled while they wait, and whose step is dropped."""
    with SYSTEM.start() as made, pytest.MonkeyPatch.context() as patch:
        for name in ("ada", "bob"):
            made.client.tell(Account.open, name, Open(initial=100))
        start(made, done="bob", closed="eve")
        patch.setattr(resolved(Account).handlers[Deposit], "function", lambda *_: 1 // 0)
        start(made, dropped="bob", cancelled="bob")
        handler: Any = resolved(Transfer).handlers[CancelSaga]
        assert made.client.ask(handler, "cancelled", CancelSaga(reason="enough"), timeout_s=60) == Done()
        (parked,) = made.parked()
        with closing(made._backend.appender()) as appender:
            drop = encode(DropParked(offset=parked.offset, reason="lost"))
            appender.append([Output(commands_topic(SYSTEM.name, parked.entity), 0, parked.key.encode(), drop)])
        made.settle()
        assert len(list(made.dead_letters())) == 2
        patch.undo()
        start(made, poor="bob", amount=1_000)
        yield made


def start(running: Running, *, amount: int = 10, **targets: str) -> None:
    """Start transfers of Ada's to some targets, by their keys."""
    for key, target in targets.items():
        running.client.tell(Transfer.transfer, key, Start(source="ada", target=target, amount=amount))
    running.settle()


class Damaged:
    """A reader of a log without the headers by which a saga knows that nothing was applied."""

    def __init__(self, running: Running) -> None:
        self._reader = running.reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """Yield the records."""
        for record in self._reader.read(topic, partition, from_offset):
            headers = tuple(header for header in record.headers if header[0] != REJECTED)
            yield msgspec.structs.replace(record, headers=headers)


def failed(report: VerificationReport) -> dict[str, str]:
    """Return the checks that fail."""
    return {check.name: check.detail for check in report.checks if not check.ok}


def test_a_whole_log_passes(running: Running) -> None:
    """Each answer, revoked ask and dead letter is as it would be decided again."""
    balances = {name: account.balance for name in ("ada", "bob") if (account := running.state(Account, name))}
    assert balances == {"ada": 90, "bob": 110}
    assert failed(verify(running.reader, SYSTEM)) == {}


def test_an_answer_that_hides_that_it_is_a_rejection_is_named(running: Running) -> None:
    """The saga would take the step for applied, and undo it."""
    reader: Any = Damaged(running)
    assert "differs from output" in failed(verify(reader, SYSTEM))["decisions"]
