"""``simulate``: run many seeds in one call; a failure includes the command that reproduces it."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

from repertory.bridge.system.system import ActorSystem
from repertory.simulation.clients import ClientCommand
from repertory.simulation.generate import generated
from repertory.simulation.jobs import running
from repertory.simulation.runs import Commands, Invariant, Result, Scenario, Totals, no_invariant
from repertory.simulation.shrink import Minimised
from repertory.simulation.swarm import FAULTS

#: New objects before the youngest generation is collected (Python's default is 700): about as many as one run makes.
_GC_THRESHOLD = 50_000


class SimulationFailed(AssertionError):
    """A seed breaks a promise. ``schedule`` and ``commands`` are minimised; ``command`` runs the seed again."""

    def __init__(self, result: Result, commands: Sequence[ClientCommand], command: str) -> None:
        self.seed, self.rule, self.schedule = result.seed, result.rule, tuple(result.schedule)
        self.commands, self.command, self.result = tuple(commands), command, result
        faults = "\n".join(f"  {line}" for line in result.schedule) or "  (none)"
        sent = "\n".join(f"  {handler!r} {key!r} {message!r}" for handler, key, message in commands[:20]) or "  (none)"
        more = f"\n  and {len(commands) - 20} more" if len(commands) > 20 else ""
        super().__init__(
            f"seed {result.seed} breaks a promise: {result.rule}\n{result.violation}\n"
            f"the fewest faults that break it:\n{faults}\nthe fewest commands that break it:\n{sent}{more}\n"
            f"run it again: {command}"
        )


def simulate(
    system: ActorSystem,
    *,
    commands: Commands | None = None,
    invariant: Invariant = no_invariant,
    seeds: Iterable[int] = range(100),
    faults: Iterable[str] = tuple(FAULTS),
    twice_every: int = 50,
    minimise: bool = True,
    jobs: int = 1,
    progress: Callable[[Totals], None] = lambda _: None,
) -> Totals:
    """Simulate a system with each seed and return the totals. The first seed that breaks a promise raises.

    ``commands`` makes a workload from a ``random.Random``: (handler, key, command), as ``Client.tell_all`` takes them.
    By default, commands are drawn from the handlers' types. ``invariant`` is called with an ``Outcome`` after each run
    and raises AssertionError. ``faults`` names the kinds that may be injected (see ``FAULTS``). Every
    ``twice_every``-th seed runs twice and must do the same both times. ``jobs`` is the number of processes, which are
    forked here; 1 is this process. A seed takes about 50 ms.

    Raises:
        SimulationFailed: a seed breaks a promise; with a minimised schedule and the command that runs it again.
    """
    kinds = tuple(faults)
    if unknown := [kind for kind in kinds if kind not in FAULTS]:
        raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    scenario = Scenario(system=system, commands=commands or generated(system), invariant=invariant, kinds=kinds)
    totals = Totals()
    with silence(), running(scenario, seeds, jobs) as results:
        for result in results:
            totals.add(result)
            if result.violation is not None:
                raise failed(scenario, result, minimise=minimise)
            if twice_every and totals.runs % twice_every == 0 and scenario.run(result.seed).trace != result.trace:
                raise AssertionError(
                    f"seed {result.seed} did not do the same twice: the system depends on more than its commands "
                    "(a clock, random numbers, the order of a set, a module's state); remove that dependency"
                )
            progress(totals)
    return totals


def failed(scenario: Scenario, result: Result, *, minimise: bool) -> SimulationFailed:
    """Return the failure of a seed, minimised if asked for."""
    commands: Sequence[ClientCommand] = scenario.workload(result.seed)
    if minimise:
        smaller = Minimised(scenario, result)
        result, commands = smaller.result, smaller.commands
    return SimulationFailed(result, commands, replay_command(scenario, result.seed))


def replay_command(scenario: Scenario, seed: int) -> str:
    """Return a command line that runs a seed again, or a call if something that it needs has no name in a module."""
    names = [
        f"{module.__name__}:{name}"
        for module in list(sys.modules.values())
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is scenario.system and module.__name__ != "__main__"
    ]
    name = getattr(scenario.commands, "__module__", "")
    module = sys.modules.get(name)
    is_named = getattr(module, "commands", None) is scenario.commands
    if getattr(module, "invariant", no_invariant) is not scenario.invariant or not names or not is_named:
        return f"simulate(..., seeds=[{seed}])"
    target = min(names, key=len)
    return f"repertory simulate {target} --scenario {name} --seeds 1 --first-seed {seed}"


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Disable the runtime's log and its tracebacks: in a simulation, failures are expected.

    Meanwhile garbage is collected less often: a run leaves little, and collecting took an eighth of the time.
    """
    logger = logging.getLogger("repertory")
    before, limit, thresholds = logger.disabled, getattr(sys, "tracebacklimit", None), gc.get_threshold()
    logger.disabled = True
    sys.tracebacklimit = 0
    gc.set_threshold(_GC_THRESHOLD, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        logger.disabled = before
        if limit is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = limit
