"""What the embedded log's file looks like, and who should own which shard of it. Text and pure functions only."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache
from itertools import groupby

from repertory.bridge.log.record import TopicPartition

#: ``PRAGMA application_id`` of a log file: "rprt", so that a foreign SQLite file is told apart before it is touched.
APPLICATION_ID = 0x72707274

#: Raised with every change that an older repertory could not read.
SCHEMA_VERSION = 2

#: By compacted partition, its last pass (``compaction``). A file of schema 2 may lack this table until a system is
#: started on it. An older repertory ignores the table, and reads what compaction has left.
COMPACTION = """
CREATE TABLE IF NOT EXISTS compaction (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, clean_offset INTEGER NOT NULL, kept INTEGER NOT NULL,
    tombstones_offset INTEGER NOT NULL, tombstones_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID
"""

#: ``meta.membership`` counts the changes of any group's members and shares: a worker looks at the tables behind it
#: only when it has moved. ``pid_start`` is the boot and the start time of a process, so a pid that was used again
#: is not taken for the old one. ``shard.next_offset`` is NULL until the first commit.
SCHEMA = f"""
BEGIN;
PRAGMA application_id = {APPLICATION_ID};
CREATE TABLE meta (application_id INTEGER NOT NULL, schema_version INTEGER NOT NULL, membership INTEGER NOT NULL);
CREATE TABLE topic (topic TEXT PRIMARY KEY, id TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE partition (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE record (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    key BLOB, value BLOB, headers BLOB, timestamp_ms INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, offset)
) WITHOUT ROWID;
CREATE TABLE shard (
    grp TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    epoch INTEGER NOT NULL, owner TEXT, next_offset INTEGER,
    PRIMARY KEY (grp, topic, partition)
) WITHOUT ROWID;
CREATE TABLE member (
    grp TEXT NOT NULL, node TEXT NOT NULL, slot INTEGER NOT NULL, owner TEXT NOT NULL,
    pid INTEGER NOT NULL, pid_start TEXT NOT NULL, lease_until_ms INTEGER NOT NULL, subscriptions TEXT NOT NULL,
    PRIMARY KEY (grp, node, slot)
) WITHOUT ROWID;
{COMPACTION};
COMMIT;
"""

#: The fence, first statement of every commit: no row, no commit.
FENCE = "UPDATE shard SET next_offset = ? WHERE grp = ? AND topic = ? AND partition = ? AND epoch = ?"

#: Parameters: how many records, topic, partition. None is numbered: Python 3.12 warns of ``?1``.
RESERVE = """
UPDATE partition SET next_offset = next_offset + ? WHERE topic = ? AND partition = ? RETURNING next_offset
"""


@cache
def insert(records: int) -> str:
    """Return the statement that appends so many records; parameters: all columns of each.

    With forty in one statement a record takes 2.6 µs, with ``executemany`` 3.5 (measured in one run): the write lock is
    what all workers share, so this is the throughput of the machine.
    """
    return f"INSERT INTO record VALUES {', '.join(['(?, ?, ?, ?, ?, ?, ?)'] * records)}"  # noqa: S608 - no text of others


READ = """
SELECT offset, key, value, headers, timestamp_ms FROM record
WHERE topic = ? AND partition = ? AND offset >= ? AND offset < ? ORDER BY offset LIMIT ?
"""

#: The first offset still held and the end; an empty partition holds nothing below its end.
BOUNDS = """
SELECT
    coalesce((SELECT min(offset) FROM record AS r WHERE r.topic = p.topic AND r.partition = p.partition), next_offset),
    next_offset
FROM partition AS p WHERE p.topic = ? AND p.partition = ?
"""

#: Records of a partition below an offset, the last first. SQLite knows a value's length without reading it.
BACKWARDS = """
SELECT offset, key, length(value) FROM record
WHERE topic = ? AND partition = ? AND offset < ? ORDER BY offset DESC LIMIT ?
"""

DELETE = "DELETE FROM record WHERE topic = ? AND partition = ? AND offset BETWEEN ? AND ?"

HAS_COMPACTION = "SELECT 1 FROM sqlite_master WHERE name = 'compaction'"

COMPACTION_OF = """
SELECT clean_offset, kept, tombstones_offset, tombstones_ms, next_offset
FROM compaction JOIN partition USING (topic, partition) WHERE topic = ? AND partition = ?
"""

#: From now on a partition is compacted.
COMPACT = "INSERT OR IGNORE INTO compaction VALUES (?, ?, 0, 0, 0, 0)"

#: What a pass has left, unless a later one of another process is noted.
CLEANED = """
UPDATE compaction SET clean_offset = ?, kept = ?, tombstones_offset = ?, tombstones_ms = ?
WHERE topic = ? AND partition = ? AND clean_offset < ?
"""

#: A taken shard has a new epoch: no earlier owner can write it any more.
TAKE = "UPDATE shard SET owner = ?, epoch = epoch + 1 WHERE grp = ? AND topic = ? AND partition = ?"

CLAIM = "SELECT epoch, next_offset FROM shard WHERE grp = ? AND topic = ? AND partition = ? AND owner = ?"


@cache
def news(topics: int) -> str:
    """Return the statement that reads ``meta.membership`` and the end of each partition of the topics given.

    Each poll after a commit of anybody asks it. It yields one row at least.
    """
    return (
        "SELECT membership, topic, partition, next_offset FROM meta "  # noqa: S608 - no text of others
        f"LEFT JOIN partition ON topic IN ({_places(topics)})"
    )


COMMITTED = """
SELECT next_offset FROM shard WHERE grp = ? AND topic = ? AND partition = ? AND next_offset IS NOT NULL
"""

CHANGED = "UPDATE meta SET membership = membership + 1"

MEMBERS = "SELECT owner, subscriptions FROM member WHERE grp = ? ORDER BY slot, node"

OTHERS = "SELECT owner, pid, pid_start, lease_until_ms FROM member WHERE grp = ? AND owner <> ?"

MEMBER_SHARDS = """
SELECT m.owner, m.node, m.slot, m.pid, m.pid_start, s.topic, s.partition
FROM member AS m LEFT JOIN shard AS s ON s.grp = m.grp AND s.owner = m.owner
WHERE m.grp = ? ORDER BY m.node, m.slot, s.topic, s.partition
"""

#: Parameters: the topics, the owner, and the topics again.
SUBSCRIBE = "UPDATE member SET subscriptions = ? WHERE owner = ? AND subscriptions <> ?"

OCCUPANT = "SELECT owner, pid FROM member WHERE grp = ? AND node = ? AND slot = ?"

OWNERS = "SELECT topic, partition, owner FROM shard WHERE grp = ?"


@cache
def make_shards(topics: int) -> str:
    """Return the statement that makes the missing shards of a group; parameters: the group, and so many topics."""
    return (
        "INSERT OR IGNORE INTO shard (grp, topic, partition, epoch) "  # noqa: S608 - no text of others
        f"SELECT ?, topic, partition, 0 FROM partition WHERE topic IN ({_places(topics)})"
    )


def _places(count: int) -> str:
    return ", ".join("?" * count)


GIVE_UP = "UPDATE shard SET owner = NULL WHERE grp = ? AND topic = ? AND partition = ?"

#: Parameters: the group, twice.
FREE_OWNERLESS = """
UPDATE shard SET owner = NULL
WHERE grp = ? AND owner IS NOT NULL AND owner NOT IN (SELECT owner FROM member WHERE grp = ?)
"""


def allot(
    members: Mapping[str, Collection[str]], owners: Mapping[TopicPartition, str | None]
) -> dict[TopicPartition, str]:
    """Return who should own each shard: even shares of every topic, as few moves as that allows.

    ``members`` maps owners to the topics that they subscribe to, in slot order; ``owners`` maps every shard to
    who has it now. A member keeps what it has, lowest partitions first, up to its share; the rest fills the
    others in slot order. The shards that do not divide evenly go round from topic to topic, so the totals of
    members with the same subscriptions differ by one at most. A topic without members is left out.

    Every member computes this from the same rows and comes to the same answer.
    """
    allotted: dict[TopicPartition, str] = {}
    turn = 0
    for topic, group in groupby(sorted(owners), key=lambda shard: shard.topic):
        shards = list(group)
        candidates = [owner for owner, topics in members.items() if topic in topics]
        if not candidates:
            continue
        share, extra = divmod(len(shards), len(candidates))
        room = {owner: share + ((i - turn) % len(candidates) < extra) for i, owner in enumerate(candidates)}
        turn += extra
        homeless = []
        for shard in shards:
            owner = owners[shard]
            if owner is not None and room.get(owner, 0) > 0:
                room[owner] -= 1
                allotted[shard] = owner
            else:
                homeless.append(shard)
        free = (owner for owner in candidates for _ in range(room[owner]))
        allotted.update(zip(homeless, free, strict=True))
    return allotted
