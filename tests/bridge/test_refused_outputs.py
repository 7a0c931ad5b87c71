"""What a log refuses for good is judged as a failure of its command, and stops no other command."""

from __future__ import annotations

import secrets
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Self

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,  # type: ignore[attr-defined]  # not re-exported
    ResourcePatternType,
    ResourceType,
)
from confluent_kafka.cimpl import NewTopic

from repertory import (
    ActorSystem,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    OutputRefused,
    Policy,
    Publishes,
    Running,
    Settings,
    command,
    event,
    restart,
)
from repertory.bridge.log.connect import connect
from repertory.bridge.reports import ShardAborted
from repertory.verify import verify
from tests.support.clocks import Later
from tests.support.kafka.broker import Broker, BrokerMissingError

EXACTLY_ONCE, AT_LEAST_ONCE = "exactly-once", "at-least-once"
KEYS = ("a", "b", "c")


class Write(Command):
    """Publish ``size`` bytes to a topic, with the entity's key or without one, and journal a text of ``length``."""

    number: int
    topic: str = ""
    size: int = 10
    keyed: bool = True
    length: int = 0


class Plan(Command):
    """Write later, by a timer, or by a delayed message to another key."""

    number: int
    topic: str = ""
    to: str = ""


class Written(Event):
    """A command was handled."""

    number: int
    text: str


class Note(Entity):
    """Remembers which commands it has handled."""

    numbers: tuple[int, ...] = ()

    @command
    def write(self, cmd: Write, ctx: Context) -> Written:
        """Publish, and remember."""
        if cmd.topic:
            ctx.publish(cmd.topic, b"%d " % cmd.number + b"x" * cmd.size, key=ctx.key if cmd.keyed else None)
        return Written(number=cmd.number, text="y" * cmd.length)

    @command
    def plan(self, cmd: Plan, ctx: Context) -> None:
        """Write later."""
        write = Write(number=cmd.number, topic=cmd.topic)
        if cmd.to:
            ctx.tell(Note.write, cmd.to, write, after_s=3_600)
        else:
            ctx.schedule(f"n{cmd.number}", Note.write, write, after_s=3_600)

    @event
    def written(self, evt: Written) -> Self:
        """Remember."""
        return self.replace(numbers=(*self.numbers, evt.number))


def system_with(*topics: str, delivery: str = EXACTLY_ONCE, supervise: Policy | None = None) -> ActorSystem:
    """Return a system with a name of its own, on one shard; each topic outside begins with that name and a dash."""
    name = f"w{uuid.uuid4().hex[:8]}"
    configs = {"small": {"max.message.bytes": "2000"}, "compact": {"cleanup.policy": "compact"}}
    publishes = {f"{name}-{topic}": Publishes(partitions=2, config=configs.get(topic)) for topic in topics}
    system = ActorSystem(name, settings=Settings(delivery=delivery), publishes=publishes)
    system.host(Note, partitions=1, supervise=supervise)
    return system


def admin_of(url: str) -> AdminClient:
    """Return an admin client for a Kafka."""
    return AdminClient({"bootstrap.servers": url.removeprefix("kafka://")})


