"""``TestKit`` and timers: its clock moves when it is told to."""

from __future__ import annotations

import pytest

from repertory import Cancel, ContractViolation, Schedule, TestKit
from tests.actors.shard.test_timers import Clock, End, Later, Ring, Rung, Set, Unset


def test_timers_are_shown_and_fire_as_time_passes() -> None:
    """Each at its time, in their order; nobody asks for them, and the state follows."""
    kit = TestKit(Clock(), timestamp_ms=1_700_000_000_000)
    outcome = kit.run(Set(name="a", at=10))
    assert outcome.later == (Schedule("a", Clock.ring, Ring(name="a"), 1_700_000_010_000),)
    kit.run(Set(name="b", at=5, every_s=4))
    assert kit.advance(4.9) == []
    outcomes = kit.advance(10.1)
    rung = [event for each in outcomes for event in each.events if isinstance(event, Rung)]
    assert [event.name for event in rung] == ["b", "b", "a", "b"]
    assert [event.due_ms for event in rung] == [1_700_000_000_000 + 1_000 * s for s in (5, 9, 10, 13)]
    assert all(each.reply is None for each in outcomes)
    assert kit.state == Clock(rung=("b", "b", "a", "b"))


def test_what_is_cancelled_does_not_fire() -> None:
    """Nor what belongs to a life that has ended. A delayed message is shown."""
    kit = TestKit(Clock(), timestamp_ms=1_700_000_000_000)
    kit.run(Set(name="a", at=10))
    assert kit.run(Unset(name="a")).later == (Cancel("a"),)
    kit.run(Set(name="b", at=10))
    (told,) = kit.run(Later(key="other", after_s=3)).later
    assert getattr(told, "due_ms", 0) == 1_700_000_003_000
    kit.run(End())
    assert kit.advance(100) == []


def test_a_timer_whose_command_fails_is_settled() -> None:
    """What its handler raises is raised, the clock stands at its time, and the next timers fire."""
    kit = TestKit(Clock(), timestamp_ms=1_700_000_000_000)
    kit.run(Set(name="a", at=10, number=913))
    kit.run(Set(name="b", at=20))
    with pytest.raises(ValueError, match="unlucky"):
        kit.advance(100)
    (outcome,) = kit.advance(10)
    assert [event.name for event in outcome.events if isinstance(event, Rung)] == ["b"]
    with pytest.raises(ContractViolation, match="schedules a timer for an entity that stops"):
        kit.run(End(sets=True))
