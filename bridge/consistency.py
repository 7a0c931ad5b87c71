"""The shard record against the rest of the log: the group's offset, the commands, and the identity of the topics.

Each contradiction is `Inconsistent` (design, section 6), and its sentence says what an operator can do.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from repertory.actors.shard.changelog import ShardRecord, first_shard_record
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
    skipped, and nothing would contradict it. If an operator adopts the topics, the new ids are recorded.
    """
    merged = msgspec.structs.replace(record, topic_ids={**record.topic_ids, **_ids(codec, claimed)})
    names = recreated(codec, record, claimed.ids)
    if not names:
        return merged, ()
    if not config.adopt:
        raise Inconsistent.of(
            config.id,
            f"{names} deleted and created again since this shard wrote its last record; its offsets and records "
            f"are not those that the shard record counts (commands below {record.next} were handled). If all topics "
            f"of the entity were restored from one backup, run: repertory topics … --adopt {config.id} --reason …; "
            "else delete the system's topics and its group to start over",
        )
    then = f"the shard continues at command {record.next}"
    return merged, (
        Incident(
            str(config.id), "TopicsAdopted", f"{names} deleted and created again: {config.adopt}", then, "adopted"
        ),
    )


def recreated(codec: Codec, record: ShardRecord, ids: Mapping[str, str]) -> str:
    """Return the topics whose ids are not those of the shard record, to begin a sentence; "" if there is none."""
    known = {topic: record.topic_ids[role] for role, topic in codec.topics.items() if role in record.topic_ids}
    found = [topic for topic in known if topic in ids and ids[topic] != known[topic]]
    return f"{' and '.join(found)} {'were' if len(found) > 1 else 'was'}" if found else ""


def check_offsets(config: ShardConfig, codec: Codec, claimed: Claimed, next_offset: int) -> None:
    """Check the next command of a shard record against the group's offset and the commands topic."""
    if claimed.committed not in (None, next_offset):
        raise Inconsistent.of(
            config.id,
            f"the group's offset is {claimed.committed}, the shard record says {next_offset}: the offset was "
            f"moved, or a transaction is torn; if it was moved, set it back to {next_offset}",
        )
    check_commands(config, codec, claimed, next_offset)


def check_commands(config: ShardConfig, codec: Codec, claimed: Claimed, next_offset: int) -> None:
    """Check that the commands topic still has the next command and those after it."""
    if claimed.start_offset > next_offset:
        raise Inconsistent.of(
            config.id,
            f"commands {next_offset} to {claimed.start_offset - 1} are missing from {codec.commands} and were "
            "never handled; restore them from a backup, and keep commands longer (retention.ms=-1)",
        )
    if claimed.end_offset < next_offset:
        raise Inconsistent.of(
            config.id,
            f"{codec.commands} ends at {claimed.end_offset} where {next_offset} is next: its tail is lost; "
            "restore it from a backup",
        )


def _ids(codec: Codec, claimed: Claimed) -> dict[str, str]:
    return {role: claimed.ids[topic] for role, topic in codec.topics.items() if topic in claimed.ids}
