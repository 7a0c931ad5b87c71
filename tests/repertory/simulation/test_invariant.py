"""An invariant answers by raising AssertionError or returning nothing; whatever else it does is said, never a pass."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from repertory import ActorSystem, Undelivered
from repertory.simulation import Outcome, SimulationFailed, simulate, time_limit
from repertory.simulation.clients import ClientCommand
from tests.actors.domain import Account, Deposit, Withdraw

pytestmark = pytest.mark.simulation

system = ActorSystem("held")
system.host(Account, partitions=1)


def commands(_: Random) -> Iterator[ClientCommand]:
    """Yield deposits."""
    for number in range(5):
        yield Account.deposit, "a", Deposit(amount=number + 1)


def run(invariant: Any, **more: Any) -> None:
    """Simulate some seeds."""
    simulate(system, commands=commands, invariant=invariant, seeds=range(3), **more)


def no_more_than_five(outcome: Outcome) -> None:
    """Fail, with another message for each number of events."""
    end = outcome.reader.bounds("held.account.events", 0)[1]
    if end >= 3:
        raise AssertionError(f"{end} events")


def test_the_failure_is_shown_as_it_was_found_and_as_it_was_minimised() -> None:
    """Both have their message: what is left after minimising may fail for another reason."""
    with pytest.raises(SimulationFailed) as failure:
        run(no_more_than_five, faults=())
    text = str(failure.value)
    assert text.startswith("seed 0 breaks the invariant of the application\n5 events\n")
    assert "\nminimised, from 0 faults to 0, and to 3 commands, it says:\n3 events\n" in text
    assert failure.value.found.violation == "5 events"
    assert failure.value.result.violation == "3 events"


def test_an_invariant_that_fails_without_any_command_is_said_to() -> None:
    """Minimising removes commands, so an invariant of the whole workload is reduced to nothing: that is explained."""

    def all_five(outcome: Outcome) -> None:
        assert outcome.reader.bounds("held.account.events", 0)[1] == 6, "not all"

    with pytest.raises(
        SimulationFailed, match="this must hold for any part of the commands, in any number, and so for"
    ):
        run(all_five)


def test_an_assertion_without_a_message_shows_where_it_is() -> None:
    """An error that says nothing, as of a bare ``assert``, is found by its line."""

    def bare(_outcome: Outcome) -> None:
        raise AssertionError

    with pytest.raises(SimulationFailed, match=r"in bare\n +raise AssertionError\n"):
        run(bare)


@pytest.mark.parametrize("error", [LookupError, SystemExit, ValueError, RecursionError])
def test_what_an_invariant_raises_is_no_answer(error: type[BaseException]) -> None:
    """Any other error fails the seed, with the frames of the invariant; ``sys.exit(0)`` is not a pass either."""

    def helper() -> None:
        raise error(0)

    def broken(_outcome: Outcome) -> None:
        helper()

    for jobs in (1, 2):
        name = error.__name__
        with pytest.raises(
            SimulationFailed, match=f"the invariant raises {name}, where only AssertionError is an answer\nTraceback"
        ) as failure:
            run(broken, jobs=jobs)
        assert "in helper\n" in str(failure.value)
        assert f"\n{name}: 0" in str(failure.value)
        assert "simulation/invariant.py" not in str(failure.value)


def test_what_ends_a_test_ends_it_with_its_seed() -> None:
    """``pytest.fail`` and ``pytest.skip`` do what they do elsewhere, in other processes too."""

    def failing(_outcome: Outcome) -> None:
        pytest.fail("enough")

    for jobs in (1, 2):
        with pytest.raises(pytest.fail.Exception, match="enough") as failure:
            run(failing, jobs=jobs)
        assert failure.value.__notes__[0].startswith("while seed 0 was simulated; run it again: ")


async def coroutine(_outcome: Outcome) -> None:
    """Never run."""
    raise AssertionError


def generator(_outcome: Outcome) -> Iterator[None]:
    """Never run."""
    yield
    raise AssertionError


@pytest.mark.filterwarnings("ignore:coroutine")
@pytest.mark.parametrize("returned", [lambda _: False, lambda _: True, lambda _: 0, generator, coroutine])
def test_an_invariant_returns_nothing(returned: Callable[[Outcome], object]) -> None:
    """False would be taken for a failure, True for success, and a generator would never run: all are refused."""
    with pytest.raises(TypeError, match=r"the invariant .* returned .*: it raises AssertionError \(with assert\)"):
        run(returned)


def test_an_invariant_cannot_spoil_a_run() -> None:
    """What it is given is thrown away after it: neither the next seed nor the determinism of this one depends on it."""

    def spoiling(outcome: Outcome) -> None:
        outcome.reader.close()
        outcome.system.host(Account, partitions=1)

    with pytest.raises(SimulationFailed, match=r"(?s)the invariant raises ValueError.*already hosts an entity"):
        run(spoiling)

    def closing(outcome: Outcome) -> None:
        outcome.reader.close()
        outcome.system._hosted.clear()

    run(closing, twice_every=1)
    assert list(system.hosted) == [Account]


def test_an_invariant_that_remembers_is_found() -> None:
    """A seed that passes and then does not, does not do the same twice."""
    calls = []

    def remembering(_outcome: Outcome) -> None:
        calls.append(1)
        assert len(calls) < 2, "once is enough"

    with pytest.raises(AssertionError, match="seed 0 did not do the same twice: the system depends on more than its"):
        run(remembering, twice_every=1)


def test_an_outcome_has_what_a_running_system_has() -> None:
    """States, parked keys, dead letters and published records can be read as in a test of the system itself."""

    def reads(outcome: Outcome) -> None:
        account = outcome.state(Account, "a")
        refused = len(outcome.parked()) + len(outcome.dead_letters())
        if outcome.lossless:
            assert not refused
            assert account is not None
            assert account.balance >= 15
        assert all(letter.message is None or isinstance(letter.message, Deposit) for letter in outcome.dead_letters())
        with pytest.raises(LookupError):
            outcome.published("nowhere")

    totals = simulate(system, commands=commands, invariant=reads, seeds=range(40))
    assert totals.runs == 40


def test_lossless_is_whether_all_commands_were_applied_or_rejected() -> None:
    """A handler that was made to fail, and then succeeded, has lost nothing."""
    seen: dict[bool, int] = {True: 0, False: 0}

    def counting(outcome: Outcome) -> None:
        left = bool(outcome.parked() or outcome.dead_letters())
        assert outcome.lossless is not left
        seen[left] += 1

    simulate(system, commands=commands, invariant=counting, seeds=range(60), faults=("raise",), twice_every=0)
    assert seen[True] > 0
    assert seen[False] > 0


# --- without end ----------------------------------------------------------------------------------------------


def spins(_outcome: Outcome) -> None:
    """Never return; each turn of the loop lasts as long as a tick."""
    while True:
        signal.raise_signal(signal.SIGALRM)


def never_drawn(_: Random) -> Iterator[ClientCommand]:
    """Never yield."""
    while True:
        signal.raise_signal(signal.SIGALRM)
        if Withdraw is Undelivered:
            yield Account.deposit, "a", Deposit(amount=1)


def test_a_run_without_end_is_a_failure() -> None:
    """An invariant or a workload that hangs is interrupted and named; it is not minimised, for ever."""
    # In a process of its own: in this one, pytest-timeout has the timer.
    with pytest.raises(SimulationFailed, match=r"seed 0 does not end\n") as failure:
        run(spins, jobs=2)
    assert "in spins\n" in str(failure.value)
    assert "minimised" not in str(failure.value)


def test_a_workload_without_end_is_a_failure() -> None:
    """A workload that never yields anything is named too."""
    with pytest.raises(SimulationFailed, match="in never_drawn"):
        simulate(system, commands=never_drawn, seeds=range(2), jobs=2)


def test_a_debugger_is_not_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a tracer is at work, as a debugger is, there is no limit."""
    monkeypatch.setattr(sys, "gettrace", object)
    ticks: list[object] = []
    monkeypatch.setattr(time_limit.signal, "getitimer", lambda _: (0.0, 0.0))
    monkeypatch.setattr(time_limit.signal, "signal", lambda _, handler: ticks.append(handler))
    monkeypatch.setattr(time_limit.signal, "setitimer", lambda *_: None)
    with time_limit.limited():
        tick: Any = ticks[0]
        for _ in range(100):
            tick(0, None)
    monkeypatch.undo()
