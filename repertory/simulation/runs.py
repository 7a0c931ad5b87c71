"""One seed, one run, one outcome; many seeds, one report."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from repertory.bridge.log.port import Reader
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.check import Scan
from repertory.simulation.choices import FromTape, Seeded, Source, Tape
from repertory.simulation.clients import ClientCommand
from repertory.simulation.swarm import FAULTS
from repertory.simulation.virtual import Violation
from repertory.simulation.world import World
from repertory.verify import verify

#: Each so many seeds is also read by ``repertory.verify``, which takes a third as long as the run.
VERIFIED_EVERY = 10
#: More than a run ever needs: who makes more makes them without end.
WORKLOAD_MAX = 10_000

Commands = Callable[[random.Random], Iterable[ClientCommand]]


class Outcome(msgspec.Struct, frozen=True):
    """What a user's invariant is given: the log at the end of a run, and whether all was decided that was sent.

    ``lossless`` is False if commands were dead-lettered, or are parked, because their handlers were made to fail:
    whatever they stood for has not happened.
    """

    system: ActorSystem
    reader: Reader
    lossless: bool


Invariant = Callable[[Outcome], None]


def no_invariant(_outcome: Outcome) -> None:
    """Hold whatever comes."""


class Result(msgspec.Struct, frozen=True):
    """One run. ``violation`` is None if every promise was kept. ``cpu_s`` is what it took, and part of no trace."""

    seed: int
    violation: str | None
    rule: str
    trace: str
    tape: Tape
    schedule: Sequence[str]
    commands: int
    virtual_s: float
    faults: Mapping[str, int]
    probes: Mapping[str, int]
    cpu_s: float = 0.0


def drawn(commands: Commands, seed: int) -> list[ClientCommand]:
    """Return a workload. Raises ValueError if it has no end."""
    workload = list(itertools.islice(commands(random.Random(seed)), WORKLOAD_MAX + 1))  # noqa: S311  reproducible
    if len(workload) > WORKLOAD_MAX:
        raise ValueError(
            f"{getattr(commands, '__qualname__', commands)} makes more than {WORKLOAD_MAX:,} commands for one run; "
            "end it earlier (200 to 300 are usual: itertools.islice)"
        )
    return workload


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated: a system, what its clients send, what must hold, and which faults there may be."""

    system: ActorSystem
    commands: Commands
    invariant: Invariant = no_invariant
    kinds: tuple[str, ...] = tuple(FAULTS)

    def workload(self, seed: int) -> list[ClientCommand]:
        """Return what the clients send with this seed. Raises ValueError if that has no end."""
        return drawn(self.commands, seed)

    def run(self, seed: int) -> Result:
        """Run one seed."""
        try:
            return self._run(seed, self.workload(seed), Seeded(seed))
        except Exception as error:
            error.add_note(f"while seed {seed} was simulated")
            raise

    def replay(self, seed: int, commands: Sequence[ClientCommand], tape: Tape) -> Result:
        """Run again with other choices or fewer commands."""
        return self._run(seed, commands, FromTape(tape))

    def _run(self, seed: int, commands: Sequence[ClientCommand], source: Source) -> Result:
        started_s = time.process_time()
        world = World(self.system, commands, source, self.kinds)
        scan = Scan(world)
        rule, violation, handled = "", None, 0
        try:
            try:
                world.run()
                scan.check()
                handled = scan.commands
                if seed % VERIFIED_EVERY == 0:
                    _verify(world)
                self._hold(Outcome(world.system, world.reader, world.lossless))
            except Violation as error:
                rule, violation = error.rule, error.detail
            return Result(
                seed, violation, rule, world.trace(scan.records()), world.choices.tape, world.schedule, handled,
                world.clock.monotonic_s(), world.faults, world.probes, time.process_time() - started_s,
            )  # fmt: skip
        finally:
            world.close()

    def _hold(self, outcome: Outcome) -> None:
        try:
            self.invariant(outcome)
        except AssertionError as error:
            raise Violation("the invariant of the application", str(error) or repr(error)) from error


def _verify(world: World) -> None:
    """Ask ``repertory verify``, which knows nothing of what was injected, for a second opinion."""
    report = verify(world.reader, world.system)
    for check in report.checks:
        if not check.ok:
            offenders = "; ".join(map(str, check.offenders))
            raise Violation("repertory verify finds nothing wrong", f"{check.name}: {offenders}")


class Totals(msgspec.Struct):
    """What many runs did. Mutable while they run."""

    runs: int = 0
    commands: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    probes: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Add a run."""
        self.runs += 1
        self.commands += result.commands
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        self.faults.update(result.faults)
        self.probes.update(result.probes)
