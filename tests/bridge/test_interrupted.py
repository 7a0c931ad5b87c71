"""An exception that leaves a tick costs nothing: the next call drops the worker, and another recovers from the log."""

from __future__ import annotations

import contextlib
import gc
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

import pytest

from repertory import ActorSystem, Command, Context, Entity, Event, Settings, command, event
from repertory.bridge import kill_points
from repertory.bridge.interruption import LoopInterrupted
from repertory.bridge.reports import ShardReport
from repertory.bridge.system.running import NotSettled, Running
from repertory.verify import verify


class Add(Command):
    """Add a number."""

    n: int


class Added(Event):
    """A number was added."""

    n: int


#: Called by each handler, with the number.
before_handler: list[Callable[[int], None]] = []


class Journaled(Entity):
    """Sums what was added, by events."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        """Add a number."""
        for hook in before_handler:
            hook(cmd.n)
        return Added(n=cmd.n)

    @event
    def added(self, evt: Added) -> Self:
        """Sum."""
        return self.replace(total=self.total + evt.n)


class Stateful(Entity):
    """Sums what was added, without events."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Self:
        """Add a number."""
        for hook in before_handler:
            hook(cmd.n)
        return self.replace(total=self.total + cmd.n)


#: Ctrl-C; what the runtime and the handlers of a process raise; pytest's outcomes, also from pytest-timeout's signal.
LEAVES: list[type[BaseException]] = [
    KeyboardInterrupt,
    SystemExit,
    MemoryError,
    GeneratorExit,
    pytest.skip.Exception,
    pytest.fail.Exception,
]
COUNT = 5
TOTAL = sum(range(1, COUNT + 1))


@pytest.fixture(autouse=True)
def _no_hooks() -> Iterator[None]:
    yield
    before_handler.clear()


@pytest.fixture
def _no_collection() -> Iterator[None]:
    """Keep the collector off: an exception within one of its callbacks (Hypothesis has one) is lost, with a warning."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(params=["memory:", "sqlite:"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The embedded log, in memory and in a file."""
    return str(request.param) if request.param == "memory:" else f"sqlite:{tmp_path}/log.db"


@pytest.fixture(params=["exactly-once", "at-least-once"])
def system(request: pytest.FixtureRequest) -> ActorSystem:
    """Two entities, in both modes."""
    system = ActorSystem("sums", settings=Settings(delivery=request.param, batch_records_max=3))
    system.host(Journaled, partitions=1)
    system.host(Stateful, partitions=1)
    return system


def send(running: Running) -> None:
    """Send five commands to one key of each entity."""
    running.client.tell_all(
        (handler, "k", Add(n=n)) for handler in (Journaled.add, Stateful.add) for n in range(1, COUNT + 1)
    )


def check(running: Running) -> None:
    """Each command counts once, for this worker, for a reader, and for the next worker."""
    running.settle()
    assert running.state(Journaled, "k") == Journaled(total=TOTAL)
    assert running.state(Stateful, "k") == Stateful(total=TOTAL)
    assert verify(running.reader, running.system).ok
    running.crash()
    send(running)
    running.settle()
    assert running.state(Journaled, "k") == Journaled(total=2 * TOTAL)
    assert running.state(Stateful, "k") == Stateful(total=2 * TOTAL)


@pytest.mark.parametrize("leaves", LEAVES)
def test_a_handler_that_is_interrupted(url: str, system: ActorSystem, leaves: type[BaseException]) -> None:
    """The third of five commands of one key is interrupted, twice; then the cell is run again."""
    left = 2

    def interrupt(n: int) -> None:
        nonlocal left
        if n == 3 and left:
            left -= 1
            raise leaves("interrupted")

    with system.start(url) as running:
        before_handler.append(interrupt)
        send(running)
        for _ in range(2):
            with pytest.raises(leaves):
                running.settle()
        check(running)


@pytest.mark.parametrize("point", sorted(kill_points.POINTS))
def test_every_point_of_the_way(url: str, system: ActorSystem, point: str) -> None:
    """Wherever an exception leaves the worker, nothing is lost and nothing is handled twice."""
    with system.start(url) as running:
        for nth, leaves in enumerate((KeyboardInterrupt, MemoryError, SystemExit), 1):
            passed = itertools.count(1)

            def leave(
                reached: str,
                nth: int = nth,
                leaves: type[BaseException] = leaves,
                passed: Iterator[int] = passed,
            ) -> None:
                if reached == point and next(passed) == nth:
                    raise leaves

            running.on_kill_point = leave
            if nth == 1:
                send(running)
            try:
                running.settle()
            except leaves:
                continue
            break
        running.on_kill_point = None
        check(running)


