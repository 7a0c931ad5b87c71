"""Reads all entities of a shard at once from its committed records; ``committed`` reads one by its key."""

from __future__ import annotations

from repertory.actors.entity import Entity
from repertory.actors.headers import SEQ
from repertory.actors.shard.changelog import SHARD_KEY
from repertory.actors.wire import DecodeError
from repertory.bridge import changelog_codec as wire
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record
from repertory.bridge.silence import silenced
from repertory.bridge.system.committed import Skip, decoded_as, decoded_shard, evolved, journal, snapshot_of
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition


@silenced()
def shard_entities(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, *, only: str | None = None,
    skip: Skip = None,
) -> dict[str, Entity]:  # fmt: skip
    """Return the entities of a shard by their keys, or the one of the key ``only``, without those whose life has ended.

    A record that cannot be decoded is a DecodeError that names it or, with ``skip``, its entity is left out after
    ``skip`` was called with that sentence.
    """
    behaviour, wanted = hosted.behaviour, None if only is None else only.encode()
    latest: dict[bytes, Record] = {}
    for record in reader.read(topics.state_topic(system.name, behaviour.name), partition):
        if record.key == SHARD_KEY or (
            record.key and not record.key.startswith(b"\0") and wanted in (None, record.key)
        ):
            latest[record.key] = record
    shard = decoded_shard(latest.pop(SHARD_KEY, None))
    found: dict[bytes, tuple[Entity, int]] = {}
    lost: set[bytes] = set()

    def note(key: bytes, error: DecodeError) -> None:
        if skip is None:
            raise error
        skip(str(error))
        lost.add(key)

    seqs = {key: record.position[0] for key, record in latest.items() if record.value is not None}
    for key, record in latest.items():
        try:
            state = None if record.value is None else decoded_as(wire.decode_state, record)
            if state is not None and state.snapshot is not None:
                found[key] = snapshot_of(behaviour, record, state.snapshot), record.position[1]
        except DecodeError as error:
            note(key, error)
    for each in journal(reader, system, behaviour, partition, shard)[0] if behaviour.journaled else ():
        seq, raw = each.number(SEQ), each.key
        if (
            raw is None
            or wanted not in (None, raw)
            or raw in lost
            or seq <= seqs.get(raw, -1)
            or seq < shard.tail_start
        ):
            continue
        try:
            found[raw] = evolved(behaviour, found[raw][0] if raw in found else behaviour.initial(), each)
        except DecodeError as error:
            note(raw, error)
    return {
        key.decode("utf-8", "backslashreplace"): entity
        for key, (entity, version) in found.items() if version and key not in lost
    }  # fmt: skip
