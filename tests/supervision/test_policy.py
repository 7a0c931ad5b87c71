"""Which directive a failure gets, and when the budget of restarts is spent."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision import PROCESS_FAILURES, Backoff, Directive, Failure, Policy, judge, restart

RULES = {LookupError: Directive.STOP, KeyError: Directive.ESCALATE, OSError: Directive.RESUME}
STEADY = Backoff(jitter=0)


@pytest.mark.parametrize(
    ("error_type", "directive"),
    [
        (KeyError, Directive.ESCALATE),
        (IndexError, Directive.STOP),
        (LookupError, Directive.STOP),
        (FileNotFoundError, Directive.RESUME),
        (ValueError, Directive.RESTART),
    ],
)
def test_nearest_class_wins(error_type: type[Exception], directive: Directive) -> None:
    """The nearest class in the MRO decides, else the default; also when the error came as data."""
    policy = restart(on=RULES)
    assert policy.directive_for(error_type) is directive
    assert policy.directive_of(Failure.of(error_type("x"), "here")) is directive


def test_default_answers_what_no_rule_names() -> None:
    """The default answers every type that no rule names."""
    policy = restart(on=RULES, default=Directive.STOP)
    assert policy.directive_for(ValueError) is Directive.STOP
    assert policy.directive_of(Failure("Unheard", "x", "here")) is Directive.STOP


def test_a_failure_brings_its_own_directive() -> None:
    """What the child's own policy decided overrides the rules of the level above."""
    failure = Failure("KeyError", "x", "here", directive=Directive.RESTART)
    assert restart(on=RULES).directive_of(failure) is Directive.RESTART


@pytest.mark.parametrize("error_type", [KeyError, IndexError, FileNotFoundError, ValueError])
def test_what_is_gone_is_restarted_where_it_was_to_resume(error_type: type[Exception]) -> None:
    """All other answers stand, and the failure still says what it was."""
    policy, failure = restart(on=RULES), Failure.of(error_type("x"), "here")
    gone = policy.of_one_gone(failure)
    expected = policy.directive_of(failure)
    assert policy.directive_of(gone) is (Directive.RESTART if expected is Directive.RESUME else expected)
    assert (gone.error_type, gone.message, gone.where) == (failure.error_type, failure.message, "here")


@pytest.mark.parametrize("error_type", PROCESS_FAILURES)
def test_process_failures_are_never_judged(error_type: type[BaseException]) -> None:
    """MemoryError, SystemExit and KeyboardInterrupt concern the process: no judgement, no rule, subclasses included."""
    below = type("Below", (error_type,), {})
    with pytest.raises(AssertionError, match="fails the process"):
        judge(restart(), (), below, 0.0, 0.0)
    with pytest.raises(ValueError, match="fails the whole process"):
        restart(on={below: Directive.STOP})


@pytest.mark.parametrize("directive", [Directive.RESUME, Directive.STOP, Directive.ESCALATE])
def test_only_restarts_are_charged(directive: Directive) -> None:
    """A failure that is not answered by RESTART leaves the history alone and waits for nothing."""
    judgement = judge(restart(on={ValueError: directive}), (1.0,), ValueError, 2.0, 0.5)
    assert (judgement.directive, judgement.restarts) == (directive, (1.0,))
    assert (judgement.delay_s, judgement.spent) == (0.0, False)


def test_budget_is_spent_by_one_more_than_the_limit() -> None:
    """max_restarts failures within within_s are restarted, each after a longer delay; the next one finds it spent."""
    policy = restart(max_restarts=3, within_s=10, backoff=STEADY)
    restarts: tuple[float, ...] = ()
    delays = []
    for now_s in (0.0, 1.0, 2.0):
        judgement = judge(policy, restarts, ValueError, now_s, 0.0)
        assert not judgement.spent
        restarts = judgement.restarts
        delays.append(judgement.delay_s)
    assert delays == [0.05, 0.1, 0.2]
    assert judge(policy, restarts, ValueError, 10.0, 0.0).spent
    assert not judge(policy, restarts, ValueError, 10.1, 0.0).spent


def test_quiet_makes_the_delay_short_again() -> None:
    """After reset_after_s without a failure the delay is the first one again, though the window still counts it."""
    policy = restart(max_restarts=9, within_s=1000, backoff=Backoff(jitter=0, reset_after_s=60))
    assert judge(policy, (0.0, 1.0, 2.0), ValueError, 61.0, 0.0).delay_s == 0.4
    assert judge(policy, (0.0, 1.0, 2.0), ValueError, 62.0, 0.0).delay_s == 0.05


def test_caller_may_count_the_attempts() -> None:
    """A caller that counts attempts gets the delay of that attempt, whatever the history shows."""
    assert judge(restart(backoff=STEADY), (), ValueError, 0.0, 0.0, attempt=4).delay_s == 0.4


@given(st.lists(st.floats(0, 100), max_size=50), st.integers(0, 4))
def test_history_is_bounded(instants: list[float], max_restarts: int) -> None:
    """However long failures go on, the history holds no more than one over the limit, and its answer stays exact."""
    policy = restart(max_restarts=max_restarts, within_s=10)
    restarts: tuple[float, ...] = ()
    seen: list[float] = []
    for now_s in sorted(instants):
        seen.append(now_s)
        judgement = judge(policy, restarts, ValueError, now_s, 0.0)
        restarts = judgement.restarts
        assert len(restarts) <= max_restarts + 1
        assert judgement.spent == (sum(instant >= now_s - 10 for instant in seen) > max_restarts)


@pytest.mark.parametrize(
    ("settings", "error", "sentence"),
    [
        ({"max_restarts": -1}, ValueError, "max_restarts must be 0"),
        ({"max_restarts": 1.5}, TypeError, "max_restarts must be an int"),
        ({"max_restarts": True}, TypeError, "max_restarts must be an int"),
        ({"within_s": 0}, ValueError, "within_s must be a finite number above 0"),
        ({"within_s": math.inf}, ValueError, "within_s must be a finite number above 0"),
        ({"within_s": math.nan}, ValueError, "within_s must be a finite number above 0"),
        ({"backoff": 5}, TypeError, "backoff must be a Backoff"),
        ({"on": {ValueError: "stop"}}, TypeError, "'stop' is not a Directive"),
        ({"on": {"ValueError": Directive.STOP}}, TypeError, "'ValueError' is not an exception type"),
        ({"on": {int: Directive.STOP}}, TypeError, "not an exception type"),
        ({"default": "stop"}, TypeError, "default must be a Directive"),
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any], error: type[Exception], sentence: str) -> None:
    """A policy that makes no sense is refused with a sentence that names the setting, also when made directly."""
    with pytest.raises(error, match=sentence):
        restart(**settings)
    complete: dict[str, Any] = {"max_restarts": 3, "within_s": 60, "backoff": Backoff(), "on": {}} | settings
    with pytest.raises(error, match=sentence):
        Policy(**complete)


def test_a_policy_does_not_follow_later_changes_of_its_rules() -> None:
    """The rules are copied: changing the caller's dict afterwards changes nothing."""
    rules: dict[type[BaseException], Directive] = {}
    policy = restart(on=rules)
    rules[ValueError] = Directive.STOP
    assert policy.directive_for(ValueError) is Directive.RESTART
