"""The benchmark of what happens later, in its short form. No time is asserted."""

from __future__ import annotations

import pytest

from benchmarks import later


@pytest.mark.parametrize("kind", later.KINDS)
def test_each_kind_is_carried_through(kind: str) -> None:
    """All timers fire, and all effects have a result."""
    assert later.measure(kind, 2_000) > 0


def test_many_timers_are_restored() -> None:
    """All of them; the memory of so few is not measurable."""
    _, spent_us = later.many(2_000)
    assert spent_us > 0
