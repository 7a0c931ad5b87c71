"""What a retried command waits for: a worker, the commands before it, a parked command of its key, or its backoff."""

from __future__ import annotations

import msgspec

from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.system.committed import current_record, stashed_commands
from repertory.bridge.system.definition import SystemDefinition


class Retried(msgspec.Struct, frozen=True):
    """A command that an operator retried: ``request`` is the offset of the request, ``offset`` that of the command."""

    entity: str
    partition: int
    key: str
    request: int
    offset: int


def why_it_waits(reader: Reader, system: SystemDefinition, backend: Backend, retried: Retried) -> str:
    """Return why a retried command has not ended yet."""
    commands = topics.commands_topic(system.name, retried.entity)
    shard, name = TopicPartition(commands, retried.partition), f"{retried.entity}/{retried.partition}"
    if not any(shard in member.shards for member in backend.members(system.name)):
        return f"no worker has the shard {name}: no node of {system.name} is running"
    behaviour = system.behaviour(retried.entity)
    try:
        record = current_record(reader, system, behaviour, retried.partition)
    except (DecodeError, Inconsistent) as error:
        return f"the shard {name} cannot be read: {error}"
    stashed = stashed_commands(reader, system, behaviour, retried.partition, skip=lambda _: None)
    queue = [(offset, command) for offset, command in stashed if command.key == retried.key]
    own = dict(queue).get(retried.offset)
    if record.next <= retried.request and (own is None or own.retry is None or own.retry.offset != retried.request):
        return f"the shard {name} is at command {record.next} and has not reached {retried.request}"
    if own is None:
        return "its outcome is not visible yet"
    first, before = queue[0]
    if first != retried.offset and before.parked:
        return f"it is behind command {first} of its key, which is parked: {before.error}: {before.reason}"
    if first != retried.offset:
        return f"it is behind command {first} of its key, which waits for attempt {before.attempt}"
    failed = f" after {own.error}: {own.reason}" if own.error else ""
    return f"attempt {own.attempt} follows{failed}"
