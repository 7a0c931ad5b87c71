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
    """The rendered table has a column per change and a row per phase, and shows each entry."""
    lines = phase_table_rst().splitlines()
    assert lines[:3] == [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1"]
    rows: list[list[str]] = []
    for line in lines[4:]:
        if line.startswith("   * - "):
            rows.append([])
        rows[-1].append(line[7:])
    assert rows[0] == ["phase", *(change.value for change in ChildChange)]
    shown = {(row[0], column): cell for row in rows[1:] for column, cell in zip(rows[0], row, strict=True)}
    for phase in ChildPhase:
        for change in ChildChange:
            after = PHASE_TABLE[change].get(phase)
            assert shown[phase.value, change.value] == (after.value if after else "")
