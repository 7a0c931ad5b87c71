"""What has gone wrong with sagas elsewhere must not go wrong here, on every log: crashes, cancels, time-outs, bugs."""

from __future__ import annotations

import gc
import threading
import types
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from repertory import ActorSystem, Backoff, Cancelled, Done, NoSuchSaga, Running, restart
from repertory.actors.entity import resolved
from repertory.actors.placement import partition_of
from repertory.actors.saga.messages import CancelSaga, NotStuck, RetryUndo, TooLate
from repertory.actors.saga.progress import SagaPhase, SagaProgress
from repertory.bridge.system.committed import stashed_commands
from repertory.operate.operator import Operator
from repertory.simulation.invariant import Outcome
from repertory.verify import verify
from tests.apps import sagas
from tests.apps.purses import Fill, IsLocked, Lock, Poor, Purse, Wake
from tests.apps.saga_rules import invariant
from tests.apps.sagas import Begin, Deal, Dealt, Go, Mended, Op
from tests.bridge.test_asks_once import during, until
from tests.bridge.test_timers import later

HOUR_S = 3_600.0
#: A step that has failed waits for long.
SLOW = restart(backoff=Backoff(first_s=HOUR_S, max_s=HOUR_S, jitter=0))
CANCEL, RETRY = (resolved(Deal).handlers[each] for each in (CancelSaga, RetryUndo))
SUSPENDED = 300


@pytest.fixture(params=[sagas.POLICY])
def system(request: pytest.FixtureRequest) -> Iterator[ActorSystem]:
    """Yield a system with a name of its own."""
    yield sagas.made(f"deal-{uuid.uuid4().hex[:12]}", request.param)
    Mended.yes = False


@pytest.fixture
def running(system: ActorSystem, url: str) -> Iterator[Running]:
    """Yield it with money in its purses; what it has done must be as it should be."""
    with system.start(url) as running:
        for key in ("home", "p0", "p1", "p2"):
            running.client.tell(Purse.fill, key, Fill(amount=100))
        running.settle()
        yield running
        running.settle()
        report = verify(running.reader, running.system)  # type: ignore[arg-type]
        assert report.ok, [check for check in report.checks if not check.ok]
        invariant(Outcome(system, running.reader, lossless=False))


def begin(running: Running, key: str, *ops: Op) -> None:
    """Start a saga by its script."""
    running.client.tell(Deal.deal, key, Begin(ops=ops))


def progress(running: Running, key: str) -> SagaProgress:
    """Return what is recorded of a saga."""
    found = running.state(Deal, key)
    assert found is not None, key
    return found.progress


def outcome(running: Running, key: str, *ops: Op) -> Any:
    """Return how a saga has ended, by starting it again."""
    return running.client.ask(Deal.deal, key, Begin(ops=ops), timeout_s=30)


def held(running: Running, key: str) -> dict[str, int]:
    """Return what a purse has given to sagas and not got back."""
    purse = running.state(Purse, key)
    return {} if purse is None else purse.held


def coroutines() -> list[Any]:
    """Return the coroutines of sagas that there are."""
    found = (each for each in gc.get_objects() if isinstance(each, types.CoroutineType))
    return [each for each in found if each.cr_code.co_filename == sagas.__file__]


def _ends(system: ActorSystem, running: Running) -> list[tuple[int, int]]:
    return [running.reader.bounds(topic, number) for topic in system.commands_topics() for number in range(2)]


def test_no_coroutine_outlives_its_turn(system: ActorSystem, running: Running) -> None:
    """A lost shard with many suspended sagas leaves nothing that the garbage collector could run on another thread."""
    ops = Op("take", "p0", 0), Op("hear")
    for number in range(SUSPENDED):
        begin(running, f"d{number}", *ops)
    running.settle(300)
    assert coroutines() == []
    ends = _ends(system, running)
    running.crash()
    collector = threading.Thread(target=gc.collect)
    collector.start()
    collector.join()
    running.settle()
    assert _ends(system, running) == ends
    assert progress(running, "d0").phase is SagaPhase.RUNNING


@pytest.mark.parametrize("ticks", range(0, 14, 2))
def test_a_cancel_in_each_gap_settles_once(running: Running, ticks: int) -> None:
    """Before the first step, beside an answer, between two steps, while it rolls back: nothing is held then."""
    ops = Op("take", "p0", 3), Op("both", "p1", 2), Op("put", "p2", 1), Op("reject")
    begin(running, "d", *ops)
    for _ in range(ticks):
        running.tick(0.01)
    running.client.tell(CANCEL, "d", CancelSaga(reason="enough"))
    running.crash()
    running.settle()
    assert outcome(running, "d", *ops) in (Cancelled(reason="enough"), Poor())
    assert isinstance(running.client.ask(CANCEL, "d", CancelSaga(), timeout_s=30), TooLate)
    assert [held(running, key) for key in ("home", "p0", "p1", "p2")] == [{}] * 4


@pytest.mark.parametrize("system", [sagas.POLICY, SLOW], ids=["parked", "waits"], indirect=True)
def test_a_cancel_of_a_saga_that_could_not_begin_drops_its_start(system: ActorSystem, running: Running) -> None:
    """Nobody is told that there is no such saga, and mended code would begin it; it can be started again."""
    unable = Op("nap", s=-1.0)
    begin(running, "d", unable)
    partition, behaviour = partition_of(b"d", 2), system.hosted[Deal].behaviour
    until(running, lambda: any(stashed_commands(running.reader, system, behaviour, partition)))
    running.crash()
    assert running.client.cancel(Deal, "d", timeout_s=30) == Done()
    assert running.client.cancel(Deal, "d", timeout_s=30) == NoSuchSaga()
    running.crash()
    running.settle()
    assert [letter.error for letter in running.dead_letters()] == ["Cancelled"]
    assert running.state(Deal, "d") is None
    assert outcome(running, "d", Op("reject")) == Poor()


