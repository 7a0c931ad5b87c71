"""The tests of the Kafka adapter are tested: each of these bugs makes the test that is named for it fail.

The simulator stands on the embedded log and cannot see them. This file holds the table in ``docs/reliability.rst``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Consumer

from repertory.bridge.log.connect import connect
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.claim import Claim
from repertory.bridge.log.kafka.config import KafkaConfig, LogLines
from repertory.bridge.log.kafka.group import GroupMember
from repertory.bridge.log.port import Committed
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.settings import Settings
from tests.bridge.log import test_log_contract as contract
from tests.bridge.log.kafka import test_fencing as fencing
from tests.bridge.log.kafka import test_kafka_log as basics
from tests.support.kafka.tcp_proxy import Catch, LateRequestProxy
from tests.support.logs import log_driver
from tests.support.logs.log_driver import PATIENT, LogHarness
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

DOCS = ROOT / "docs" / "reliability.rst"
#: Shorter than for slow operations: a mutant may make a test wait for something that never happens.
DEADLINE_S = 15.0

Patch = Callable[[pytest.MonkeyPatch], None]


def keep_the_dirty_producer(patch: pytest.MonkeyPatch) -> None:
    """A producer is used again after a connection broke that carried its commit."""
    patch.setattr(LogLines, "answer_lost", property(lambda _: False, lambda *_: None), raising=False)


def trust_the_slow(patch: pytest.MonkeyPatch) -> None:
    """A commit that took longer than its slice is taken for done."""
    true_unknown = Claim._outcome_unknown

    def unknown(claim: Claim, why: str) -> bool:
        if not why.startswith("the commit took"):
            return true_unknown(claim, why)
        claim._report(Committed(claim.shard, {}))
        return True

    patch.setattr(Claim, "_outcome_unknown", unknown)


def end_at_the_stable_offset(patch: pytest.MonkeyPatch) -> None:
    """A claim's ends are the last stable offsets: what is open now is not waited for."""
    patch.setattr(Admin, "ends", lambda admin, shards: {shard: admin.stable_end(shard) for shard in shards})


def shut_nobody_out(patch: pytest.MonkeyPatch) -> None:
    """Each claim has a transactional id of its own, so that earlier owners are not shut out."""
    ids: list[int] = []
    true_shard = KafkaConfig.shard

    def shard(config: KafkaConfig, lines: LogLines, transactional_id: str) -> dict[str, object]:
        ids.append(0)
        return true_shard(config, lines, f"{transactional_id}.{len(ids)}")

    patch.setattr(KafkaConfig, "shard", shard)


def keep_the_metadata(patch: pytest.MonkeyPatch) -> None:
    """The group metadata is read once and kept."""
    kept: dict[int, object] = {}
    true_metadata = GroupMember.metadata
    patch.setattr(GroupMember, "metadata", lambda group: kept.setdefault(id(group), true_metadata(group)))


def ask_no_member(patch: pytest.MonkeyPatch) -> None:
    """A commit does not say which member of the group it is of."""

    def metadata(group: GroupMember) -> object:
        outsider = Consumer({"bootstrap.servers": group._brokers, "group.id": group._member.group})
        return outsider.consumer_group_metadata()

    patch.setattr(GroupMember, "metadata", metadata)


def show_what_was_aborted(patch: pytest.MonkeyPatch) -> None:
    """Readers do not ask for committed records only."""
    true_reader = KafkaConfig.reader
    patch.setattr(
        KafkaConfig, "reader",
        lambda config, lines: true_reader(config, lines) | {"isolation.level": "read_uncommitted"},
    )  # fmt: skip


def leave_the_offset_out(patch: pytest.MonkeyPatch) -> None:
    """The offset is not part of the transaction."""
    true_sliced = Claim._sliced

    def sliced(claim: Claim, call: Callable[[], None], deadline_s: float) -> None:
        if "send_offsets_to_transaction" not in call.__code__.co_names:
            true_sliced(claim, call, deadline_s)

    patch.setattr(Claim, "_sliced", sliced)


def offset_goes_with_the_records(world: LogHarness) -> None:
    """What is committed moves the group's offset."""
    driver, shard = world.working()
    driver.log.commit(world.transaction(shard, 7, b"x"))
    driver.until(Committed, shard)
    assert driver.claimed_again(shard).committed == 7


