"""The status of each shard of a system, read from its committed records."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import journal, shard_record, stashed_commands
from repertory.bridge.system.definition import EntityDefinition, SystemDefinition

#: ``status`` counts up to this many unhandled commands exactly; above it, it prints "more than".
LAG_COUNTED_MAX = 10_000


class ShardStatus(msgspec.Struct, frozen=True):
    """The status of one shard. ``lag`` counts its unhandled committed commands, up to `LAG_COUNTED_MAX` + 1.

    ``unreadable``: why its records cannot be read; the numbers mean nothing then. "" if they can.
    """

    entity: str
    partition: int
    next_offset: int
    committed: int | None
    lag: int
    journaled: int
    stashed: int
    parked: list[str]
    unreadable: str = ""


def shard_status(reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int) -> ShardStatus:
    """Return the status of a shard from its committed records."""
    behaviour = hosted.behaviour
    record = shard_record(reader, system, behaviour, partition)
    if record.nontransactional and behaviour.journaled:
        _, record = journal(reader, system, behaviour, partition, record)
    commands = topics.commands_topic(system.name, behaviour.name)
    lag = 0
    for _ in reader.read(commands, partition, record.next):
        lag += 1
        if lag > LAG_COUNTED_MAX:
            break
    stashed = stashed_commands(reader, system, behaviour, partition)
    parked = sorted({command.key for _, command in stashed if command.parked})
    committed = reader.committed(system.name, commands, partition)
    return ShardStatus(behaviour.name, partition, record.next, committed, lag, record.seq, len(stashed), parked)


def shard_statuses(reader: Reader, system: SystemDefinition) -> Iterator[ShardStatus]:
    """Read the status of every shard, in the order of ``host()``. One that cannot be read hides no other."""
    for hosted in system.hosted.values():
        for partition in range(hosted.partitions):
            try:
                yield shard_status(reader, system, hosted, partition)
            except (DecodeError, Inconsistent) as error:
                yield ShardStatus(hosted.behaviour.name, partition, 0, None, 0, 0, 0, [], str(error))
