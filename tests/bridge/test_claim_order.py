"""The order in which a worker claims its shards: in each life another, so that none is always the last to be ready."""

from __future__ import annotations

from typing import Self

from repertory import ActorSystem, Command, Entity, command
from repertory.bridge.log.record import TopicPartition
from repertory.supervision import Start

SHARDS = 20


class Add(Command):
    """Add a number."""

    n: int


class Sum(Entity):
    """A sum."""

    total: int = 0

    @command
    def add(self, cmd: Add) -> Self:
        """Add."""
        return self.replace(total=self.total + cmd.n)


def order(seed: int) -> list[str]:
    """Return the order in which a worker claims shards that are assigned together."""
    system = ActorSystem("sums")
    system.host(Sum, partitions=SHARDS)
    region = system.region(system.topology(lambda _topic: SHARDS), seed=seed)
    for partition in range(SHARDS):
        region.add(TopicPartition("sums.sum.commands", partition), 0.0)
        start = region.next_command()
        assert isinstance(start, Start)
        assigned = region.named(start.child)
        assert assigned is not None
        assigned.await_claim(0.0, start.incarnation)
    assert region.next_due_in_s(0.0, lambda: 0) == 0.0
    return [assigned.name for assigned in region.claimable(0.0)]


def test_each_life_has_an_order_of_its_own() -> None:
    """All are claimed; the order is the same for the same life; in some life each is among the first and the last."""
    lives = [order(seed) for seed in range(60)]
    assert order(7) == lives[7]
    assert {frozenset(names) for names in lives} == {frozenset(lives[0])}
    assert len({name for names in lives for name in names[:3]}) == SHARDS
    assert len({name for names in lives for name in names[-3:]}) == SHARDS