@pytest.mark.parametrize("system", [SLOW], indirect=True)
def test_a_step_in_backoff_whose_saga_times_out_is_not_undone(system: ActorSystem, running: Running) -> None:
    """It is revoked, and so never applied: there is nothing to undo."""
    ops = Op("try", "p0", 5, "once", 5.0), Op("reject")
    begin(running, "d", *ops)
    partition = partition_of(b"p0", 2)
    behaviour = system.hosted[Purse].behaviour
    until(running, lambda: any(stashed_commands(running.reader, system, behaviour, partition)))
    later(running, 10)
    until(running, lambda: bool(running.dead_letters()))
    (letter,) = running.dead_letters()
    assert letter.error == "Revoked"
    assert outcome(running, "d", *ops) == Poor()
    assert held(running, "p0") == {}


def test_a_step_that_is_applied_after_its_time_out_is_undone(running: Running) -> None:
    """Its answer never reaches the code, and its undo runs before the saga is over."""
    ops = Op("try", "p0", 5, "silent", 5.0), Op("nap", s=0.001)
    begin(running, "d", *ops)
    running.settle()
    later(running, 10)
    running.settle()
    assert progress(running, "d").phase is SagaPhase.SETTLING
    running.client.tell(Purse.wake, "p0", Wake())
    running.settle()
    assert progress(running, "d").phase is SagaPhase.OVER
    assert outcome(running, "d", *ops) == Dealt(heard=())
    assert held(running, "p0") == {}


def test_a_race_of_a_signal_and_a_timer_has_one_winner(running: Running) -> None:
    """Whatever comes later, over a crash and a replay."""
    ops = Op("either", s=5.0), Op("take", "p0", 1), Op("hear")
    for key in ("signal", "timer"):
        begin(running, key, *ops)
    running.client.tell(Deal.go, "signal", Go(number=1))
    running.settle()
    later(running, 10)
    running.settle()
    running.client.tell(Deal.go, "timer", Go(number=2))
    running.client.tell(Deal.go, "signal", Go(number=3))
    running.crash()
    running.settle()
    assert outcome(running, "signal", *ops) == Dealt(heard=(1, 3))
    assert outcome(running, "timer", *ops) == Dealt(heard=(2,))


def test_a_rejected_undo_holds_up_those_before_it(running: Running) -> None:
    """The saga is stuck with a reason. A retry that is not rejected goes on in order."""
    ops = Op("take", "p0", 4), Op("take", "p1", 5), Op("hear")
    begin(running, "d", *ops)
    running.settle()
    running.client.tell(Purse.lock, "p1", Lock(locked=True))
    running.settle()
    running.client.tell(CANCEL, "d", CancelSaga())
    running.settle()
    stuck = progress(running, "d")
    assert (stuck.undoing, stuck.stuck) == (1, IsLocked.__name__)
    assert (held(running, "p0"), held(running, "p1")) == ({"d": 4}, {"d": 5})
    assert isinstance(running.client.ask(RETRY, "d", RetryUndo(step=0), timeout_s=30), NotStuck)
    running.crash()
    running.client.tell(Purse.lock, "p1", Lock(locked=False))
    running.client.tell(RETRY, "d", RetryUndo(step=1))
    running.settle()
    assert outcome(running, "d", *ops) == Cancelled()
    assert (held(running, "p0"), held(running, "p1")) == ({}, {})


def test_a_bug_undoes_nothing_and_a_mended_build_goes_on(system: ActorSystem, running: Running) -> None:
    """The key is parked; a build without the bug goes on from that step."""
    ops = Op("take", "p0", 4), Op("bug"), Op("take", "p1", 5)
    begin(running, "d", *ops)
    running.settle()
    (parked,) = running.parked()
    assert (parked.key, parked.error) == ("d", "ValueError")
    assert held(running, "p0") == {"d": 4}
    Mended.yes = True
    running.crash()
    with closing(Operator(system, running._backend)) as operator:
        parked_key = operator.find_parked("deal", "d")
        with pytest.raises(LookupError, match=r"the saga 'd' waits for what is parked, so it was not dropped; mend"):
            during(running, lambda: operator.drop(parked_key, "it fails"))
        during(running, lambda: operator.retry(parked_key))
    assert outcome(running, "d", *ops) == Dealt(heard=())
    assert [held(running, key) for key in ("home", "p0", "p1")] == [{"d": -9}, {"d": 4}, {"d": 5}]


def test_again_carries_signals_and_open_asks(running: Running) -> None:
    """None is lost, and none is taken twice; what an abandoned ask has applied is undone at the end."""
    ops = (
        Op("try", "p0", 5, "silent", 0.5),
        Op("again", s=0.001),
        Op("hear"),
        Op("again", s=0.001),
        Op("hear"),
        Op("hear"),
    )
    begin(running, "d", *ops)
    running.settle()
    for number in (1, 2):
        running.client.tell(Deal.go, "d", Go(number=number))
    running.settle()
    later(running, 10)
    running.settle()
    assert progress(running, "d").runs == 2
    running.client.tell(Purse.wake, "p0", Wake())
    running.client.tell(Deal.go, "d", Go(number=3))
    running.settle()
    assert outcome(running, "d", *ops) == Dealt(heard=(1, 2, 3))
    assert held(running, "p0") == {}
