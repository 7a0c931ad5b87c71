"""The simulator as a Hypothesis state machine: Hypothesis makes the choices and shrinks failures. Needs ``hypothesis``.

::

    TestBank = state_machine(system, commands=my_commands).TestCase
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from repertory.bridge.silence import silenced
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.api import silence
from repertory.simulation.check import Scan
from repertory.simulation.choices import FromTape, Place
from repertory.simulation.clients import ClientCommand
from repertory.simulation.cluster import SimulatedCluster
from repertory.simulation.fault_injector import FaultInjector
from repertory.simulation.invariant import Invariant, no_invariant
from repertory.simulation.runs import WORKLOAD_MAX, Commands, Scenario, drawn
from repertory.simulation.swarm import KINDS
from repertory.simulation.unexplained import AllowedError

#: The choices of a run's configuration that are drawn, with their numbers of values; see ``swarm.draw``.
_DRAWN = {
    "batch": 5, "mailbox": 5, "window": 5, "waiting-key": 3, "waiting-shard": 3, "workers": 3, "partitions": 3,
    "piece": 4, "events": 3, "markers": 3, "session": 3, "shard-strategy": 3, "worker-strategy": 3, "overflow": 2,
    "turn-bytes": 3, "mailbox-bytes": 3,
}  # fmt: skip
_WORKLOAD_SEED = 0


class Listed:
    """Takes choices from a list, and 0 when the list is empty. See ``choices.Source``."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def below(self, limit: int, _place: Place) -> int:
        """See ``Source``."""
        return self.numbers.pop(0) % limit if self.numbers else 0

    def rarely(self, limit: int, _per_mille: int, place: Place) -> int:
        """See ``Source``."""
        return self.below(limit + 1, place)


class Drawn:
    """Takes the configuration from a tape, and later choices from a list."""

    def __init__(self, configuration: dict[Place, int]) -> None:
        self._first, self.then = FromTape(configuration), Listed()

    def below(self, limit: int, place: Place) -> int:
        """See ``Source``."""
        return self._first.below(limit, place) if place[0] == 0 else self.then.below(limit, place)

    def rarely(self, limit: int, per_mille: int, place: Place) -> int:
        """See ``Source``."""
        return self._first.rarely(limit, per_mille, place) if place[0] == 0 else 0


class Simulation(RuleBasedStateMachine):
    """One example is one run. Made by :func:`state_machine`."""

    system: ClassVar[ActorSystem]
    workload: ClassVar[Sequence[ClientCommand]]
    scenario: ClassVar[Scenario]

    def __init__(self) -> None:
        super().__init__()
        self.cluster: SimulatedCluster | None = None

    @initialize(values=st.fixed_dictionaries({name: st.integers(0, count - 1) for name, count in _DRAWN.items()}))
    def begin(self, values: dict[str, int]) -> None:
        """Start a node."""
        self.source = Drawn({(0, name, 0): value for name, value in values.items()})
        with silence(), silenced():
            self.cluster = SimulatedCluster(self.system, [], self.source, KINDS)
        self.injector = FaultInjector(self.cluster)

    @rule(which=st.lists(st.integers(0, WORKLOAD_MAX - 1), min_size=1, max_size=8))
    def send(self, which: list[int]) -> None:
        """Clients send some commands."""
        assert self.cluster is not None
        for number in which:
            self.cluster.clients.add(self.workload[number % len(self.workload)])
        self.cluster.clients.send(len(which))

    @rule(turns=st.integers(1, 12))
    def work(self, turns: int) -> None:
        """Workers take turns."""
        assert self.cluster is not None
        with silence(), silenced():
            for _ in range(turns):
                self.cluster.turn_one()

    @rule(seconds=st.sampled_from((0.05, 0.5, 3.0)))
    def wait(self, seconds: float) -> None:
        """Advance the clock without any activity."""
        assert self.cluster is not None
        self.cluster.clock.advance(seconds)

    @precondition(lambda self: self.cluster is not None)
    @rule(kind=st.sampled_from(KINDS), numbers=st.lists(st.integers(0, 16), max_size=3))
    def fault(self, kind: str, numbers: list[int]) -> None:
        """Inject a fault."""
        assert self.cluster is not None
        self.cluster.begin_step()
        self.source.then.numbers = list(numbers)
        with silence(), silenced():
            self.injector.do(kind)
        self.source.then.numbers = []

    def teardown(self) -> None:
        """End all faults, settle, and check."""
        cluster, self.cluster = self.cluster, None
        if cluster is None:
            return
        try:
            with silence(), silenced():
                cluster.heal()
                cluster.settle()
                scan = Scan(cluster)
                scan.check()
            with silence():
                self.scenario.judge(cluster, scan)
        finally:
            cluster.close()


def state_machine(
    system: ActorSystem,
    *,
    commands: Commands,
    invariant: Invariant = no_invariant,
    allowed_errors: Iterable[AllowedError] = (),
) -> type[RuleBasedStateMachine]:
    """Return a state machine that sends commands, lets workers take turns, and injects faults; ``.TestCase`` runs it.

    At the end of each example all faults end, all commands must be handled, what failed must be explained or among
    ``allowed_errors`` (see ``simulate``), and ``invariant`` must hold.
    """
    workload = drawn(commands, _WORKLOAD_SEED)
    scenario = Scenario(system=system, commands=commands, invariant=invariant, allowed_errors=tuple(allowed_errors))
    namespace = {"system": system, "workload": workload, "scenario": scenario}
    return type("Simulation", (Simulation,), namespace)
