"""The benchmark of sagas, in its short form. No time is asserted."""

from __future__ import annotations

import pytest

from benchmarks import sagas
from repertory import Entity


@pytest.mark.parametrize("kind", [sagas.Transfer, sagas.ByHand])
def test_each_transfer_is_carried_through(kind: type[Entity]) -> None:
    """On the pure path; the purses have what they had."""
    assert sagas.measure(kind, sagas.BATCH) > 0


def test_long_sagas_and_many_open_ones() -> None:
    """All steps are taken, and all are restored."""
    assert sagas.walk(20, 3) > 0
    assert sagas.size_of(20) > sagas.size_of(10)
    size, spent_us = sagas.many(2_000)
    assert size > 0
    assert spent_us > 0


def test_transfers_on_a_log() -> None:
    """Each is answered."""
    found = sagas.on_a_log("memory:", 100, 100)
    assert set(found) == {"saga", "by hand"}
