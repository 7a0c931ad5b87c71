"""What counts as the same value: what this code reads, in value and in type; a build may change how it is written."""

from __future__ import annotations

import datetime as dt
import enum
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch
from uuid import uuid4

import msgspec
import pytest

from repertory import ActorSystem, Command, Context, Entity, Event, Publishes, Settings, command, event, partition_of
from repertory.actors.shard import decision
from repertory.actors.shard.changelog import StateRecord, encode_changelog_record
from repertory.actors.wire import DecodeError, encode
from repertory.bridge.changelog_codec import decode_state
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output, Record
from repertory.bridge.system.running import Running
from repertory.verify import VerificationReport, verify
from repertory.verify.values import alike
from tests.apps import gauges


class Colour(enum.Enum):
    """Was text in the first build."""

    RED = "red"


class Build(msgspec.Struct, frozen=True):
    """One build of an application: a journaled and a stateful entity that keep the values they are told."""

    system: ActorSystem
    noter: type[Entity]
    keeper: type[Entity]
    note: type[Command]


def build(name: str, kind: Any, default: Any, *, more: bool = False) -> Build:
    """Make a build in which values are of type ``kind``; with ``more``, everything has one more field."""
    extra = {"more": (int, 7)} if more else {}

    def fields(**own: Any) -> dict[str, Any]:
        chosen = {**own, **extra}
        return {
            "__annotations__": {field: given[0] for field, given in chosen.items()},
            **{field: given[1] for field, given in chosen.items() if len(given) > 1},
            "__module__": __name__,
        }

    note = type(Command)("Note", (Command,), fields(value=(kind,)), name="Note")
    noted = type(Event)("Noted", (Event,), fields(value=(kind,)), name="Noted")
    told = type(Event)("Told", (Event,), fields(value=(kind,)), name="Told")

    def note_(self: Any, cmd: Any, ctx: Context) -> Any:
        ctx.tell(keeper.note, ctx.key, cmd)  # type: ignore[attr-defined]
        ctx.publish(f"{name}-news", told(value=cmd.value), key=ctx.key)
        return noted(value=cmd.value)

    def noted_(self: Any, evt: Any) -> Any:
        return self.replace(last=evt.value, count=self.count + 1)

    def keep(self: Any, cmd: Any) -> Any:
        return self.replace(last=cmd.value, count=self.count + 1)

    own = fields(last=(kind, default), count=(int, 0))
    note_.__annotations__ = {"cmd": note, "ctx": Context, "return": noted}
    noted_.__annotations__ = {"evt": noted, "return": Self}
    keep.__annotations__ = {"cmd": note, "return": Self}
    noter = type(Entity)("Noter", (Entity,), {**own, "note": command(note_), "noted": event(noted_)}, name="Noter")
    keeper = type(Entity)("Keeper", (Entity,), {**own, "note": command(keep)}, name="Keeper")
    publishes = {f"{name}-news": Publishes(partitions=1)}
    system = ActorSystem(
        name, settings=Settings(snapshot_window_bytes_max=1, snapshot_window_records=3), publishes=publishes
    )
    system.host(noter, partitions=1)
    system.host(keeper, partitions=1)
    return Build(system, noter, keeper, note)


def failing(report: VerificationReport) -> dict[str, list[str]]:
    """Return the failed checks and their offenders."""
    return {check.name: [str(each) for each in check.offenders] for check in report.checks if not check.ok}


def written(url: str, old: Build, values: list[Any]) -> None:
    """Let a build write a log: the journal has a tail that no snapshot covers."""
    with old.system.start(url) as running:
        for number, value in enumerate(values * 8):
            note = old.note(value=value)
            running.client.tell(old.noter.note, f"k{number % 2}", note)  # type: ignore[attr-defined]
            running.settle()


def verified(url: str, new: Build) -> VerificationReport:
    """Verify a log with a build."""
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        return verify(reader, new.system)


