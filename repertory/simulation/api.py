"""``simulate``: run many seeds in one call."""

from __future__ import annotations

import contextlib
import gc
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from types import MappingProxyType

from repertory.bridge.system.system import ActorSystem
from repertory.simulation.again import only_seed
from repertory.simulation.failure import failed
from repertory.simulation.generate import generated
from repertory.simulation.invariant import Invariant, no_invariant
from repertory.simulation.jobs import running
from repertory.simulation.runs import Commands, Scenario, Totals
from repertory.simulation.swarm import KINDS
from repertory.simulation.unexplained import AllowedError
from repertory.simulation.world import Fakes

#: Why a seed may do something else the second time, and what to do.
DIFFERS = (
    "the system depends on more than its commands (a clock, random numbers, the order of a set, a module's state); "
    "remove that dependency"
)
#: New objects before the youngest generation is collected (Python's default is 700): about as many as one run makes.
_GC_THRESHOLD = 50_000


def simulate(
    system: ActorSystem,
    *,
    commands: Commands | None = None,
    invariant: Invariant = no_invariant,
    seeds: Iterable[int] = range(100),
    faults: Iterable[str] = KINDS,
    allowed_errors: Iterable[AllowedError] = (),
    twice_every: int = 50,
    minimise: bool = True,
    jobs: int = 1,
    silent: bool = True,
    ids: bool = False,
    effects: Fakes = MappingProxyType({}),
    projections: bool = True,
    progress: Callable[[Totals], None] = lambda _: None,
) -> Totals:
    """Simulate a system with each seed and return the totals. The first seed that breaks a promise raises.

    ``commands`` makes a workload from a ``random.Random``: (handler, key, command), as ``Client.tell_all`` takes them.
    By default, commands are drawn from the handlers' types. ``invariant`` is called with an ``Outcome`` after each run
    and raises AssertionError. ``faults`` names the kinds that may be injected (``FAULTS``, ``PROJECTION_FAULTS``). Each
    ``twice_every``-th seed runs twice and must do the same both times. ``jobs`` is the number of processes, which are
    forked here; 1 is this process. A seed takes about 50 ms, and fails if it takes more than a minute. ``silent``: what
    handlers log and print is not shown, since nothing happens; the invariant is heard. ``ids``: half of the asks have
    an id, other clients ask again with it, and some are made by a clock that is a year ahead: an invariant must not
    expect that each command in the log is applied. ``effects``: functions that stand for effects, see `World`.
    ``projections``: what the system projects is simulated too, in SQLite; False leaves it out.

    A run in which a key was parked or a command dead-lettered, and no injected fault explains it, fails too (see
    ``repertory.simulation.unexplained``). ``allowed_errors`` are exception classes, or their names as such a failure
    shows them, with which handlers are meant to fail.

    The environment variable ``REPERTORY_SIMULATION_SEED`` replaces ``seeds`` by one seed, which runs twice.

    Raises:
        SimulationFailed: a seed breaks a promise; with a minimised schedule and the command that runs it again.
        AssertionError: a seed did not do the same twice.
        TypeError: the invariant returned something.
    """
    if (only := only_seed()) is not None:
        seeds, twice_every, jobs = (only,), 1, 1
    scenario = Scenario(
        system=system, commands=commands or generated(system), invariant=invariant, kinds=_known(faults),
        allowed_errors=tuple(allowed_errors), silent=silent, ids=ids, effects=effects, projections=projections,
    )  # fmt: skip
    totals = Totals()
    with silence(), running(scenario, seeds, jobs) as results:
        for result in results:
            totals.add(result)
            if result.violation is not None:
                raise failed(scenario, result, minimise=minimise)
            if twice_every and totals.runs % twice_every == 0 and scenario.run(result.seed).trace != result.trace:
                raise AssertionError(
                    f"seed {result.seed} did not do the same twice: {DIFFERS}; run it again: "
                    f"{scenario.again(result.seed)}"
                )
            progress(totals)
    return totals


def _known(faults: Iterable[str]) -> tuple[str, ...]:
    kinds = tuple(faults)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"there is no fault {unknown[0]!r}; there are {', '.join(KINDS)}")
    return kinds


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
