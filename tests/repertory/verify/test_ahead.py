"""``verify`` and commands that a shard without room has handled before their turn: whole logs pass, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from repertory import Done, Running, TooLate
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import SHARD_KEY
from repertory.actors.wire import encode, written_name
from repertory.bridge.changelog_codec import decode_shard
from repertory.bridge.log.record import Record
from repertory.verify import verify
from tests.apps import sagas
from tests.apps.purses import Fill, Purse
from tests.apps.sagas import Begin, Deal, Go, Op
from tests.repertory.verify.test_timers import Damage, Damaged

#: Two sagas of one shard.
FULL, OTHER = [key for key in map("d{}".format, range(100)) if partition_of(key.encode(), 2) == 0][:2]
BUGGY = Begin(ops=(Op("take", "p0", 4), Op("bug")))
#: Fails before its first step: nobody sleeps backwards.
UNABLE = Begin(ops=(Op("nap", s=-1.0),))


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A shard with room for one command of each key: two sagas are parked, a signal has no room, one is cancelled."""
    monkeypatch.setenv("SAGAS_STASH", "1")
    with sagas.made("ahead").start() as running:
        running.client.tell(Purse.fill, "p0", Fill(amount=100))
        for key in (FULL, OTHER):
            running.client.tell(Deal.deal, key, BUGGY)
        running.settle()
        running.client.tell(Deal.go, FULL, Go(number=1))
        running.client.tell(Deal.go, FULL, Go(number=2))
        assert running.client.cancel(Deal, OTHER) == Done()
        yield running


def failed(running: Running, damage: Damage = lambda record: iter((record,))) -> dict[str, str]:
    """Return the checks that fail for a log with damage."""
    reader: Any = Damaged(running, damage)
    return {check.name: check.detail for check in verify(reader, running.system).checks if not check.ok}  # type: ignore[arg-type]


def test_whole_logs_pass(running: Running) -> None:
    """While the shard stands still, and once the other cancel has made room: what it overtook was never stashed."""
    assert failed(running) == {}
    assert running.client.cancel(Deal, FULL) == Done()
    assert isinstance(running.client.ask(Deal.go, FULL, Go(number=3)), TooLate)
    running.settle()
    assert failed(running) == {}
    running.crash()
    running.settle()
    assert failed(running) == {}


def test_a_shard_record_that_forgets_them_is_named(running: Running) -> None:
    """Its next owner would handle them again."""
    seen = []

    def damage(record: Record) -> Iterator[Record]:
        if record.key == SHARD_KEY and record.topic.endswith(".deal.state"):
            shard = decode_shard(record.value or b"")
            seen.append(shard.ahead)
            value = encode(msgspec.structs.replace(shard, ahead=()))
            record = msgspec.structs.replace(record, value=value)
        yield record

    assert "which the shard record does not say to be handled" in failed(running, damage)["atomicity"]
    assert any(seen)

    def other(record: Record) -> Iterator[Record]:
        if record.key == SHARD_KEY and (shard := decode_shard(record.value or b"")).ahead:
            value = encode(msgspec.structs.replace(shard, ahead=(0, *shard.ahead)))
            record = msgspec.structs.replace(record, value=value)
        yield record

    assert "before their turn, with next" in failed(running, other)["shard records"]


def test_a_cancel_that_has_dropped_a_start_passes() -> None:
    """It is answered as one that cancels a saga; without the dead letter of the start that is not explained."""
    with sagas.made("dropped").start() as running:
        running.client.tell(Deal.deal, "d", UNABLE)
        running.settle()
        assert running.client.cancel(Deal, "d", reason="wrong") == Done()
        (letter,) = running.dead_letters()
        assert letter.error == "Cancelled"
        assert failed(running) == {}

        def damage(record: Record) -> Iterator[Record]:
            headers = [(name, b"Dropped" if value == b"Cancelled" else value) for name, value in record.headers]
            yield msgspec.structs.replace(record, headers=tuple(headers))

        assert [*failed(running, damage)] == ["decisions"]


def test_a_cancel_whose_dropped_start_was_deleted_passes() -> None:
    """Retention of dead letters takes what would show that it dropped one; any other answer is still named."""

    class Cut(Damaged):
        def bounds(self, topic: str, partition: int) -> tuple[int, int]:
            low, high = self._reader.bounds(topic, partition)
            return (high, high) if topic.endswith(".dead-letters") else (low, high)

        def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
            return iter(()) if topic.endswith(".dead-letters") else super().read(topic, partition, from_offset)

    def late(record: Record) -> Iterator[Record]:
        is_answer = written_name(record.value or b"") == "Done"
        yield msgspec.structs.replace(record, value=encode(TooLate())) if is_answer else record

    with sagas.made("cut").start() as running:
        running.client.tell(Deal.deal, "d", UNABLE)
        running.settle()
        assert running.client.cancel(Deal, "d") == Done()
        whole: Any = Cut(running, lambda record: iter((record,)))
        damaged: Any = Cut(running, late)
        assert verify(whole, running.system).ok
        assert not verify(damaged, running.system).ok
