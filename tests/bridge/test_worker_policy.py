"""A node's policy for its workers: what no restart can mend ends the node."""

from __future__ import annotations

import pytest

from repertory import Directive, restart
from repertory.bridge.log.errors import (
    InvalidSetting,
    LogUnavailable,
    SlotTaken,
    TopicMismatch,
)
from repertory.bridge.worker import worker_policy


@pytest.mark.parametrize("error", [SlotTaken, TopicMismatch, InvalidSetting])
def test_what_no_restart_mends_escalates(error: type[Exception]) -> None:
    """Whatever the policy says: a worker whose slot is taken would compete with the other for ever."""
    policy = restart(on={error: Directive.RESTART, Exception: Directive.RESUME})
    assert worker_policy(policy).directive_for(error) is Directive.ESCALATE


def test_the_rest_is_as_the_policy_says() -> None:
    """Other errors keep their directives, and the budget is that of the policy."""
    policy = worker_policy(restart(max_restarts=7, on={ValueError: Directive.STOP}))
    assert policy.directive_for(ValueError) is Directive.STOP
    assert policy.directive_for(LogUnavailable) is Directive.RESTART
    assert policy.max_restarts == 7
