"""A replica that follows a journal ends where the shard does, whatever was torn, repeated or late in it."""

from __future__ import annotations

import random

import pytest

from repertory import Settings
from repertory.bridge.system.replica import JournaledReplica, Overtaken
from tests.actors.domain import Account
from tests.bridge.test_loop import ALL
from tests.bridge.test_nontransactional import NontransactionalHarness, command


def follow(torn: NontransactionalHarness, replica: JournaledReplica, partition: int) -> None:
    """Follow the journal to its end as a view does: restore where a record does not continue the others."""
    strange = -1
    while True:
        try:
            for record in torn.running.reader.read(replica.topic, partition, replica.next_offset):
                replica.take(record)
        except Overtaken:
            assert record.offset != strange, record
            strange = record.offset
            replica.restore(torn.running.reader)
        else:
            return


@pytest.mark.parametrize("seed", range(25))
def test_a_replica_ends_where_the_shard_does(seed: int) -> None:
    """At least once, with crashes between records and late appends: begun empty, in between, and at the end."""
    draw = random.Random(f"replica {seed}")  # noqa: S311  reproducible on purpose
    limits = Settings(batch_records_max=draw.randrange(1, 9), snapshot_window_records=draw.choice([10, 80, 1_000]))
    torn = NontransactionalHarness(ALL, partitions=2, limits=limits)
    hosted = torn.system.definition(Account)
    replicas = [(JournaledReplica(torn.system, hosted, partition), partition) for partition in range(2)]
    for _ in range(draw.randrange(2, 5)):
        torn.send([command(draw) for _ in range(draw.randrange(5, 60))])
        torn.tear(draw, draw.choice([0.01, 0.05, 0.15]))
        for partition in range(2):
            replica = JournaledReplica(torn.system, hosted, partition)
            replica.restore(torn.running.reader)
            replicas.append((replica, partition))
        for replica, partition in replicas[: draw.randrange(len(replicas))]:
            follow(torn, replica, partition)
    torn.restore()
    torn.settle()
    for replica, partition in replicas:
        follow(torn, replica, partition)
        shard = torn.assigned("account", partition).shard
        assert shard is not None
        lives = {key: (cell.state, cell.version) for key, cell in shard.cells.items() if cell.version}
        assert {key: (kept.state, kept.version) for key, kept in replica.entities.items()} == lives
        assert replica.next_seq == shard.record.seq
    torn.close()
