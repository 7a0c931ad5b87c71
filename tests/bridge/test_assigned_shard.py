"""The phases of an assigned shard: a legal change leads where the table says, and every other one raises."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from repertory.bridge.assigned_shard import DOWN, SHARD_PHASE_TABLE, AssignedShard, ShardChange, ShardPhase
from repertory.bridge.log.record import TopicPartition

P, C = ShardPhase, ShardChange

#: The way to each phase.
WAYS: dict[ShardPhase, list[ShardChange]] = {
    P.STOPPED: [],
    P.ABORTED: [C.CLAIM, C.ABORT],
    P.CLAIMING: [C.CLAIM],
    P.RECOVERING: [C.CLAIM, C.CLAIMED],
    P.RUNNING: [C.CLAIM, C.CLAIMED, C.RECOVERED],
    P.COMMITTING: [C.CLAIM, C.CLAIMED, C.RECOVERED, C.SEND],
}
PAIRS = [(phase, change) for change in ShardChange for phase in ShardPhase]
LEGAL = [(phase, change) for phase, change in PAIRS if phase in SHARD_PHASE_TABLE[change]]
ILLEGAL = [pair for pair in PAIRS if pair not in LEGAL]


@pytest.fixture(autouse=True)
def _no_recovery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recovery reads what a claim found; here only the phases matter."""
    monkeypatch.setattr("repertory.bridge.assigned_shard.Recovery", Mock())


def make(assigned: AssignedShard, change: ShardChange) -> None:
    """Let one change happen, by the method that stands for it."""
    value: Any = Mock()
    match change:
        case C.CLAIM:
            assigned.claim(10.0, 1)
        case C.CLAIMED:
            assigned.begin_recovery(value)
        case C.RECOVERED:
            assigned.start(value)
        case C.SEND:
            assigned.send(value)
        case C.COMMITTED:
            assigned.committed()
        case C.ABORT:
            assigned.abort(10.0, routine=False)
        case C.STOP:
            assigned.stop()


def in_phase(phase: ShardPhase) -> AssignedShard:
    """Return a shard that went to a phase by legal changes."""
    assigned = AssignedShard(TopicPartition("t.account.commands", 0), Mock(id="account/0"), Mock())
    for change in WAYS[phase]:
        make(assigned, change)
    assert assigned.phase is phase
    return assigned


@pytest.mark.parametrize(("phase", "change"), LEGAL)
def test_a_legal_change_leads_where_the_table_says(phase: ShardPhase, change: ShardChange) -> None:
    """And what is in memory fits the phase: nothing where it is down, a recovery or a shard where it is up."""
    assigned = in_phase(phase)
    make(assigned, change)
    assert assigned.phase is SHARD_PHASE_TABLE[change][phase]
    assert (assigned.shard is not None) == (assigned.phase in (P.RUNNING, P.COMMITTING))
    assert (assigned.reclaim_s is not None) == (assigned.phase is P.ABORTED)
    if assigned.phase in DOWN:
        with pytest.raises(AssertionError):
            _ = assigned.recovery


@pytest.mark.parametrize(("phase", "change"), ILLEGAL)
def test_an_illegal_change_raises(phase: ShardPhase, change: ShardChange) -> None:
    """It is a bug of ours: the sentence names the shard, the change and the phase, and the phase stays."""
    assigned = in_phase(phase)
    with pytest.raises(AssertionError, match=f"account/0 cannot {change.value} while it is {phase.value}"):
        make(assigned, change)
    assert assigned.phase is phase


def test_every_phase_can_be_reached_and_left() -> None:
    """No phase is unreachable and none is a trap."""
    for phase in ShardPhase:
        assert any(phase in nexts.values() for nexts in SHARD_PHASE_TABLE.values())
        assert any(nexts.get(phase, phase) is not phase for nexts in SHARD_PHASE_TABLE.values())
