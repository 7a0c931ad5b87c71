"""How long a worker may believe that it is a member, on a clock that the test sets."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.bridge.log.kafka.lease import Lease, boottime_s

SESSION_S = 6.0


class SetClock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans(), st.floats(0, 3)), max_size=20))
def test_it_lasts_a_session_from_the_latest_evidence(steps: list[tuple[float, bool, float]]) -> None:
    """Evidence counts from when it was asked for, and older evidence that arrives late does not shorten the lease."""
    clock = SetClock()
    lease = Lease(SESSION_S, clock)
    latest_s = clock.now_s
    for wait_s, is_renewed, age_s in steps:
        clock.now_s += wait_s
        if is_renewed:
            lease.renew(clock.now_s - age_s)
            latest_s = max(latest_s, clock.now_s - age_s)
        age = clock.now_s - latest_s
        assert (lease.is_due(), lease.is_expired()) == (age > SESSION_S / 3, age > SESSION_S)


def test_it_runs_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The group does not sleep with us: the time asleep counts, which one clock of the machine tells, and no jump."""
    clocks = {time.CLOCK_BOOTTIME: 100.0, time.CLOCK_MONOTONIC: 50.0, time.CLOCK_REALTIME: 1e9}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    monkeypatch.setattr(time, "monotonic", lambda: clocks[time.CLOCK_MONOTONIC])
    monkeypatch.setattr(time, "time", lambda: clocks[time.CLOCK_REALTIME])
    lease = Lease(SESSION_S)
    clocks[time.CLOCK_REALTIME] += 86_400
    assert not lease.is_expired()
    clocks[time.CLOCK_BOOTTIME] += SESSION_S + 1
    assert lease.is_expired()


def test_its_clock_goes_on() -> None:
    """The real clock never goes back."""
    assert boottime_s() <= boottime_s()
