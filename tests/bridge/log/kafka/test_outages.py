"""A broker that is killed and comes back, connections that break, library calls that never return."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.kafka import claim as claims
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.claim import Claim
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.port import (
    Aborted,
    Claimed,
    Committed,
    LogEvent,
    Lost,
)
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.support.kafka.broker import Broker, BrokerMissingError
from tests.support.kafka.tcp_proxy import RoughProxy
from tests.support.logs.log_driver import Driver, LogHarness

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: How many requests are made while connections break.
QUESTIONS = 60


@pytest.fixture
def rough() -> Iterator[tuple[Broker, RoughProxy]]:
    """Give a broker that is reached only through a bad network."""
    proxy = RoughProxy()
    try:
        broker = Broker(advertised_port=proxy.port, controller_apart=True)
    except BrokerMissingError as missing:
        proxy.close()
        pytest.skip(str(missing))
    try:
        broker.start()
        proxy.forward_to(broker.port)
        yield broker, proxy
    finally:
        broker.stop()
        proxy.close()


def is_committed(world: LogHarness, driver: Driver, shard: TopicPartition, next_offset: int, value: bytes) -> bool:
    """Claim, and commit what the claim does not find; return whether it found it.

    If the group gives the shard up meanwhile, neither the claim nor the commit has another answer than that.
    """

    def answer() -> LogEvent:
        world.until(lambda: bool(driver.said(shard)), lambda: f"an answer for {shard}")
        return driver.said(shard)[0]

    world.until(lambda: shard in driver.owned or None, lambda: f"{shard} among {driver.owned}")
    driver.pending.clear()
    driver.log.claim(shard, ())
    claimed = answer()
    if not isinstance(claimed, Claimed):
        return False
    if claimed.committed == next_offset:
        return True
    driver.pending.clear()
    driver.log.commit(world.transaction(shard, next_offset, value))
    answer()
    return False


def commit_at_last(world: LogHarness, driver: Driver, shard: TopicPartition, next_offset: int, value: bytes) -> None:
    """Claim and commit as a worker does, repeatedly until it succeeds: a broker that comes back may refuse some.

    A worker that is shut out by its own late request to join ends, and is started again.
    """
    done = False
    while not done:
        try:
            done = is_committed(world, driver, shard, next_offset, value)
        except LogUnavailable:
            driver.close()
            driver = world.join(0)


def test_offsets_are_read_while_connections_break(rough: tuple[Broker, RoughProxy]) -> None:
    """Each request is answered. librdkafka's admin client hung permanently here, or crashed the process."""
    _, proxy = rough
    world = LogHarness(connect(f"kafka://127.0.0.1:{proxy.port}"), "kafka")
    world.make()
    shard = world.shard()
    admin = Admin(KafkaConfig(f"127.0.0.1:{proxy.port}", Settings(), {}))
    for number in range(QUESTIONS):
        if number % 3 == 0:
            proxy.cut()
        assert admin.committed(world.group, shard) is None
        assert admin.ends([shard]) == {shard: 0}
    admin.close()
    world.close()


def test_a_broker_that_comes_back_is_known_again(rough: tuple[Broker, RoughProxy]) -> None:
    """Its partitions have a new leader epoch, which librdkafka's admin client never asks for by itself."""
    broker, proxy = rough
    world = LogHarness(connect(f"kafka://127.0.0.1:{proxy.port}", Settings(unavailable_timeout_s=120.0)), "kafka")
    world.make()
    driver, shard = world.working()
    driver.log.commit(world.transaction(shard, 1, b"before"))
    driver.until(Committed, shard)
    broker.kill()
    proxy.cut()
    broker.launch()
    commit_at_last(world, driver, shard, 2, b"after")
    assert [record.value for record in world.read(world.events)] == [b"before", b"after"]
    world.close()


def test_a_call_that_never_returns_is_left(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is aborted with an unknown outcome, and the next one goes on; a late return does nothing."""
    monkeypatch.setattr(claims, "STUCK_AFTER_S", -1.0)  # past its slice at once
    asleep, wake = threading.Event(), threading.Event()
    sliced = Claim._sliced

    def sleeps(claim: Claim, call: object, deadline_s: float) -> None:
        if not asleep.is_set():
            asleep.set()
            claim._returns_by_s = time.monotonic()
            wake.wait()
        sliced(claim, call, deadline_s)  # type: ignore[arg-type]

    world = LogHarness(connect(kafka_url), "kafka")
    world.make()
    driver, shard = world.working()
    monkeypatch.setattr(Claim, "_sliced", sleeps)
    driver.log.commit(world.transaction(shard, 1, b"first"))
    aborted = driver.until(Aborted, shard)
    assert "does not return" in aborted.reason
    assert not aborted.routine
    monkeypatch.undo()
    claimed = driver.claimed_again(shard)
    assert claimed.committed is None
    wake.set()
    driver.log.commit(world.transaction(shard, 1, b"again"))
    driver.until(Committed, shard)
    assert [record.value for record in world.read(world.events)] == [b"again"]
    world.close()


def test_a_silent_network_ends_the_claims_after_a_session(rough: tuple[Broker, RoughProxy]) -> None:
    """A silent network ends a worker's claims after a session; when it speaks again, the worker goes on."""
    _, proxy = rough
    settings = Settings(session_timeout_s=1.0, unavailable_timeout_s=120.0)
    world = LogHarness(connect(f"kafka://127.0.0.1:{proxy.port}", settings), "kafka")
    world.make()
    driver, shard = world.working()
    proxy.open_in.clear()
    proxy.open_out.clear()
    # Whichever of the two notices first: the lease, or librdkafka's own watch over the session.
    world.until(lambda: bool(driver.said(shard)), lambda: f"the end of {shard}")
    assert isinstance(driver.said(shard)[0], Aborted | Lost)
    proxy.heal()
    commit_at_last(world, driver, shard, 1, b"after")
    world.close()