def until(check: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline_s, f"waited 60 s for {what}"
        time.sleep(0.05)


def delete_on_kafka(url: str, topic: str) -> None:
    """Delete a topic, and wait until it is gone."""
    admin = admin_of(url)
    admin.delete_topics([topic])[topic].result(30)
    until(lambda: topic not in admin.list_topics(timeout=10).topics, f"the end of {topic}")


def send(running: Running, writes: list[Write]) -> None:
    """Send commands, to the keys in turn."""
    running.client.tell_all((Note.write, KEYS[write.number % len(KEYS)], write) for write in writes)


def handled(running: Running) -> list[int]:
    """Return the numbers of the commands that were handled."""
    states = [running.state(Note, key) for key in KEYS]
    assert all(list(state.numbers) == sorted(state.numbers) for state in states if state), "out of order"
    return sorted(number for state in states if state for number in state.numbers)


def published(running: Running, topic: str) -> Counter[int]:
    """Return the numbers of the commands that have published to a topic, and how often."""
    records = [
        record
        for partition in range(running.reader.partition_count(topic) or 0)
        for record in running.reader.read(topic, partition)
    ]
    return Counter(int((record.value or b"").split()[0]) for record in records)


def check_dead(running: Running, guilty: set[int]) -> None:
    """Check that the guilty commands are dead letters for that reason, and nothing else is."""
    letters = running.dead_letters()
    assert {letter.error for letter in letters} == {"repertory.actors.context.OutputRefused"}
    assert {letter.message.number for letter in letters if isinstance(letter.message, Write)} == guilty
    assert isinstance(running.system, ActorSystem)
    assert verify(running.reader, running.system).ok


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", [EXACTLY_ONCE, AT_LEAST_ONCE])
def test_a_broker_that_refuses_a_record_stops_no_other_command(kafka_url: str, delivery: str) -> None:
    """Too large for its topic, without a key to a compacted topic, to a topic that was deleted, in either delivery."""
    system = system_with("small", "compact", "gone", "fine", delivery=delivery)
    reasons: list[str] = []
    small, compact, gone, fine = system.publishes
    with system.start(kafka_url) as running:
        running.report = lambda report: reasons.append(report.reason) if isinstance(report, ShardAborted) else None
        send(running, [Write(number=number, topic=fine) for number in range(3)])
        running.settle()
        delete_on_kafka(kafka_url, gone)
        writes = [Write(number=number, topic=(small, compact, fine)[number % 3]) for number in range(3, 60)]
        guilty = {
            10: Write(number=10, topic=small, size=5_000),
            25: Write(number=25, topic=compact, keyed=False),
            30: Write(number=30, topic=gone),
            45: Write(number=45, topic=small, size=9_000),
        }
        send(running, [guilty.get(write.number, write) for write in writes])
        running.settle(120)
        innocent = [number for number in range(60) if number not in guilty]
        assert handled(running) == innocent
        check_dead(running, set(guilty))
        found = published(running, small) + published(running, compact) + published(running, fine)
        assert sorted(found) == innocent
        assert delivery == AT_LEAST_ONCE or set(found.values()) == {1}
        # The small topic takes less than a batch. That is learned once, and then each refusal names its record.
        together = [reason for reason in reasons if "MSG_SIZE_TOO_LARGE" in reason and "one of" in reason]
        assert len(together) <= 1, together
        assert sum("at most the 2,000 bytes" in reason for reason in reasons) == len(together), reasons


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", [EXACTLY_ONCE, AT_LEAST_ONCE])
def test_an_own_topic_that_takes_less_than_its_shard_writes(kafka_url: str, delivery: str) -> None:
    """The events topic was made by hand, with a limit below ``output_bytes_max``: the large event is refused alone."""
    system = system_with(delivery=delivery)
    name = f"{system.name}.note.events"
    admin = admin_of(kafka_url)
    admin.create_topics([NewTopic(name, 1, 1, config={"max.message.bytes": "3000"})])[name].result(30)
    with system.start(kafka_url) as running:
        writes = [Write(number=number, length=20 if number != 13 else 10_000) for number in range(40)]
        send(running, writes)
        running.settle(120)
        assert handled(running) == [number for number in range(40) if number != 13]
        check_dead(running, {13})


@pytest.mark.kafka
def test_the_policy_judges_a_refused_output_as_a_failure_of_its_handler(kafka_url: str) -> None:
    """With STOP the key is parked, the next attempt runs the handler again, and passes once the topic is corrected."""
    system = system_with("small", supervise=restart(on={OutputRefused: Directive.STOP}))
    (small,) = system.publishes
    with system.start(kafka_url) as running:
        send(running, [Write(number=0, topic=small, size=5_000), Write(number=1), Write(number=3)])
        running.settle(120)
        assert handled(running) == [1]
        (parked,) = running.parked()
        assert (parked.key, parked.error) == ("a", "repertory.actors.context.OutputRefused")
        assert f"{small}/" in parked.reason and "max.message.bytes" in parked.reason


@pytest.fixture(scope="module")
def guarded_url() -> Iterator[str]:
    """Give the URL of a Kafka with an authorizer that allows whatever no rule denies."""
    authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    try:
        broker = Broker([authorizer, "super.users=User:admin", "allow.everyone.if.no.acl.found=true"])
    except BrokerMissingError as missing:
        pytest.skip(str(missing))
    try:
        yield broker.start().url
    finally:
        broker.stop()


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", [EXACTLY_ONCE, AT_LEAST_ONCE])
def test_a_topic_that_this_user_may_not_write(guarded_url: str, delivery: str) -> None:
    """Every command that publishes there is dead-lettered; those beside it are handled."""
    system = system_with("denied", "fine", delivery=delivery)
    denied, fine = system.publishes
    backend = connect(guarded_url)
    system.prepare(backend)
    backend.close()
    anybody = (ResourceType.TOPIC, denied, ResourcePatternType.LITERAL, "User:*", "*")
    rules = [
        AclBinding(*anybody, AclOperation.ALL, AclPermissionType.ALLOW),
        AclBinding(*anybody, AclOperation.WRITE, AclPermissionType.DENY),
    ]
    admin = admin_of(guarded_url)
    for rule in admin.create_acls(rules).values():
        rule.result(30)
    with system.start(guarded_url) as running:
        guilty = {5, 6, 20}
        send(running, [Write(number=number, topic=denied if number in guilty else fine) for number in range(30)])
        running.settle(120)
        assert handled(running) == [number for number in range(30) if number not in guilty]
        check_dead(running, guilty)


@pytest.mark.kafka
def test_a_topic_that_grows_or_is_made_anew_with_fewer_partitions(kafka_url: str) -> None:
    """No partition count is cached for ever: a topic that grows is placed by the new number, one that shrinks too."""
    system = system_with("grows", "shrinks")
    grows, shrinks = system.publishes
    admin = admin_of(kafka_url)
    with system.start(kafka_url) as running:
        send(running, [Write(number=number, topic=(grows, shrinks)[number % 2]) for number in range(10)])
        running.settle()
        admin.create_partitions([NewPartitions(grows, 8)])[grows].result(30)
        delete_on_kafka(kafka_url, shrinks)
        admin.create_topics([NewTopic(shrinks, 1, 1)])[shrinks].result(30)
        until(lambda: len(admin.list_topics(timeout=10).topics[grows].partitions) == 8, "more partitions")
        until(lambda: running.tick(0.05) or running._log.partition_count(grows) == 8, "the new number")
        send(
            running, [Write(number=number, topic=(grows, shrinks)[number % 2], keyed=False) for number in range(10, 60)]
        )
        running.settle(120)
        assert handled(running) == list(range(60))
        assert running.dead_letters() == []
        used = [partition for partition in range(8) if any(True for _ in running.reader.read(grows, partition))]
        assert max(used) > 1
        assert sorted(published(running, shrinks)) == list(range(11, 60, 2))


@pytest.mark.parametrize("delivery", [EXACTLY_ONCE, AT_LEAST_ONCE])
@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_topic_that_is_gone_from_the_embedded_log(kind: str, url: str, delivery: str) -> None:
    """As on Kafka: the commands that publish there are dead-lettered, the others are handled."""
    system = system_with("gone", "fine", delivery=delivery)
    gone, fine = system.publishes
    with system.start(url) as running:
        send(running, [Write(number=0, topic=gone)])
        running.settle()
        if kind == "memory":
            connection = running._backend._memory.connection()  # type: ignore[attr-defined]
        else:
            connection = sqlite3.connect(url.removeprefix("sqlite:"))
        for statement in ("DELETE FROM topic", "DELETE FROM partition", "DELETE FROM record"):
            connection.execute(f"{statement} WHERE topic = ?", (gone,))
        connection.commit()
        if kind == "sqlite":
            connection.close()
        send(running, [Write(number=number, topic=gone if number in (4, 9) else fine) for number in range(1, 20)])
        running.settle()
        assert handled(running) == [number for number in range(20) if number not in (4, 9)]
        letters = running.dead_letters()
        assert {letter.error for letter in letters} == {"repertory.actors.context.OutputRefused"}
        assert len(letters) == 2


@pytest.mark.kafka
@pytest.mark.parametrize("delivery", [EXACTLY_ONCE, AT_LEAST_ONCE])
def test_what_is_due_and_refused_is_a_dead_letter(kafka_url: str, delivery: str) -> None:
    """A timer and a delayed message whose records the broker does not take any more; the others are sent."""
    system = system_with(delivery=delivery)
    with system.start(kafka_url) as running:
        plans = [Plan(number=number, to="d" if number % 4 == 1 else "") for number in range(20)]
        large = secrets.token_hex(5_000)  # It cannot be compressed to less than half.
        plans[6], plans[9] = Plan(number=6, topic=large), Plan(number=9, topic=large, to="d")
        running.client.tell_all((Note.plan, KEYS[plan.number % len(KEYS)], plan) for plan in plans)
        until(lambda: (running.tick(0.01), len(running.timers()) == len(plans))[1], "the plans")
        topic = f"{system.name}.note.commands"
        limit = ConfigEntry("max.message.bytes", "3000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[limit])
        admin = admin_of(kafka_url)
        admin.incremental_alter_configs([resource])[resource].result(30)
        running._clock = Later(running._clock, 3_600_000)
        running.crash()  # The new worker has the later clock.
        until(lambda: (running.tick(0.01), not running.timers())[1], "the end of all timers")
        running.settle()
        letters = running.dead_letters()
        assert {letter.error for letter in letters} == {"repertory.actors.context.OutputRefused"}
        assert sorted(m.number for letter in letters if isinstance(m := letter.message, Write)) == [6, 9]
        assert {letter.source_topic for letter in letters} == {topic}
        keys = (*KEYS, "d")
        states = [state for key in keys if (state := running.state(Note, key)) is not None]
        assert sorted(number for state in states for number in state.numbers) == sorted({*range(20)} - {6, 9})
        report = verify(running.reader, system)
        assert report.ok, report
