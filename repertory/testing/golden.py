"""Histories that are kept in an application's repository: its code must fold them for ever, or upcast them.

``record`` writes the history of an entity to a file, from a log on which it ran; ``check`` fails once the code no
longer reads it, or comes to another state::

    golden.record(system, "sqlite:bank.db", "tests/golden", (Account, "a-1"))       # once; commit the file

    def test_old_histories() -> None:
        golden.check(system, "tests/golden")

A file is never written again: each was written by the build of its day, and stands for what is in the logs of that day.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.shard.changelog import StateRecord
from repertory.actors.shard.replay import fold, restore
from repertory.bridge import changelog_codec as wire
from repertory.bridge import topics
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import journal, shard_record
from repertory.bridge.system.definition import SystemDefinition
from repertory.supervision.traceback_text import message_of


class _Written(msgspec.Struct, frozen=True):
    """A message as some build wrote it: to read, and its bytes in base64."""

    shown: Any
    data: str

    @classmethod
    def of(cls, data: bytes) -> _Written:
        raw = msgspec.msgpack.decode(data)
        return cls(msgspec.to_builtins(raw, enc_hook=repr, str_keys=True), base64.b64encode(data).decode())

    def read(self) -> bytes:
        return base64.b64decode(self.data)


class _History(msgspec.Struct, frozen=True):
    """One entity: the commands that it was sent, its journal, and its state after them."""

    entity: str
    key: str
    commands: tuple[_Written, ...]
    events: tuple[_Written, ...]
    state: _Written | None


def record(system: SystemDefinition, log: str, folder: str | Path, *entities: tuple[type[Entity], str]) -> list[Path]:
    """Write the history of each entity, by its class and key, to a file of its own; return the files.

    ``log``: its URL. No node needs to run.

    Raises:
        FileExistsError: there is a file for the entity already; move it, or take another folder.
        LookupError: the system does not host the class, or there is nothing of this key.
        LogError: the log cannot be read.
        ValueError: a record cannot be read by this code (DecodeError), or the key is invalid.
    """
    backend = connect(log, system.settings)
    try:
        with closing(backend.reader()) as reader:
            return [_record(system, reader, Path(folder), entity, key) for entity, key in entities]
    finally:
        backend.close()


def _record(system: SystemDefinition, reader: Reader, folder: Path, entity: type[Entity], key: str) -> Path:
    hosted = system.definition(entity)
    behaviour, raw_key = hosted.behaviour, checked_key(key).encode()
    partition = partition_of(raw_key, hosted.partitions)
    path = folder / f"{behaviour.name}-{re.sub(r'[^A-Za-z0-9_.-]', '_', key)}.json"
    if path.exists():
        raise FileExistsError(f"{path} is the history of its day and is never written again; take another folder")

    def values(topic: str) -> Iterator[_Written]:
        for each in reader.read(topic, partition):
            if each.key == raw_key and each.value is not None:
                yield _Written.of(each.value)

    shard = shard_record(reader, system, behaviour, partition)
    events: tuple[_Written, ...] = ()
    if behaviour.journaled:
        found = journal(reader, system, behaviour, partition, shard, from_seq=0)[0]
        events = tuple(_Written.of(each.value or b"") for each in found if each.key == raw_key)
    commands = tuple(values(topics.commands_topic(system.name, behaviour.name)))
    snapshot = None
    for each in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if each.key == raw_key:
            latest = StateRecord() if each.value is None else wire.decode_state(each.value)
            snapshot = latest.snapshot
    if not commands and not events and snapshot is None:
        raise LookupError(f"there is nothing of {entity.__name__} {key!r} in the log")
    state = _fold(behaviour, events) if behaviour.journaled else snapshot
    history = _History(behaviour.name, key, commands, events, None if state is None else _Written.of(state))
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(history), indent=1) + b"\n")
    return path


def _fold(behaviour: Behaviour, events: tuple[_Written, ...]) -> bytes:
    state, data = behaviour.initial(), behaviour.initial_data
    for number, each in enumerate(events):
        try:
            _, state, data = fold(behaviour, state, each.read())
        except Exception as error:
            raise ValueError(f"event {number}, {each.shown}, cannot be folded: {message_of(error)}") from error
    return data


def check(system: SystemDefinition, folder: str | Path) -> int:
    """Read every history of a folder with this code, and return how many there are.

    Commands must decode. The journal must fold to the state that was recorded, as this code reads that: so an upcaster
    of the state must agree with those of the events.

    Raises:
        AssertionError: it names each file, what cannot be read in it, and what differs.
        FileNotFoundError: the folder holds no history.
    """
    files = sorted(Path(folder).glob("*.json"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no history; repertory.testing.golden.record writes one")
    wrong = [f"{path}: {what}" for path in files for what in _wrong(system, path)]
    assert not wrong, "\n".join(wrong)
    return len(files)


def _wrong(system: SystemDefinition, path: Path) -> Iterator[str]:
    try:
        history = msgspec.json.decode(path.read_bytes(), type=_History)
        behaviour = system.behaviour(history.entity)
    except (msgspec.DecodeError, UnicodeDecodeError, LookupError) as error:
        yield message_of(error)
        return
    for number, each in enumerate(history.commands):
        try:
            behaviour.decoder.decode(each.read())
        except ValueError as error:
            yield f"command {number}, {each.shown}, cannot be read: {message_of(error)}"
    try:
        recorded = None if history.state is None else restore(behaviour, history.state.read())[1]
        folded = _fold(behaviour, history.events) if behaviour.journaled else recorded
    except Exception as error:  # noqa: BLE001  an @event method is user code
        yield message_of(error)
        return
    if folded != recorded and recorded is not None and folded is not None:
        states = [restore(behaviour, data)[0] for data in (folded, recorded)]
        yield f"its events lead to {states[0]}, and the recorded state is {states[1]}"
