"""The benchmark of projections, in its short form. No time is asserted."""

from __future__ import annotations

from pathlib import Path

from benchmarks import projections


def test_a_journal_is_projected_and_so_is_the_bare_loop(tmp_path: Path) -> None:
    """All events are in the table: the benchmark checks it."""
    ours, bare = projections.measure(2_500, f"sqlite:///{tmp_path / 'p.db'}", f"sqlite:{tmp_path / 'log.db'}")
    assert ours > 0
    assert bare > 0
