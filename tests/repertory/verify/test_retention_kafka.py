"""Records that a broker has deleted: the system goes on, and ``verify`` checks what is left."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from repertory import ActorSystem, Settings
from repertory.actors.shard.changelog import SHARD_KEY
from repertory.bridge.changelog_codec import decode_shard
from repertory.bridge.system.running import Running
from repertory.verify import VerificationReport, verify
from tests.actors.domain import Account, Deposit, Pay, Teller

pytestmark = pytest.mark.kafka

DEADLINE_S = 60.0


def work(running: Running) -> None:
    """Handle commands in several turns."""
    for number in range(60):
        running.client.tell(Teller.pay, f"t{number % 3}", Pay(account=f"a{number % 5}", amount=1))
        running.client.tell(Account.deposit, f"a{number % 5}", Deposit(amount=2))
        if number % 10 == 9:
            running.settle()


def checked(running: Running) -> VerificationReport:
    """Verify; nothing may be wrong."""
    report = verify(running.reader, running.system)
    assert report.ok, [str(each) for check in report.checks for each in check.offenders]
    return report


@pytest.mark.parametrize(
    "topics",
    [("events",), ("commands",), ("events", "commands")],
    ids=["events", "commands", "events and commands"],
)
def test_what_a_broker_has_deleted_cannot_be_judged(kafka_url: str, topics: tuple[str, ...]) -> None:
    """Events below the tail, handled commands, or both; the next owner restores, and goes on."""
    system = ActorSystem(
        f"r{uuid4().hex[:8]}", settings=Settings(snapshot_window_bytes_max=1, snapshot_window_records=10)
    )
    system.host(Account, partitions=1)
    system.host(Teller, partitions=1)
    with system.start(kafka_url) as running:
        work(running)
        assert not any(check.unverifiable for check in checked(running).checks)
        shards = [r for r in running.reader.read(f"{system.name}.account.state", 0) if r.key == SHARD_KEY]
        shard = decode_shard(shards[-1].value or b"")
        ends = {"events": shard.tail_offset, "commands": shard.next // 2}
        gone = [TopicPartition(f"{system.name}.account.{topic}", 0, ends[topic]) for topic in topics]
        admin = AdminClient({"bootstrap.servers": kafka_url.removeprefix("kafka://")})
        for future in admin.delete_records(gone).values():
            future.result(DEADLINE_S)
        assert [running.reader.bounds(place.topic, 0)[0] for place in gone] == [place.offset for place in gone]
        assert any(check.unverifiable for check in checked(running).checks)
        running.crash()
        work(running)
        assert any(check.unverifiable for check in checked(running).checks)
