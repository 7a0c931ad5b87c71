"""A projection of a journal that is torn, repeated and late: the events that count, each of them once, in order."""

from __future__ import annotations

import random
from typing import Any

import pytest

from repertory.bridge.system.projected import Retry
from repertory.bridge.system.settings import Settings
from repertory.projections.feed import Feed
from repertory.projections.partition import PartitionProjection
from tests.bridge.test_loop import ALL
from tests.bridge.test_nontransactional import NontransactionalHarness, command
from tests.repertory.projections.fake_sql import Crash, FakeSql, retried, within


class ProjectedHarness(NontransactionalHarness):
    """At each start of a worker, a projector has worked for a while, and may have crashed itself."""

    draw: random.Random
    sql: dict[int, FakeSql]

    def follow(self, draw: random.Random) -> None:
        """Begin to project."""
        self.draw, self.sql = draw, {partition: FakeSql({}) for partition in range(self.partitions)}
        for sql in self.sql.values():
            sql.fate = lambda _at: draw.choice(["", "", "", "", "", "", "", "crash", "world", "lost"])
        self.start()

    def start(self) -> None:
        """Start a projector, which knows nothing but what is in its database."""
        self.feed = Feed("bank", "account")
        self.projections = {each: PartitionProjection(sql, Retry(1_000)) for each, sql in self.sql.items()}
        for partition in self.projections:
            self.feed.own(partition)

    def restore(self) -> None:
        """See ``LoopHarness.restore``."""
        super().restore()
        for _ in range(self.draw.randrange(4)):
            self.project()

    @staticmethod
    def _is_known(each: PartitionProjection) -> bool:
        if each.row is not None and each.row.failed >= 0:
            each.row = None
        return each.load(1e9)

    def project(self) -> bool:
        """Read and apply a batch of each partition. Too many crashes at one event stop it: an operator retries."""
        moved = False
        for sql in self.sql.values():
            within(sql, retried)
        try:
            rows = {
                n: each.row for n, each in self.projections.items() if self._is_known(each) and each.row is not None
            }
            wrong = self.feed.read(self.running.reader, rows, self.draw.randrange(1, 9), 0.0)
            assert wrong == {}
            for partition in rows:
                if events := self.feed.partitions[partition].events:
                    moved |= self.projections[partition].step(events[: self.draw.randrange(1, 9)], 1e9)
                    self.projections[partition].due_s = 0.0
        except Crash:
            self.start()
            return True
        return moved

    def drain(self) -> None:
        """Project all that counts, without faults."""
        for sql in self.sql.values():
            sql.fate = lambda _at: ""
        quiet = 0
        while quiet < 3:
            quiet = 0 if self.project() else quiet + 1


@pytest.mark.parametrize("seed", range(25))
def test_late_and_torn_records_are_projected_once(seed: int) -> None:
    """Whatever owners append that were replaced; the projector crashes too, and reads in small steps."""
    draw = random.Random(f"projected {seed}")  # noqa: S311
    limits = Settings(
        batch_records_max=draw.randrange(1, 9), mailbox_records_max=draw.randrange(1, 12),
        snapshot_window_records=draw.choice([10, 80, 1_000]), seen_causes_max=400,
    )  # fmt: skip
    torn: Any = ProjectedHarness(ALL, partitions=draw.randrange(1, 4), limits=limits)
    torn.follow(draw)
    for _ in range(draw.randrange(1, 4)):
        torn.send([command(draw) for _ in range(draw.randrange(5, 60))])
        torn.tear(draw, draw.choice([0.01, 0.05, 0.15]))
    torn.backend.arrive()
    torn.running.crash()  # The next owner writes a shard record.
    torn.settle()
    torn.drain()
    for partition, sql in torn.sql.items():
        wanted = [record.offset for record in torn.counted("bank.account.events", partition)]
        assert [event.offset for event in sql.applied] == wanted, partition
        assert sql.doubled == 0
    torn.close()
