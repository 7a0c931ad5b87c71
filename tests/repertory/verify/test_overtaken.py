"""``verify`` and requests that overtake what is stashed: a whole log passes, and each damage is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from repertory.actors.entity import resolved
from repertory.actors.headers import CAUSE, EFFECT, REJECTED
from repertory.actors.saga.messages import CancelSaga, TooLate
from repertory.actors.wire import encode, written_name
from repertory.bridge.log.record import Record
from repertory.simulation.choices import FromTape
from repertory.simulation.cluster import SimulatedCluster
from repertory.verify import VerificationReport, verify
from tests.apps import sagas
from tests.apps.purses import Declined, Fill, Purse, pay
from tests.apps.sagas import Begin, Deal, Go, Op
from tests.repertory.verify.test_timers import Damage, Damaged, lost

CANCEL = resolved(Deal).handlers[CancelSaga]


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimulatedCluster]:
    """A log with a saga whose bug parks it, a signal behind that, and a cancel that overtakes both; and a payment.

    The third command of the clients is asked, and so is the sixth: the signal, which comes too late.
    """
    commands: list[Any] = [
        (Purse.fill, "p0", Fill(amount=9)),
        (Deal.deal, "d", Begin(ops=(Op("take", "p0", 4), Op("bug"), Op("take", "p0", 4)))),
        (Purse.fill, "p1", Fill(amount=9)),
        (Purse.fill, "p1", Fill(amount=9)),
        (Deal.deal, "pays", Begin(ops=(Op("pay", amount=1),))),
    ]
    made = SimulatedCluster(sagas.system, commands, FromTape({}), (), effects={pay: lambda _do: Declined()})
    made.run()
    for command in ((Deal.go, "d", Go(number=1)), (CANCEL, "d", CancelSaga(reason="enough"))):
        made.clients.add(command)
        made.clients.send(1)
        for _ in range(60):
            made.clock.advance(0.1)
            made.turn_one()
    yield made
    made.close()


def report(cluster: SimulatedCluster, damage: Damage) -> VerificationReport:
    """Verify the log with damage."""
    reader: Any = Damaged(cluster, damage)  # type: ignore[arg-type]
    return verify(reader, cluster.system)


def failed(cluster: SimulatedCluster, damage: Damage) -> dict[str, str]:
    """Return the checks that fail."""
    return {check.name: check.detail for check in report(cluster, damage).checks if not check.ok}


def named(kind: type) -> Any:
    """Return a test for a record of a message."""
    return lambda record: written_name(record.value or b"") == kind.wire.name  # type: ignore[attr-defined]


def test_a_whole_log_passes(cluster: SimulatedCluster) -> None:
    """The events of what was overtaken are behind those of the cancel, and the signal was decided after it."""
    assert failed(cluster, lambda record: iter((record,))) == {}
    events = cluster.reader.read("sagas.deal.events", 0)
    offsets = [
        int((each.header(CAUSE) or b"").split(b"/")[2])
        for each in events
        if each.key == b"d" and written_name(each.value or b"") != "repertory.stopped"
    ]
    assert offsets != sorted(offsets)


def test_a_command_that_must_wait_may_not_overtake(cluster: SimulatedCluster) -> None:
    """As if the cancel had been a signal."""

    def damage(record: Record) -> Iterator[Record]:
        if named(CancelSaga)(record):
            record = msgspec.structs.replace(record, value=encode(Go(number=2)))
        yield record

    assert "but follows an event of" in failed(cluster, damage)["order"]


def test_an_answer_that_no_state_explains_is_named(cluster: SimulatedCluster) -> None:
    """The signal was decided after the cancel, which says something else; or it was not answered at all."""

    def damage(record: Record) -> Iterator[Record]:
        if named(TooLate)(record):
            record = msgspec.structs.replace(record, value=encode(TooLate(reason="somebody said so")))
        yield record

    assert "differs from output" in failed(cluster, damage)["decisions"]
    assert "has no records, but deciding it again writes to" in failed(cluster, lost(named(TooLate)))["completeness"]


def test_a_result_that_hides_that_it_is_a_rejection_is_named(cluster: SimulatedCluster) -> None:
    """The saga would take the payment for made, and undo it."""

    def damage(record: Record) -> Iterator[Record]:
        if record.header(EFFECT) is not None:
            headers = tuple(header for header in record.headers if header[0] != REJECTED)
            record = msgspec.structs.replace(record, headers=headers)
        yield record

    assert "tells its saga that the step was applied" in failed(cluster, damage)["later"]
