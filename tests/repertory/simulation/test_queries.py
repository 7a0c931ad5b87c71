"""The simulator asks queries under all faults, and finds a query that is answered from another state."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, Self
from unittest.mock import patch

import pytest

from repertory import ActorSystem, Answer, Command, Entity, Query, command, query
from repertory.actors.shard import query_runner
from repertory.actors.shard.decision import decide_query
from repertory.simulation import SimulationFailed, generated, simulate
from tests.actors.domain import Account, Bag, GetBalance, GetItems
from tests.apps import simulated
from tests.campaigns.mutants import at_least_once

pytestmark = pytest.mark.simulation

#: A query of an account that fails is answered ``Undelivered``; it raises one of these.
ALLOWED = (*simulated.allowed_errors, Exception)


def commands(random: Random) -> Iterator[tuple[Any, str, Command | Query]]:
    """Yield the commands of the simulated system, and a query after every other one."""
    for each in simulated.commands(random, 150):
        yield each
        key = f"k{random.randrange(5)}"
        if random.random() < 0.5:
            error = random.choice(("", "", "", "restart", "escalate"))
            yield Account.look, key, GetBalance(error=error)
        if random.random() < 0.2:
            yield Bag.look, key, GetItems(spoil=random.random() < 0.2)


@pytest.mark.parametrize("mode", ["exactly-once", "at-least-once"])
def test_no_fault_breaks_the_promise_of_queries(mode: str) -> None:
    """Each query has one answer, from its state or from one before commands that were stashed; nothing else."""
    system = simulated.system if mode == "exactly-once" else at_least_once(simulated.system)
    totals = simulate(system, commands=commands, allowed_errors=ALLOWED, seeds=range(2_000, 2_050), minimise=False)
    assert totals.runs == 50


class Tick(Command):
    """Count."""


class GetCount(Query):
    """Ask for the count."""


class Count(Answer):
    """The count."""

    ticks: int


class Counter(Entity):
    """Stateful."""

    ticks: int = 0

    @command
    def tick(self, _cmd: Tick) -> Self:
        return self.replace(ticks=self.ticks + 1)

    @query
    def count(self, _ask: GetCount) -> Count:
        return Count(ticks=self.ticks)


counters = ActorSystem("counters")
counters.host(Counter, partitions=2)


def test_queries_are_drawn_like_commands() -> None:
    """A system without a workload of its own is asked too, by default."""
    drawn = list(generated(counters)(Random(0)))  # noqa: S311  reproducible on purpose
    assert {type(message) for _, _, message in drawn} == {Tick, GetCount}
    assert simulate(counters, seeds=range(5)).runs == 5


def test_an_answer_from_another_state_is_found() -> None:
    """A shard that answers from the initial state breaks the rule by name."""

    def stale(behaviour: Any, _state: Any, _data: Any, *values: Any, **named: Any) -> Any:
        return decide_query(behaviour, behaviour.initial(), behaviour.initial_data, *values, **named)

    with (
        patch.object(query_runner, "decide_query", stale),
        pytest.raises(SimulationFailed, match="a query is answered from its state"),
    ):
        simulate(counters, seeds=range(20), minimise=False)
