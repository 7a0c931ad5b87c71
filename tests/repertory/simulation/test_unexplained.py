"""A run in which something failed by itself is no clean run: what was parked or dead-lettered, and why, is said."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Annotated, Self

import pytest
from msgspec import Meta

from repertory import ActorSystem, Command, Context, Directive, Entity, Event, command, event, restart
from repertory.actors.control import DropParked
from repertory.simulation import SimulationFailed, simulate
from repertory.simulation.check import Scan
from repertory.simulation.choices import FromTape
from repertory.simulation.clients import ClientCommand
from repertory.simulation.cluster import SimulatedCluster
from repertory.simulation.runs import Scenario
from repertory.simulation.unexplained import RULE, not_applied
from tests.apps import simulated

pytestmark = pytest.mark.simulation


class Tick(Command):
    """A number that is above 0; the decoder refuses others."""

    number: Annotated[int, Meta(gt=0)]


class Forward(Command):
    """Tell another meter a number."""

    number: int


class Publish(Command):
    """Publish to a topic."""

    topic: str


class Ticked(Event):
    """Counted."""

    number: int


class Broken(LookupError):
    """Of the application."""


class Meter(Entity):
    """Counts; 13 and 14 are failures."""

    total: int = 0

    @command
    def tick(self, cmd: Tick) -> Ticked:
        """Count."""
        if cmd.number == 13:
            raise ValueError("13 is no number")
        if cmd.number == 14:
            raise Broken("14 neither")
        return Ticked(number=cmd.number)

    @command
    def forward(self, cmd: Forward, ctx: Context) -> None:
        """Tell another meter."""
        ctx.tell(Meter.tick, f"{ctx.key}-next", Tick(number=cmd.number))

    @command
    def publish(self, cmd: Publish, ctx: Context) -> None:
        """Publish."""
        ctx.publish(cmd.topic, b"x")

    @event
    def ticked(self, evt: Ticked) -> Self:
        """Count."""
        return self.replace(total=self.total + evt.number)


system = ActorSystem("meters")
system.host(Meter, partitions=1, supervise=restart(on={ValueError: Directive.STOP, LookupError: Directive.RESUME}))


def commands(random: Random, *special: Command) -> Iterator[ClientCommand]:
    """Yield ticks for three meters, with some other commands among them."""
    for number in range(1, 10):
        yield Meter.tick, f"m{random.randrange(3)}", Tick(number=number)
    for message in special:
        handler = Meter.tick if isinstance(message, Tick) else Meter.forward if isinstance(message, Forward) else None
        yield handler or Meter.publish, "bad", message
        yield Meter.tick, "bad", Tick(number=1)


@pytest.mark.parametrize(
    ("special", "says"),
    [
        ([Tick(number=13)], r"1 key was parked .*\n  meters.meter.commands/0/9 key 'bad' parked: ValueError: 13 is no"),
        ([Tick(number=14)], r"1 command dead-lettered.*\n.* key 'bad' dead-lettered: \S+\.Broken: 14 neither"),
        ([Tick(number=14)] * 3, r"3 commands dead-lettered.*\n.* 14 neither \(and 2 more of this key\)"),
        ([Forward(number=0)], r"key 'bad' parked: \S+\.ContractViolation: Tick could not be decoded by its receiver"),
        ([Tick(number=0)], r"key 'bad' dead-lettered: DecodeError: Expected `int` >= 1"),
        ([Publish(topic="nowhere")], r"key 'bad' parked: \S+\.ContractViolation: publish to 'nowhere'"),
    ],
)
def test_what_fails_by_itself_makes_a_run_unclean(special: list[Command], says: str) -> None:
    """A handler that raises, a client that sends what no one can decode, a topic that is not there: each is said."""
    with pytest.raises(SimulationFailed, match=r"seed \d is no clean run\n") as failure:
        simulate(system, commands=lambda random: commands(random, *special), seeds=range(5))
    assert failure.value.rule == RULE
    failure.match(says)
    failure.match("correct the handler or the workload; if this error is meant to happen, allow it: allowed_errors")
    if isinstance(special[0], Tick) and special[0].number:
        failure.match(r"test_unexplained.py\", line \d+, in tick\n +raise ")
    assert not failure.value.schedule, "it needs no fault"
    assert len(failure.value.commands) == 1


def test_what_is_allowed_is_counted() -> None:
    """An error is allowed by its class, by a class that it derives from, or by its name."""
    name = f"{__name__}.Broken"
    for allowed in ((Broken, ValueError), (LookupError, "ValueError"), (Exception,), (name, ValueError)):
        totals = simulate(
            system,
            commands=lambda random: commands(random, Tick(number=14), Tick(number=13)),
            allowed_errors=allowed,
            seeds=range(5, 10),
            faults=("kill", "abort"),
        )
        assert totals.probes["dead-lettered by an allowed error"] == totals.probes["parked by an allowed error"] == 5
    with pytest.raises(SimulationFailed, match="no clean run"):
        simulate(system, commands=lambda random: commands(random, Tick(number=14)), allowed_errors=(ValueError,))


def test_what_a_fault_explains_is_clean() -> None:
    """Whatever the simulator raises, kills, drops or sends by itself makes no run unclean."""
    faults = ("raise", "memory", "garbage", "twice", "operate", "kill", "node-lost")
    totals = simulate(system, commands=commands, seeds=range(60), faults=faults)
    assert totals.probes["parked by a fault"] > 0
    assert totals.probes["dead-lettered by a fault"] > 0
    assert not totals.probes["dead-lettered by an allowed error"]


def test_a_parked_key_counts_although_an_operator_dropped_its_command() -> None:
    """The simulator's operator hides no bug: a key that parked by itself is judged, whatever became of it."""
    cluster = SimulatedCluster(system, [(Meter.tick, "bad", Tick(number=13))], FromTape({}), ())
    cluster.settle()
    (place,) = [assigned.place for worker in cluster.node.workers.values() for assigned in worker.region]
    cluster.clients.operate(place, "bad", DropParked(offset=0, reason="simulated"))
    cluster.settle()
    scenario, scan = Scenario(system=system, commands=commands), Scan(cluster)
    scan.check()
    found = list(not_applied(cluster, scan.records()))
    assert [(each.is_parked, each.error) for each in found] == [(True, "ValueError"), (False, "Dropped")]
    assert [each.is_explained for each in found] == [False, True]
    with pytest.raises(Exception, match="1 key was parked and 0 commands dead-lettered"):
        scenario.judge(cluster, scan)
    cluster.close()


def test_a_command_may_be_as_large_as_in_production() -> None:
    """The simulator has no limit of its own for the size of a command."""

    def large(_: Random) -> Iterator[ClientCommand]:
        yield Meter.publish, "bad", Publish(topic="x" * 500_000)

    with pytest.raises(SimulationFailed, match="ContractViolation"):
        simulate(system, commands=large, seeds=range(1), faults=())


def test_the_system_of_the_tests_says_what_it_allows() -> None:
    """Without its allowed errors, the system that fails on purpose is not clean."""
    with pytest.raises(SimulationFailed, match="no clean run"):
        simulate(simulated.system, commands=simulated.commands, seeds=range(3), minimise=False)
