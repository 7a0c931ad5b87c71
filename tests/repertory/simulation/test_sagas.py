"""The simulator and sagas: steps that are rejected, fail, park and time out, cancels in every gap, between crashes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from examples.banking.accounts import Account, Close, Open
from repertory import Command
from repertory.actors.control import RevokeAsk
from repertory.actors.entity import resolved
from repertory.actors.saga.inner import OWED
from repertory.actors.saga.messages import AmendUndo, CancelSaga
from repertory.simulation import FAULTS, simulate
from repertory.simulation.generate import generated
from tests.apps import sagabank, sagas
from tests.apps.saga_rules import invariant
from tests.apps.sagabank import Start, Transfer

#: Always the same, so that a failure is that of the code; ``make chaos`` runs more.
SEEDS = range(13_000, 13_000 + int(os.environ.get("REPERTORY_SAGA_SEEDS", "300")))


@pytest.mark.simulation
@pytest.mark.parametrize("seeds", [SEEDS[start : start + 100] for start in range(0, len(SEEDS), 100)])
def test_money_is_conserved_and_each_saga_ends_or_waits(seeds: range) -> None:
    """Whatever fails: nothing is held by a saga that is over; any other one is stuck for a reason, or waits."""
    totals = simulate(
        sagas.system, commands=sagas.commands, invariant=invariant, allowed_errors=sagas.allowed_errors, seeds=seeds,
        minimise=False, ids=True,
    )  # fmt: skip
    assert totals.runs == len(seeds)


def _transfers(random: Random, count: int = 60) -> Iterator[tuple[Any, str, Command]]:
    for number in range(6):
        yield Account.open, f"a{number}", Open(initial=50)
    for _ in range(count):
        source, target = (f"a{number}" for number in random.sample(range(6), 2))
        key, start = f"t{random.randrange(20)}", Start(source=source, target=target, amount=random.randrange(1, 40))
        yield random.choices(
            (
                (Transfer.transfer, key, start),
                (resolved(Transfer).handlers[CancelSaga], key, CancelSaga()),
                (Account.close, source, Close()),
                (Account.open, source, Open(initial=3)),
            ),
            weights=(8, 3, 1, 1),
        )[0]


@pytest.mark.simulation
def test_the_transfers_of_the_bank_survive_all_faults() -> None:
    """Accounts that close, sources that are poor, cancels before, between and behind the two steps."""
    totals = simulate(
        sagabank.system, commands=_transfers, seeds=range(13_200, 13_260), minimise=False, ids=True
    )  # fmt: skip
    assert set(totals.faults) == set(FAULTS)


def test_what_sagas_and_timers_send_is_not_drawn() -> None:
    """Of a saga's messages those of clients and operators are drawn, and none that only the runtime sends."""
    drawn = {type(message) for _, _, message in generated(sagas.system, commands=2_000)(Random(1))}  # noqa: S311
    assert not drawn & {*OWED, RevokeAsk}
    assert {AmendUndo, CancelSaga} <= drawn
