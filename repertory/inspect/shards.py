"""The status of each shard of a system, read from its committed records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.shard.changelog import Accepted
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import current_record, stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.open_effects import effects_on
from repertory.bridge.system.open_sagas import OpenSaga, sagas_on
from repertory.bridge.system.open_timers import owed_records

#: ``status`` counts up to this many unhandled commands exactly; above it, it prints "more than".
LAG_COUNTED_MAX = 10_000


class ShardStatus(msgspec.Struct, frozen=True):
    """The status of one shard. ``lag`` counts its unhandled committed commands, up to `LAG_COUNTED_MAX` + 1.

    ``lost``: the range of commands, from and to, that retention took before they were handled. ``unreadable``: why its
    records cannot be read; the numbers mean nothing then. "" if they can. ``accepted``: what operators have accepted,
    lost commands and recreated topics. ``is_read``: False for a partition that was
    added to the commands topic: the code places no key there, and nobody reads it. ``timers``: open timers and delayed
    messages; ``due_ms``: when (epoch) the first of those was due that have not fired, None if there are none.
    ``effects`` are not settled; ``parked_effects`` of them wait for an operator, and ``effects_not_in_build`` for an
    owner whose build can run them. ``sagas`` are open; ``stuck_sagas`` of them wait for an operator since an undo was
    rejected, by key; ``saga_since_ms`` (epoch): since when the one waits that waits longest, None if none is open.
    """

    entity: str
    partition: int
    next_offset: int
    committed: int | None
    lag: int
    journaled: int
    stashed: int
    parked: list[str]
    lost: tuple[int, int] | None = None
    accepted: tuple[Accepted, ...] = ()
    unreadable: str = ""
    is_read: bool = True
    timers: int = 0
    due_ms: int | None = None
    effects: int = 0
    parked_effects: int = 0
    effects_not_in_build: int = 0
    sagas: int = 0
    stuck_sagas: tuple[str, ...] = ()
    saga_since_ms: int | None = None

    def overdue_ms(self, now_ms: int) -> int:
        """Return for how long a timer has been due at a time, 0 if none is."""
        return 0 if self.due_ms is None else max(0, now_ms - self.due_ms)

    @property
    def name(self) -> str:
        """The shard's name, ``account/3``."""
        return f"{self.entity}/{self.partition}"


def shard_status(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, ids: Mapping[str, str] = {}
) -> ShardStatus:
    """Return the status of a shard from its committed records. ``ids``: those of the entity's topics, by their role."""
    behaviour = hosted.behaviour
    record = current_record(reader, system, behaviour, partition)
    if other := [role for role, known in record.topic_ids.items() if ids.get(role, known) != known]:
        name = f"{system.name}.{behaviour.name}.{other[0]}"
        raise Inconsistent(f"{name} was deleted and created again since the shard record was written")
    commands = topics.commands_topic(system.name, behaviour.name)
    low, _ = reader.bounds(commands, partition)
    lag = _lag(reader, commands, partition, record.next)
    stashed = stashed_commands(reader, system, behaviour, partition)
    parked = sorted({command.key for _, command in stashed if command.parked})
    committed = reader.committed(system.name, commands, partition)
    lost = (record.next, low - 1) if record.changelog and low > record.next else None
    owed = owed_records(reader, system, hosted, partition).values()
    effects = effects_on(reader, system, hosted, partition)
    due_ms = min((each.due_ms for each in owed if not each.fired), default=None)
    sagas = _sagas(reader, system, hosted, partition)
    return ShardStatus(
        behaviour.name, partition, record.next, committed, lag, record.seq, len(stashed), parked, lost, record.accepted,
        timers=len(owed), due_ms=due_ms, effects=len(effects), parked_effects=sum(each.parked for each in effects),
        effects_not_in_build=sum(each.not_in_build for each in effects),
        sagas=len(sagas), stuck_sagas=tuple(each.key for each in sagas if each.stuck),
        saga_since_ms=min((each.since_ms for each in sagas), default=None),
    )  # fmt: skip


def _sagas(reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int) -> list[OpenSaga]:
    """Return the open sagas of a shard."""
    if not isinstance(hosted.behaviour, SagaBehaviour):
        return []
    return [each for each in sagas_on(reader, system, hosted, partition, None) if not each.is_over]


def shard_statuses(reader: Reader, system: SystemDefinition) -> Iterator[ShardStatus]:
    """Read the status of every shard, in the order of ``host()``, and the lag of partitions that are no shards.

    A shard that cannot be read hides no other.
    """
    for hosted in system.hosted.values():
        name = hosted.behaviour.name
        roles = {f"{system.name}.{name}.{role}": role for role in ("commands", "events", "state", "stash")}
        ids = {roles[topic]: found for topic, found in reader.topic_ids([*roles]).items()}
        for partition in range(hosted.partitions):
            try:
                yield shard_status(reader, system, hosted, partition, ids)
            except (DecodeError, Inconsistent, TopicMismatch) as error:
                yield ShardStatus(name, partition, 0, None, 0, 0, 0, [], unreadable=str(error))
        commands = topics.commands_topic(system.name, name)
        for partition in range(hosted.partitions, reader.partition_count(commands) or 0):
            low, _ = reader.bounds(commands, partition)
            committed = reader.committed(system.name, commands, partition)
            lag = _lag(reader, commands, partition, low)
            yield ShardStatus(name, partition, low, committed, lag, 0, 0, [], is_read=False)


def _lag(reader: Reader, commands: str, partition: int, next_offset: int) -> int:
    """Count the commands of a partition from an offset on, up to `LAG_COUNTED_MAX` + 1."""
    lag = 0
    for _ in reader.read(commands, partition, next_offset):
        lag += 1
        if lag > LAG_COUNTED_MAX:
            break
    return lag
