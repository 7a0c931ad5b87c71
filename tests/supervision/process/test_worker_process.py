"""How silence is counted: an answer ends it, and time in which the listener slept is no silence."""

from __future__ import annotations

import os
from multiprocessing import current_process

from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision.process.worker_process import Silence, WorkerProcess


def test_silence_grows_until_it_is_broken() -> None:
    """Turns add up; an answer begins the count again."""
    silence = Silence(100.0, turn_s_max=2.0)
    assert silence.update(101.0) == 1.0
    assert silence.update(102.5) == 2.5
    silence.end()
    assert silence.update(103.0) == 0.5


@given(turns=st.lists(st.floats(0.0, 1_000.0), min_size=1))
def test_a_long_turn_counts_as_the_longest_that_is_meant(turns: list[float]) -> None:
    """However long we slept, one turn never exceeds its bound: nobody is silent because we did not listen."""
    silence = Silence(0.0, turn_s_max=2.0)
    now_s = 0.0
    for turn_s in turns:
        before_s = silence.total_s
        now_s += turn_s
        assert 0.0 <= silence.update(now_s) - before_s <= 2.0 + 1e-9


def test_the_earliest_deadline_counts() -> None:
    """Whoever asks for an exit later, and gives more time, does not extend what was given before."""
    process = WorkerProcess("worker-0", 1, None, current_process(), Silence(0.0, turn_s_max=1.0))
    for deadline_s, why in ((10.0, "stop"), (12.0, "node"), (9.0, "work"), (11.0, "late")):
        process.exit_by(deadline_s, why)
    assert process.deadline == (9.0, "work")
    os.close(process.pidfd)
