"""Restart intensity and backoff."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision import Backoff, add_restart, exhausted

DRAWS = st.floats(0, 1, exclude_max=True)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 10), st.integers(0, 5))
def test_window_counts_as_otp_does(gaps: list[int], within_s: int, max_restarts: int) -> None:
    """A restart is one too many exactly if, with itself, more than the limit lie within the last period."""
    instants: list[float] = []
    history: tuple[float, ...] = ()
    now_s = 0.0
    for gap in gaps:
        now_s += gap
        instants.append(now_s)
        history = add_restart(history, now_s, within_s)
        recent = sum(1 for instant in instants if now_s - instant <= within_s)
        assert exhausted(history, max_restarts) == (recent > max_restarts)


def test_window_includes_its_edge_and_forgets_beyond() -> None:
    """A restart exactly one period ago still counts, an older one is forgotten."""
    assert add_restart((0.0, 5.0), 10.0, 10.0) == (0.0, 5.0, 10.0)
    assert add_restart((0.0, 5.0), 10.5, 10.0) == (5.0, 10.5)


def test_no_restart_is_allowed_with_a_limit_of_zero() -> None:
    """With max_restarts=0 the first failure is one too many."""
    assert exhausted((1.0,), 0)
    assert not exhausted((1.0,), 1)


def test_delays_double_up_to_the_longest() -> None:
    """Without jitter the delays are first_s, then factor times more each time, then max_s."""
    backoff = Backoff(first_s=0.05, max_s=0.5)
    assert [backoff.delay_s(attempt, 0.0) for attempt in range(1, 7)] == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


def test_jitter_adds_its_share() -> None:
    """The draw adds up to `jitter` times the delay, after the limit was applied."""
    assert Backoff(first_s=1, max_s=1, jitter=0.5).delay_s(9, 0.5) == 1.25


@given(st.integers(1, 10**400), DRAWS, st.floats(0, 1e308), st.floats(1, 1e308), st.floats(0, 1))
def test_delay_is_bounded_for_any_attempt(
    attempt: int, draw: float, first_s: float, factor: float, jitter: float
) -> None:
    """However often it failed, a child waits at least first_s and at most max_s and its jitter."""
    backoff = Backoff(first_s=min(first_s, 5.0), factor=factor, jitter=jitter)
    assert backoff.first_s <= backoff.delay_s(attempt, draw) <= 5.0 * (1 + jitter)


@given(st.integers(1, 3_000), DRAWS)
def test_delay_never_shrinks_with_more_attempts(attempt: int, draw: float) -> None:
    """A further failure never makes the delay shorter."""
    assert Backoff().delay_s(attempt + 1, draw) >= Backoff().delay_s(attempt, draw)


def test_a_first_delay_of_zero_stays_zero() -> None:
    """first_s=0 means no waiting at all, however often it failed."""
    assert {Backoff(first_s=0).delay_s(attempt, 0.9) for attempt in (1, 2, 10_000)} == {0.0}


def test_quiet_begins_a_new_streak() -> None:
    """The count begins again once reset_after_s passed since the last failure, and not before."""
    backoff = Backoff(reset_after_s=60)
    assert backoff.next_attempt(0, None, 100.0) == 1
    assert backoff.next_attempt(4, 100.0, 159.9) == 5
    assert backoff.next_attempt(4, 100.0, 160.0) == 1


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"first_s": -1}, "first_s must be 0 or more"),
        ({"factor": 0.5}, "factor must be 1 or more"),
        ({"first_s": 10}, r"max_s \(5.0\) must not be below first_s \(10\)"),
        ({"jitter": 1.1}, "jitter must be from 0 to 1"),
        ({"jitter": -0.1}, "jitter must be from 0 to 1"),
        ({"max_s": 60, "reset_after_s": 60}, "reset_after_s .* must exceed the longest delay"),
        ({"max_s": math.inf}, "max_s must be a finite number"),
        ({"first_s": math.nan}, "first_s must be a finite number"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, float], sentence: str) -> None:
    """A backoff that makes no sense is refused with a sentence that names the setting."""
    with pytest.raises(ValueError, match=sentence):
        Backoff(**settings)


@pytest.mark.parametrize(("attempt", "draw"), [(0, 0.0), (1, 1.0), (1, -0.1)])
def test_attempts_and_draws_out_of_range_are_our_bug(attempt: int, draw: float) -> None:
    """Attempts count from 1 and draws lie in [0, 1)."""
    with pytest.raises(AssertionError):
        Backoff().delay_s(attempt, draw)
