"""A saga that was told to run, and asked for by others: who asks may revoke, who tells never does."""

from __future__ import annotations

from typing import Any

import pytest

from repertory.actors.control import RevokeAsk
from repertory.actors.saga.progress import SagaPhase, SagaProgress
from tests.actors.saga.domain import Begin, Store, Taken
from tests.actors.saga.sagas import Again
from tests.actors.shard.bench import Bench
from tests.actors.shard.test_ahead import by_entity

TELL, ASK = (), by_entity("~5/0")


def progress(bench: Bench) -> SagaProgress:
    """Return what is recorded of the saga."""
    cell: Any = bench.shard.cells.get("k")
    found: SagaProgress = cell.state.progress
    return found


@pytest.mark.parametrize("starts", [(TELL, ASK), (ASK, TELL), (ASK,)], ids=["told first", "told later", "asked"])
def test_a_saga_that_was_told_to_run_is_not_cancelled_by_a_revoke(starts: tuple[Any, ...]) -> None:
    """Who has asked only leaves. A new run of the saga, and a restart, know that too."""
    bench = Bench(Again, others=[Store])
    for headers in starts:
        bench.tell(Begin(number=2), headers=headers)
    bench.tell(Taken(), headers=(("about", b"~0/0"),))
    bench.run()
    bench.crash()
    bench.tell(RevokeAsk(about="~5/0"), headers=by_entity("~5/0", "~5/0/revoke"))
    bench.run()
    answered = [each for each in bench.values("t.store.commands") if each["type"] == "Undelivered"]
    found = progress(bench)
    if TELL in starts:
        assert answered == [{"type": "Undelivered", "reason": "revoked"}]
        assert (found.phase, found.runs, found.starters) == (SagaPhase.RUNNING, 1, ())
    else:
        assert (found.phase, answered) == (SagaPhase.SETTLING, [])


def test_a_start_that_is_told_again_is_recorded_once() -> None:
    """Whoever repeats it fills no journal."""
    bench = Bench(Again, others=[Store])
    for headers in (ASK, TELL, TELL, TELL):
        bench.tell(Begin(number=2), headers=headers)
    bench.run()
    names = [each["type"] for each in bench.journal]
    assert names == ["repertory.saga-began", "repertory.steps-opened", "repertory.starter-joined"]
