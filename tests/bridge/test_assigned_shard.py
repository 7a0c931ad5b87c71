"""The phases of an assigned shard: a legal change leads to the phase in the table, every other change raises."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from repertory.bridge.assigned_shard import DOWN, SHARD_PHASE_TABLE, AssignedShard, ShardChange, ShardPhase
from repertory.bridge.log.record import TopicPartition

P, C = ShardPhase, ShardChange

#: The changes that lead to each phase.
PATHS: dict[ShardPhase, list[ShardChange]] = {
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
    """Replace recoveries by mocks: only the phases matter here."""
    monkeypatch.setattr("repertory.bridge.assigned_shard.Recovery", Mock())


def make(assigned: AssignedShard, change: ShardChange) -> None:
    """Make one change, by calling its method."""
    value: Any = Mock(fired=(), handled=1, refused=())
    match change:
        case C.CLAIM:
            assigned.claim(10.0)
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
    """Return a shard that reached a phase by legal changes."""
    assigned = AssignedShard(TopicPartition("t.account.commands", 0), Mock(id="account/0"), Mock())
    for change in PATHS[phase]:
        make(assigned, change)
    assert assigned.phase is phase
    return assigned


@pytest.mark.parametrize(("phase", "change"), LEGAL)
def test_a_legal_change_leads_to_the_phase_in_the_table(phase: ShardPhase, change: ShardChange) -> None:
    """The state in memory fits the phase: nothing while the shard is down, else a recovery or a shard."""
    assigned = in_phase(phase)
    make(assigned, change)
    assert assigned.phase is SHARD_PHASE_TABLE[change][phase]
    assert (assigned.shard is not None) == (assigned.phase in (P.RUNNING, P.COMMITTING))
    assert (assigned.claim_due_s is not None) == (assigned.phase is P.ABORTED)
    if assigned.phase in DOWN:
        with pytest.raises(AssertionError):
            _ = assigned.recovery


@pytest.mark.parametrize(("phase", "change"), ILLEGAL)
def test_an_illegal_change_raises(phase: ShardPhase, change: ShardChange) -> None:
    """Such a change is a bug: the error names the shard, the change and the phase, and the phase does not change."""
    assigned = in_phase(phase)
    with pytest.raises(AssertionError, match=f"account/0 cannot {change.value} while it is {phase.value}"):
        make(assigned, change)
    assert assigned.phase is phase


def test_every_phase_can_be_reached_and_left() -> None:
    """No phase is unreachable, and none is final."""
    for phase in ShardPhase:
        assert any(phase in nexts.values() for nexts in SHARD_PHASE_TABLE.values())
        assert any(nexts.get(phase, phase) is not phase for nexts in SHARD_PHASE_TABLE.values())


def test_a_commit_ends_a_series_of_aborts() -> None:
    """The delay before the next claim grows while nothing is committed; after a commit it begins again."""
    assigned = in_phase(P.COMMITTING)
    delays_s = [assigned.abort(10.0, routine=False)]
    for _ in range(2):
        for change in PATHS[P.COMMITTING]:
            make(assigned, change)
        delays_s.append(assigned.abort(10.0, routine=False))
    assert delays_s == sorted(set(delays_s))
    for change in PATHS[P.COMMITTING]:
        make(assigned, change)
    make(assigned, C.COMMITTED)
    assert assigned.abort(10.0, routine=False) == delays_s[0]
    for change in PATHS[P.COMMITTING]:
        make(assigned, change)
    make(assigned, C.COMMITTED)
    assert assigned.abort(10.0, routine=True) == 0.0


def test_a_recovery_that_succeeds_ends_the_doubts() -> None:
    """Only contradictions in a row stop a shard for good: years may lie between two of them."""
    assigned = in_phase(P.RECOVERING)
    assert [assigned.doubt(), assigned.doubt()] == [1, 2]
    make(assigned, C.RECOVERED)
    assert assigned.doubt() == 1
