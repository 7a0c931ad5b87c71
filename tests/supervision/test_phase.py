"""The table of phases is complete, and can be shown."""

import pytest

from repertory.supervision import PHASE_TABLE, ChildChange, ChildPhase, phase_table_rst


def test_every_change_has_a_row() -> None:
    """Every change is in the table."""
    assert set(PHASE_TABLE) == set(ChildChange)


@pytest.mark.parametrize("phase", ChildPhase)
def test_every_phase_can_be_reached_and_left(phase: ChildPhase) -> None:
    """No phase is unreachable and none is a trap."""
    assert any(phase in nexts.values() for nexts in PHASE_TABLE.values())
    assert any(phase in nexts for nexts in PHASE_TABLE.values())


def test_no_change_keeps_the_phase() -> None:
    """An entry is a change: what changes nothing is left out."""
    assert not [(change, phase) for change, nexts in PHASE_TABLE.items() for phase in nexts if nexts[phase] is phase]


@pytest.mark.parametrize("phase", [phase for phase in ChildPhase if phase is not ChildPhase.READY])
def test_a_child_starts_only_from_ready(phase: ChildPhase) -> None:
    """STARTING is entered from READY alone, so whatever lives was seen to go down first."""
    assert not [change for change, nexts in PHASE_TABLE.items() if nexts.get(phase) is ChildPhase.STARTING]


def test_table_as_rst() -> None:
    """The rendered table has a row per phase, which shows each entry and nothing else."""
    lines = phase_table_rst(PHASE_TABLE, ChildChange, ChildPhase).splitlines()
    assert lines[:5] == [".. list-table::", "   :header-rows: 1", "", "   * - phase", "     - change → next phase"]
    shown = {
        (phase.removeprefix("   * - "), *entry.split(" → "))
        for phase, cell in zip(lines[5::2], lines[6::2], strict=True)
        for entry in cell.removeprefix("     - ").split("; ")
    }
    entries = {
        (phase.value, change.value, after.value)
        for change, nexts in PHASE_TABLE.items()
        for phase, after in nexts.items()
    }
    assert shown == entries