def test_a_subscriber_of_reports_that_raises(url: str, system: ActorSystem) -> None:
    """Each report is one chance to leave the loop at a place of its own."""
    with system.start(url) as running:
        send(running)
        for nth in itertools.count(1):
            reports = itertools.count(1)

            def refuse(report: ShardReport, nth: int = nth, reports: Iterator[int] = reports) -> None:
                if next(reports) == nth:
                    raise RuntimeError(f"no room for {report.event}")

            running.report = refuse
            running.crash()
            try:
                running.settle()
            except RuntimeError:
                continue
            break
        running.report = lambda _report: None
        assert nth > 2
        check(running)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a file between open() and its `with`
@pytest.mark.usefixtures("_no_collection")
def test_ctrl_c_at_any_instruction(url: str, system: ActorSystem) -> None:
    """A real signal comes at random moments, between any two instructions; the next call goes on all the same."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    interrupted = 0
    with system.start(url) as running:
        send(running)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for step in range(1, 60):
                try:
                    signal.setitimer(signal.ITIMER_REAL, step * 0.0002)
                    running.settle()
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupted += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        check(running)


def test_a_loop_that_was_left_refuses_every_call(system: ActorSystem) -> None:
    """Whoever drives a loop without `Running` is told that it is over."""
    with system.start("memory:") as running:
        send(running)
        before_handler.append(_interrupt)
        loop = running.loop
        with pytest.raises(KeyboardInterrupt):
            running.settle()
        for call in (lambda: loop.tick(0.0), lambda: loop.drain(0.0)):
            with pytest.raises(LoopInterrupted, match="start another; it recovers from the log"):
                call()
        before_handler.clear()
        check(running)


def _interrupt(_n: int) -> None:
    raise KeyboardInterrupt


def test_closing_after_an_interruption_hands_nothing_over(tmp_path: Path, system: ActorSystem) -> None:
    """A ``with`` block that Ctrl-C leaves closes the worker; the next one finds what was committed, and goes on."""
    url = f"sqlite:{tmp_path}/log.db"
    before_handler.append(lambda n: _interrupt(n) if n == 3 else None)
    with contextlib.suppress(KeyboardInterrupt), system.start(url) as running:
        send(running)
        running.settle()
        pytest.fail("the handler was not interrupted")
    before_handler.clear()
    with system.start(url) as running:
        check(running)


def test_a_worker_that_was_closed_says_so(url: str, system: ActorSystem) -> None:
    """A second close does nothing; further work is refused with a sentence."""
    with system.start(url) as running:
        send(running)
        running.settle()
        running.close()
        running.close()
        with pytest.raises(RuntimeError, match="this worker of sums was closed: start another one"):
            running.tick()


@pytest.mark.usefixtures("_no_collection")
def test_a_crash_that_is_interrupted_is_begun_again(url: str, system: ActorSystem) -> None:
    """Between two workers there is no worker that could go on with half of a state."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with system.start(url) as running:
        send(running)
        running.tick()
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            for step in range(1, 40):
                with contextlib.suppress(KeyboardInterrupt):
                    signal.setitimer(signal.ITIMER_REAL, step * 0.00005)
                    running.crash()
                    signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        check(running)


class Endless(Entity):
    """Tells itself to add, for ever."""

    @command
    def add(self, cmd: Add, ctx: Context) -> None:
        """Tell again."""
        ctx.tell(Endless.add, ctx.key, cmd)


def test_settle_keeps_its_time_out_while_there_is_work(url: str) -> None:
    """An entity that tells itself for ever does not keep the caller for ever."""
    system = ActorSystem("endless")
    system.host(Endless, partitions=1)
    with system.start(url) as running:
        running.client.tell(Endless.add, "k", Add(n=1))
        with pytest.raises(NotSettled, match=r"has not settled after 0\.2 s: commands of"):
            running.settle(0.2)
