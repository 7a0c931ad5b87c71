"""``verify`` and effects: a whole log passes, and each damage to what was performed is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from repertory import Undelivered
from repertory.actors import effect as effects_of_this_build
from repertory.actors.headers import EFFECT
from repertory.actors.shard.changelog import encode_changelog_record
from repertory.actors.wire import encode
from repertory.bridge.changelog_codec import decode_effect
from repertory.bridge.log.record import Record
from repertory.simulation.choices import FromTape
from repertory.simulation.cluster import SimulatedCluster
from repertory.verify import VerificationReport, verify
from tests.apps import outside
from tests.apps.outside import Buy, Cart, Charge, Charged, charge, write
from tests.repertory.verify.test_timers import Damage, Damaged, doubled, lost


def fake(do: Charge) -> Charged:
    """Answer the first, and never another one."""
    if do.amount:
        raise OSError("no answer")
    return Charged(receipt="r")


@pytest.fixture(scope="module")
def cluster() -> Iterator[SimulatedCluster]:
    """A log with an effect that has a result, one that is parked, and one that returned nothing."""
    commands = [(Cart.buy, "a", Buy(times=2, about="rent")), (Cart.buy, "b", Buy(times=0, writes=1))]
    made = SimulatedCluster(
        outside.system, commands, FromTape({}), (), effects={charge: fake, write: lambda _do: None}
    )  # fmt: skip
    made.run()
    for _ in range(200):
        made.clock.advance(1.0)
        made.turn_one()
    yield made
    made.close()


def report(cluster: SimulatedCluster, damage: Damage) -> VerificationReport:
    """Verify the log with damage."""
    reader: Any = Damaged(cluster, damage)
    return verify(reader, cluster.system)


def offenders(cluster: SimulatedCluster, damage: Damage) -> str:
    """Return what the check finds."""
    (check,) = [check for check in report(cluster, damage).checks if check.name == "later"]
    assert not check.ok
    return check.detail


def result(record: Record) -> bool:
    """Tell whether a record brings a result."""
    return record.header(EFFECT) is not None


def altered(**changes: Any) -> Damage:
    """Return a damage: the result has other headers, or another value."""
    value = changes.pop("value", None)

    def damage(record: Record) -> Iterator[Record]:
        if result(record):
            headers = tuple((name, changes.get(name.replace("-", "_"), each)) for name, each in record.headers)
            record = msgspec.structs.replace(record, headers=headers, value=value or record.value)
        yield record

    return damage


def open_one(record: Record) -> bool:
    """Tell whether it is a record of the effect that is parked."""
    return (record.key or b"") == b"\0effect/0/1"


def test_a_whole_log_passes(cluster: SimulatedCluster) -> None:
    """The check has looked at all of them, also at those that have returned nothing."""
    whole = report(cluster, lambda record: iter((record,)))
    assert whole.ok, whole
    (check,) = [check for check in whole.checks if check.name == "later"]
    assert check.looked_at == 4
    assert not check.unverifiable


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (doubled(result), "is a second result of one effect"),
        (altered(because=b"outside.cart.commands/0/0/7"), "is the result of an effect that command 0 has not perf"),
        (altered(effect=b"outside.write"), "is not the result of what command 0 has performed"),
        (altered(about=b"food"), "is not the result of what command 0 has performed"),
        (altered(value=encode(Buy())), "is a Buy, which outside.charge does not answer"),
        (lost(open_one), "is missing: the effect has no result"),
        (
            lost(lambda record: record.key == b"\0effect/0/0" and record.value is None),
            "is not open: its result is in the log",
        ),
    ],
    ids=["second", "not performed", "other effect", "other about", "other type", "lost", "kept"],
)
def test_each_damage_is_named(cluster: SimulatedCluster, damage: Damage, sentence: str) -> None:
    """With its place."""
    assert sentence in offenders(cluster, damage)


def test_another_request_is_named(cluster: SimulatedCluster) -> None:
    """The record of an open effect asks for something else than its command."""

    def damage(record: Record) -> Iterator[Record]:
        if open_one(record) and record.value is not None:
            found = decode_effect(record.value)
            other = encode_changelog_record(msgspec.structs.replace(found, request=encode(Charge(amount=9))))
            record = msgspec.structs.replace(record, value=other)
        yield record

    assert "and should be EffectRecord" in offenders(cluster, damage)


def test_undelivered_is_a_result(cluster: SimulatedCluster) -> None:
    """An operator has dropped it; what the world has answered is taken as given."""
    found = report(cluster, altered(value=encode(Undelivered(reason="dropped"))))
    (check,) = [check for check in found.checks if check.name == "later"]
    assert check.ok, check


def test_what_this_build_does_not_have_is_not_verified(
    cluster: SimulatedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a result is of the right type cannot be said."""
    monkeypatch.setattr(effects_of_this_build, "_effects", {})
    found = report(cluster, altered(value=encode(Buy())))
    (check,) = [check for check in found.checks if check.name == "later"]
    assert check.ok
    assert check.unverifiable == 1
