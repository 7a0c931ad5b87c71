"""The shard record against the rest of the log: the group's offset, the commands, and the identity of the topics.

Each contradiction is `Inconsistent` (design, section 6), and its sentence says what an operator can do.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from repertory.actors.shard.changelog import LOST, RECREATED, Accepted, ShardRecord, first_shard_record
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.turn_result import Incident
from repertory.bridge.codec import Codec
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Claimed


def first_record(config: ShardConfig, codec: Codec, claimed: Claimed, *, has_states: bool) -> ShardRecord:
    """Return the record of a shard that never committed; later steps check that nothing is stashed or journaled."""
    if claimed.committed is not None or has_states:
        raise Inconsistent.of(
            config.id,
            f"{codec.state} has no shard record, but the group has an offset ({claimed.committed}) or states; "
            "restore that topic from a backup, or delete the system's topics and its group to start over",
        )
    return msgspec.structs.replace(first_shard_record(claimed.start_offset), topic_ids=_ids(codec, claimed))


def check_topics(
    config: ShardConfig, codec: Codec, claimed: Claimed, record: ShardRecord
) -> tuple[ShardRecord, tuple[Incident, ...]]:
    """Check that each topic is the one that the shard record knows; return the record with all ids, and incidents.

    A topic that was deleted and created again has the same name, and offsets that mean other records: commands would be
    skipped, and nothing would contradict it. If an operator accepts the topics, the new ids are recorded.
    """
    merged = msgspec.structs.replace(record, topic_ids={**record.topic_ids, **_ids(codec, claimed)})
    names = recreated(codec, record, claimed.ids)
    if not names:
        return merged, ()
    if (accepts := _accepted(config, RECREATED)) is None:
        raise Inconsistent.of(
            config.id,
            f"{names} deleted and created again since this shard wrote its last record; its offsets and records "
            f"are not those that the shard record counts (commands below {record.next} were handled). If all topics "
            f"of the entity were restored from one backup, run: repertory topics … --adopt {config.id} --reason …; "
            "else delete the system's topics and its group to start over",
        )
    then = f"the shard continues at command {record.next}"
    what = f"{names} deleted and created again: {accepts.reason}"
    merged = msgspec.structs.replace(merged, accepted=(*merged.accepted, accepts))
    return merged, (Incident(str(config.id), "TopicsAdopted", what, then, RECREATED),)


def recreated(codec: Codec, record: ShardRecord, ids: Mapping[str, str]) -> str:
    """Return the topics whose ids are not those of the shard record, to begin a sentence; "" if there is none."""
    known = {topic: record.topic_ids[role] for role, topic in codec.topics.items() if role in record.topic_ids}
    found = [topic for topic in known if topic in ids and ids[topic] != known[topic]]
    return f"{' and '.join(found)} {'were' if len(found) > 1 else 'was'}" if found else ""


def check_offsets(
    config: ShardConfig, codec: Codec, claimed: Claimed, record: ShardRecord
) -> tuple[ShardRecord, tuple[Incident, ...]]:
    """Check the next command of a shard record against the group's offset; return as `check_commands` does."""
    if claimed.committed not in (None, record.next):
        raise Inconsistent.of(
            config.id,
            f"the group's offset is {claimed.committed}, the shard record says {record.next}: the offset was "
            f"moved, or a transaction is torn; if it was moved, set it back to {record.next}",
        )
    return check_commands(config, codec, claimed, record)


def check_commands(
    config: ShardConfig, codec: Codec, claimed: Claimed, record: ShardRecord
) -> tuple[ShardRecord, tuple[Incident, ...]]:
    """Check that the commands topic still has the next command and those after it.

    Returns the record and incidents; if an operator accepts that commands are lost, the record continues behind them.
    """
    if claimed.end_offset < (end := max((record.next, *(each + 1 for each in record.ahead)))):
        raise Inconsistent.of(
            config.id,
            f"{codec.commands} ends at {claimed.end_offset} where {end} is next: its tail is lost; "
            "restore it from a backup",
        )
    if claimed.start_offset <= record.next:
        return record, ()
    lost = f"commands {record.next} to {claimed.start_offset - 1}"
    if (accepts := _accepted(config, LOST)) is None:
        raise Inconsistent.of(
            config.id,
            f"{lost} are missing from {codec.commands} and were never handled; restore them from a backup, or accept "
            f"the loss: repertory skip-lost … --shard {config.id} --reason …; and keep commands longer "
            "(retention.ms=-1)",
        )
    accepts = msgspec.structs.replace(accepts, first=record.next, last=claimed.start_offset - 1)
    incident = Incident(
        str(config.id), "CommandsLost", f"{lost} are skipped: {accepts.reason}",
        f"the shard continues at command {claimed.start_offset}", LOST,
    )  # fmt: skip
    record = msgspec.structs.replace(record, next=claimed.start_offset, accepted=(*record.accepted, accepts))
    return record, (incident,)


def _accepted(config: ShardConfig, what: str) -> Accepted | None:
    return config.accepts if config.accepts is not None and config.accepts.what == what else None


def _ids(codec: Codec, claimed: Claimed) -> dict[str, str]:
    return {role: claimed.ids[topic] for role, topic in codec.topics.items() if topic in claimed.ids}