CHANGES: dict[str, tuple[tuple[Any, Any], tuple[Any, Any], list[Any]]] = {
    "int to float": ((int, 0), (float, 0.0), [2, 3]),
    "int to Decimal": ((int, 0), (Decimal, Decimal(0)), [2, 3]),
    "int to an optional one": ((int, 0), (int | None, 0), [2, 3]),
    "an optional float that was an int": ((int | None, None), (float | None, None), [2, None]),
    "a list to a tuple": ((list[int], []), (tuple[int, ...], ()), [[2], [3, 4]]),
    "ints in a list to floats": ((list[int], []), (tuple[float, ...], ()), [[2], [3, 4]]),
    "ints in a map to floats": ((dict[str, int], {}), (dict[str, float], {}), [{"a": 2}, {"b": 3, "a": 1}]),
    "text to an enum": ((str, "red"), (Colour, Colour.RED), ["red"]),
    "text to a time": (
        (str, "1970-01-01T00:00:00Z"),
        (dt.datetime, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
        ["2026-11-26T12:00:00Z", "2026-11-26T14:00:00+02:00"],
    ),
}


@pytest.fixture
def name() -> str:
    """Return a new name of a system."""
    return f"b{uuid4().hex[:8]}"


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return the URL of a log that outlives a system."""
    return f"sqlite:{tmp_path / 'log.db'}"


@pytest.mark.parametrize("change", CHANGES)
def test_what_reads_the_same_is_no_damage(name: str, url: str, change: str) -> None:
    """A build that writes a value in another way, and reads the old one as the same, is content with an old log."""
    old, new, values = CHANGES[change]
    written(url, build(name, *old), values)
    report = verified(url, build(name, *new))
    assert failing(report) == {}
    assert not any(check.unverifiable for check in report.checks)
    new_build = build(name, *new)
    with new_build.system.start(url) as running:  # The same shards, restored by the new build, go on.
        written_on = msgspec.convert(values[0], new[0])
        running.client.tell(new_build.noter.note, "k0", new_build.note(value=written_on))  # type: ignore[attr-defined]
        running.settle()
    assert failing(verified(url, new_build)) == {}


def test_a_new_field_with_a_default_is_no_damage(name: str, url: str) -> None:
    """Commands, events, states and published records of the old build lack the field."""
    written(url, build(name, int, 0), [2, 3])
    report = verified(url, build(name, int, 0, more=True))
    assert failing(report) == {}


def test_a_field_that_was_removed_is_refused_by_the_shard_alone(name: str, url: str) -> None:
    """A shard does not start with a state that has a field it would lose; nothing is called damaged beside that."""
    written(url, build(name, int, 0, more=True), [2, 3])
    found = failing(verified(url, build(name, int, 0)))
    assert found.keys() == {"restore"}
    assert all("unknown field `more`; run the code that wrote it" in sentence for sentence in found["restore"])


@pytest.mark.kafka
def test_what_reads_the_same_is_no_damage_on_kafka(name: str, kafka_url: str) -> None:
    """As on the embedded log."""
    written(kafka_url, build(name, int, 0), [2, 3])
    assert failing(verified(kafka_url, build(name, float, 0.0))) == {}


# --- damage is found ----------------------------------------------------------------------------------------------


def first(url: str, topic: str) -> Record:
    """Return the first record of a topic with a key that is no control character."""
    with closing(connect(url)) as backend, closing(backend.reader()) as reader:
        return next(record for record in reader.read(topic, 0) if not (record.key or b"\0").startswith(b"\0"))


def rewrite(url: str, record: Record, value: bytes) -> None:
    """Change the value of a record in the file."""
    place = (record.topic, record.partition, record.offset)
    with closing(sqlite3.connect(url.removeprefix("sqlite:"))) as connection, connection:
        connection.execute("UPDATE record SET value = ? WHERE (topic, partition, offset) = (?, ?, ?)", (value, *place))


@pytest.mark.parametrize(
    ("kind", "value", "forged"),
    [
        (int | float, 2, 2.0),
        (int | float, 2.0, 2),
        (int | bool, 1, True),
        (Any, [1, {"a": 2}], [1, {"a": 2.0}]),
        (Any, {"a": (True,)}, {"a": (1,)}),
    ],
)
def test_types_are_compared(name: str, url: str, kind: Any, value: Any, forged: Any) -> None:
    """Where a type leaves open what a value is, 2 is not 2.0 and True is not 1, however deep."""
    made = build(name, kind, None if kind is Any else 0)
    written(url, made, [value])
    record = first(url, f"{name}.noter.state")
    state = decode_state(record.value or b"")
    held = {**msgspec.msgpack.decode(state.snapshot or b""), "last": forged}
    changed = msgspec.structs.replace(state, snapshot=msgspec.msgpack.encode(held))
    rewrite(url, record, encode_changelog_record(changed))
    assert "states" in failing(verified(url, made))


def test_an_event_of_another_type_is_found(name: str, url: str) -> None:
    """An event with 2.0 is not that of a command with 2."""
    made = build(name, int | float, 0)
    written(url, made, [2])
    record = first(url, f"{name}.noter.events")
    rewrite(url, record, (record.value or b"").replace(b"value\x02", b"value" + encode(2.0)))
    assert "decisions" in failing(verified(url, made))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (2, 2.0, False),
        (True, 1, False),
        (0.0, -0.0, False),
        (float("nan"), float("nan"), True),
        ((1, 2), [1, 2], False),
        ((1, (2,)), (1, (2.0,)), False),
        ({"a": {"b": 1}}, {"a": {"b": True}}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (frozenset({1, 2}), frozenset({2, 1}), True),
        (frozenset({1}), frozenset({1.0}), False),
        (gauges.Gauge(level=2), gauges.Gauge(level=2.0), False),
        (None, gauges.Gauge(), False),
    ],
)
def test_values_are_alike_in_value_and_type(one: object, other: object, *, expected: bool) -> None:
    """Deep within containers too."""
    assert alike(one, other) is expected


# --- the state that is shown --------------------------------------------------------------------------------------


@pytest.fixture
def running() -> Iterator[Running]:
    """Run gauges on a log in memory."""
    with gauges.system.start("memory:") as running:
        yield running


@pytest.mark.parametrize("entity", [gauges.Gauge, gauges.Dial])
def test_what_is_shown_is_what_the_shard_holds(running: Running, entity: type[gauges.Gauge | gauges.Dial]) -> None:
    """An int in a float field is shown as the float that the shard reads: before a snapshot, and after a crash."""
    for level in (2, 3):
        running.client.tell(entity.fill, "g", gauges.Fill(level=level))  # type: ignore[misc]
        running.settle()
        shown = running.state(entity, "g")
        assert alike(shown and shown.level, float(level))
        held = next(cells.get("g") for cells in shard_cells(running) if cells.get("g") is not None)
        assert held is not None and alike(held.state, shown)
        running.crash()
        running.settle()
        assert alike(running.state(entity, "g"), shown)


def shard_cells(running: Running) -> Iterator[Any]:
    """Yield the entities of each shard in memory."""
    for assigned in running.loop.region:
        if assigned.shard is not None:
            yield assigned.shard.cells


def test_a_state_that_was_not_read_back_is_found() -> None:
    """A kernel that goes on with the handler's own value: verify, which uses the same kernel, finds the difference."""
    survived = decision._survived
    with (
        patch.object(decision, "_survived", lambda made, state, size: (state, survived(made, state, size)[1])),
        gauges.system.start("memory:") as running,
    ):
        running.client.tell(gauges.Dial.fill, "g", gauges.Fill(level=2))
        running.settle()
        assert "restore" in failing(verify(running.reader, gauges.system))


def test_a_field_that_a_shard_refuses_is_not_shown(running: Running) -> None:
    """A snapshot with a field that this code would lose is an error, as it is for the shard."""
    snapshot = encode({"type": "Dial", "level": 1.0, "before": "", "unknown": 1})
    value, headers = encode_changelog_record(StateRecord(snapshot=snapshot)), (("seq", b"0"), ("version", b"1"))
    partition = partition_of(b"g", 2)
    running._backend.appender().append([Output("gauges.dial.state", partition, b"g", value, headers)])
    with pytest.raises(DecodeError, match="unknown field `unknown`; run the code that wrote it"):
        running.state(gauges.Dial, "g")
