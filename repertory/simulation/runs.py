"""One run per seed, with its result, and the totals of many runs."""

from __future__ import annotations

import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import msgspec

from repertory.bridge.silence import silenced
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.again import call_again
from repertory.simulation.check import Scan
from repertory.simulation.choices import FromTape, Seeded, Source, Tape
from repertory.simulation.clients import ClientCommand
from repertory.simulation.cluster import SimulatedCluster
from repertory.simulation.invariant import Invariant, Outcome, hold, no_invariant, user_frames
from repertory.simulation.swarm import KINDS
from repertory.simulation.time_limit import TICK_S, TICKS_MAX, RunTooLong, limited
from repertory.simulation.unexplained import AllowedError, check_explained, is_lossless
from repertory.simulation.virtual import Violation
from repertory.simulation.world import Fakes
from repertory.verify import verify

#: Every so many seeds, ``repertory.verify`` also checks the log, which takes a third as long as the run. It can judge
#: no run whose calendar jumped: it does not see which restarts left their window while nothing was written.
VERIFIED_EVERY = 5
#: More than any run needs: a workload that makes more is taken to be endless.
WORKLOAD_MAX = 10_000

#: The name of the rule that a run ends; see ``time_limit``.
ENDS = "a run ends"

Commands = Callable[[random.Random], Iterable[ClientCommand]]


class Result(msgspec.Struct, frozen=True):
    """The result of one run. ``violation`` is None if all promises hold. ``cpu_s``, its CPU time, is in no trace."""

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
    """Return the workload of a seed. Raises ValueError if it is endless."""
    workload = list(itertools.islice(commands(random.Random(seed)), WORKLOAD_MAX + 1))  # noqa: S311  reproducible
    if len(workload) > WORKLOAD_MAX:
        raise ValueError(
            f"{getattr(commands, '__qualname__', commands)} makes more than {WORKLOAD_MAX:,} commands for one run; "
            "end it earlier (200 to 300 are usual; see itertools.islice)"
        )
    return workload


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What is simulated: a system, the commands of its clients, the invariant, and the kinds of faults.

    ``allowed_errors``: see ``simulate``. ``again`` returns the command that runs a seed again. ``silent``: what
    handlers log and print is not shown; the invariant is heard. ``ids``: half of the asks have one.
    ``effects``: what stands for effects; the results of others are drawn. ``projections``: whether they are simulated.
    """

    system: ActorSystem
    commands: Commands
    invariant: Invariant = no_invariant
    kinds: tuple[str, ...] = KINDS
    allowed_errors: tuple[AllowedError, ...] = ()
    again: Callable[[int], str] = call_again
    silent: bool = True
    ids: bool = False
    effects: Fakes = MappingProxyType({})
    projections: bool = True

    def workload(self, seed: int) -> list[ClientCommand]:
        """Return the commands that the clients send with this seed. Raises ValueError if they are endless."""
        return drawn(self.commands, seed)

    def run(self, seed: int) -> Result:
        """Run one seed."""
        try:
            return self._run(seed, None, Seeded(seed))
        except BaseException as error:
            error.add_note(f"while seed {seed} was simulated; run it again: {self.again(seed)}")
            raise

    def replay(self, seed: int, commands: Sequence[ClientCommand], tape: Tape) -> Result:
        """Run again with the choices of a tape, or with fewer commands."""
        return self._run(seed, commands, FromTape(tape))

    def _run(self, seed: int, commands: Sequence[ClientCommand] | None, source: Source) -> Result:
        """Run a seed, with its own commands if none are given, within the limit of ``time_limit``."""
        started_s = time.process_time()
        with contextlib.ExitStack() as stack:
            try:
                with limited():
                    workload = self.workload(seed) if commands is None else commands
                    cluster = SimulatedCluster(
                        self.system, workload, source, self.kinds, ids=self.ids, effects=self.effects,
                        projections=self.projections,
                    )  # fmt: skip
                    stack.callback(cluster.close)
                    return self._result(seed, cluster, started_s)
            except RunTooLong as error:
                stack.pop_all()  # It was interrupted anywhere, and cannot be closed in order.
                detail = f"it took more than {TICK_S * TICKS_MAX:.0f} s, and was here:\n{user_frames(error)}"
                return Result(seed, detail, ENDS, "", {}, (), 0, 0.0, {}, {}, time.process_time() - started_s)

    def _result(self, seed: int, cluster: SimulatedCluster, started_s: float) -> Result:
        scan = Scan(cluster)
        rule, violation, handled = "", None, 0
        try:
            with silenced() if self.silent else contextlib.nullcontext():
                cluster.run()
                scan.check()
                handled = scan.commands
                if seed % VERIFIED_EVERY == 0 and not cluster.faults["jump"]:
                    _verify(cluster)
            self.judge(cluster, scan)
        except Violation as error:
            rule, violation = error.rule, error.detail
        trace = cluster.trace(scan.records().values(), violation)
        return Result(
            seed, violation, rule, trace, cluster.choices.tape, cluster.schedule, handled, cluster.clock.monotonic_s(),
            cluster.faults, cluster.probes, time.process_time() - started_s,
        )  # fmt: skip

    def judge(self, cluster: SimulatedCluster, scan: Scan) -> None:
        """Check what is asked of the application, not of the runtime. Raises Violation."""
        records = scan.records()
        check_explained(cluster, records, self.allowed_errors)
        projections = cluster.projections
        projections.check_explained(self.allowed_errors)
        lossless = is_lossless(cluster, records) and projections.is_complete()
        hold(self.invariant, Outcome(cluster.system, cluster.reader, lossless, projections))


def _verify(cluster: SimulatedCluster) -> None:
    """Check the log with ``repertory verify`` as well, which does not know the injected faults."""
    report = verify(cluster.reader, cluster.system)
    for check in report.checks:
        if not check.ok:
            offenders = "; ".join(map(str, check.offenders))
            raise Violation("repertory verify finds nothing wrong", f"{check.name}: {offenders}")


class Totals(msgspec.Struct):
    """The totals of many runs. Mutable."""

    runs: int = 0
    commands: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    faults: Counter[str] = msgspec.field(default_factory=Counter)
    probes: Counter[str] = msgspec.field(default_factory=Counter)

    def add(self, result: Result) -> None:
        """Add the result of a run."""
        self.runs += 1
        self.commands += result.commands
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        self.faults.update(result.faults)
        self.probes.update(result.probes)
