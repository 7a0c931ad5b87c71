"""At least once: the seen records of a shard are those of the messages that it has received."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from repertory import ActorSystem, Settings
from repertory.actors.shard.changelog import SEEN_KEY, SeenRecord, encode_changelog_record
from repertory.bridge.changelog_codec import decode_seen
from repertory.bridge.log.record import Record
from repertory.verify import verify
from tests.actors.domain import Account, Deposit, Pay, Router, Teller

system = ActorSystem(
    "s",
    settings=Settings(
        delivery="at-least-once", seen_causes_max=8, snapshot_window_bytes_max=1, snapshot_window_records=10
    ),
)
for entity in (Account, Teller, Router):
    system.host(entity, partitions=2)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a log with many seen records."""
    path = tmp_path_factory.mktemp("seen") / "log.db"
    with system.start(f"sqlite:{path}") as running:
        for number in range(60):
            running.client.tell(Teller.pay, f"t{number % 5}", Pay(account=f"a{number % 3}", amount=1))
            running.client.tell(Router.deposit, f"t{number % 5}", Deposit(amount=1))
            if number % 7 == 0:
                running.settle()
            if number % 20 == 0:
                running.crash()
        running.settle()
    return path


def failing(path: Path) -> set[str]:
    """Verify, and return the checks that fail."""
    with system.start(f"sqlite:{path}") as running:
        return {check.name for check in verify(running.reader, system).checks if not check.ok}


def last_seen(path: Path) -> Record:
    """Return the last seen record of a shard of accounts."""
    with system.start(f"sqlite:{path}") as running:
        records = running.reader.read("s.account.state", 0)
        return [record for record in records if (record.key or b"").startswith(SEEN_KEY)][-1]


def test_seen_records_follow_from_the_commands(log: Path) -> None:
    """Nothing is wrong with those that a shard wrote, also after crashes."""
    assert last_seen(log).value
    assert failing(log) == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda seen: msgspec.structs.replace(seen, epoch=seen.epoch + 1),
        lambda seen: msgspec.structs.replace(seen, base=seen.base + 1),
        lambda seen: msgspec.structs.replace(seen, causes=seen.causes[2:]),
        lambda seen: msgspec.structs.replace(seen, causes=(*seen.causes, 999, 0)),
        lambda _: SeenRecord(0, 0, ()),
    ],
)
def test_a_seen_record_that_is_altered_is_found(
    log: Path, tmp_path: Path, change: Callable[[SeenRecord], SeenRecord]
) -> None:
    """With another memory the next owner would drop a message, or take one twice."""
    copy = tmp_path / "log.db"
    with closing(sqlite3.connect(log)) as original, closing(sqlite3.connect(copy)) as made:
        original.backup(made)
    record = last_seen(copy)
    value = encode_changelog_record(change(decode_seen(record.value or b"")))
    with closing(sqlite3.connect(copy)) as connection, connection:
        place = (record.topic, record.partition, record.offset)
        connection.execute("UPDATE record SET value = ? WHERE (topic, partition, offset) = (?, ?, ?)", (value, *place))
    assert "shard records" in failing(copy)