def commits_go_on_after_a_rebalance(world: LogHarness) -> None:
    """Who has kept a shard through a rebalance commits as before."""
    first, shard = world.working()
    first.log.commit(world.transaction(shard, 1, b"before"))
    first.until(Committed, shard)
    second = world.join(1)
    world.settled(first, second)
    shard = TopicPartition(world.commands, next(iter(first.owned)).partition)
    for _ in range(3):
        first.claimed_again(shard)
        first.log.commit(world.transaction(shard, 1, b"x"))
        if isinstance(first.outcome(shard), Committed):
            return
    raise AssertionError("every commit was refused")


def replaced(world: LogHarness) -> None:
    """See the contract suite; with a short session."""
    short = {"max.poll.interval.ms": "6000"}
    lasting = LogHarness(connect(world.backend.url, Settings(session_timeout_s=6.0), short), "kafka")
    lasting.make()
    try:
        contract.test_a_sleeper_that_was_replaced_commits_nothing(lasting)
    finally:
        lasting.close()


replaced.__name__ = contract.test_a_sleeper_that_was_replaced_commits_nothing.__name__

#: What is planted, and the test that has to fail then.
MUTANTS: list[tuple[Patch, Callable[..., None]]] = [
    (end_at_the_stable_offset, basics.test_a_replay_waits_for_an_open_transaction),
    (show_what_was_aborted, basics.test_a_replay_ends_behind_aborted_records),
    (shut_nobody_out, fencing.test_after_a_false_fencing_the_owner_is_assigned_again),
    (keep_the_metadata, commits_go_on_after_a_rebalance),
    (leave_the_offset_out, offset_goes_with_the_records),
    (ask_no_member, replaced),
]


@pytest.fixture
def world(kafka_url: str) -> Iterator[LogHarness]:
    """Give a world on the test run's Kafka."""
    world = LogHarness(connect(kafka_url, PATIENT), "kafka")
    world.make()
    yield world
    world.close()


@pytest.fixture(autouse=True)
def short_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait long for what never happens."""
    monkeypatch.setattr(log_driver, "DEADLINE_S", DEADLINE_S)


@pytest.mark.parametrize(("plant", "found_by"), MUTANTS, ids=lambda each: each.__name__)
def test_it_is_found(
    world: LogHarness, monkeypatch: pytest.MonkeyPatch, plant: Patch, found_by: Callable[[LogHarness], None]
) -> None:
    """The named test fails."""
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises((AssertionError, StopIteration)):
            found_by(world)


@pytest.mark.parametrize("check", [commits_go_on_after_a_rebalance, offset_goes_with_the_records])
def test_without_it_all_is_well(world: LogHarness, check: Callable[[LogHarness], None]) -> None:
    """The checks of this file pass where nothing is planted."""
    check(world)


proxied = fencing.proxied


#: The same through a proxy.
PROXIED: list[tuple[Patch, Callable[..., None]]] = [
    (keep_the_dirty_producer, fencing.test_a_late_end_of_transaction_tears_nothing),
    (keep_the_dirty_producer, fencing.test_an_offset_that_may_come_late_is_an_unknown_outcome),
    (trust_the_slow, fencing.test_a_commit_that_is_slow_is_not_trusted),
]


@pytest.mark.parametrize(("plant", "found_by"), PROXIED, ids=lambda each: each.__name__)
def test_it_is_found_through_a_proxy(
    proxied: tuple[LogHarness, LateRequestProxy],
    monkeypatch: pytest.MonkeyPatch,
    plant: Patch,
    found_by: Callable[..., None],
) -> None:
    """The named test fails where the network, or the broker, keeps an answer back."""
    given = {"catch": Catch.HOLD} if "catch" in inspect.signature(found_by).parameters else {}
    with monkeypatch.context() as patch:
        plant(patch)
        with pytest.raises(AssertionError):
            found_by(proxied, **given)


def test_the_table_names_them() -> None:
    """``docs/reliability.rst`` has a row for each."""
    text = DOCS.read_text()
    for plant, found_by in [*MUTANTS, *PROXIED]:
        assert plant.__doc__
        row = re.escape(plant.__doc__.rstrip(".")) + r".*\n.*" + re.escape(found_by.__name__)
        assert re.search(row, text), f"docs/reliability.rst lacks {plant.__doc__} {found_by.__name__}"
