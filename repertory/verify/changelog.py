"""The changelog of one shard: its shard record, the states of its entities, and its stashed commands."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import NamedTuple

from repertory.actors.headers import CAUSE, SEQ, VERSION
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import CHANGELOG_INDEX, ShardRecord, StashedRecord, StateRecord
from repertory.actors.wire import DecodeError
from repertory.bridge.codec import decode_shard, decode_stashed, decode_state
from repertory.bridge.consistency import recreated
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.topics import SHARD_KEY
from repertory.verify.findings import Findings, Place, text
from repertory.verify.gather import Records
from repertory.verify.produced import cause_of

_NEVER_BACK = ("next", "seq", "tail_start", "tail_offset", "changelog")


class StateEntry(NamedTuple):
    """A state record of one key; ``state`` None is a tombstone."""

    place: Place
    state: StateRecord | None
    seq: int
    version: int

    @property
    def lives(self) -> bool:
        """Whether the record holds an entity, not its end."""
        return self.state is not None and self.state.snapshot is not None


class Changelog:
    """The state and stash topics of one shard. Filled by `read`."""

    def __init__(self, source: TopicPartition, hosted: HostedEntity, findings: Findings) -> None:
        self._source, self._hosted, self._findings = source, hosted, findings
        self.shard: ShardRecord | None = None
        self.latest: dict[str, StateEntry] = {}
        #: The state records of each key, in order, that deciding or folding has not confirmed yet.
        self.unconfirmed: dict[str, list[StateEntry]] = {}
        self.stashed: dict[int, StashedRecord] = {}
        #: The last attempt of each command that was ever stashed, as far as the stash topic still holds it.
        self.attempts: dict[int, int] = {}
        self.seq_last = -1
        #: Whether compaction has deleted nothing. If so, a skipped number means that a record was lost.
        self.is_complete = False
        self._skips: list[tuple[Place, str]] = []
        self._stashed_places: dict[int, Place] = {}
        self._indexes = array("q")

    def read(self, records: Records) -> None:
        """Read both topics."""
        last = -1
        for record in records.read(self._hosted.codec.state, self._source.partition):
            last = self._index(record, last)
            try:
                if record.key == SHARD_KEY:
                    self._shard_record(record, last)
                elif not (record.key or b"").startswith(b"\0"):
                    self._state(record)
            except DecodeError as error:
                finding = self._findings.shards if record.key == SHARD_KEY else self._findings.states
                finding.wrong(record, f"cannot be decoded: {error}")
        last = -1
        for record in records.read(self._hosted.codec.stash, self._source.partition):
            last = self._index(record, last)
            self._stashed_command(record)
        self._check_indexes()
        self._check_stashed()
        codec = self._hosted.codec
        if self.shard is not None and (
            names := recreated(codec, self.shard, records.reader.topic_ids([*codec.topics.values()]))
        ):
            place = Place(codec.state, self._source.partition)
            self._findings.shards.wrong(place, f"{names} deleted and created again since the shard record was written")

    def _index(self, record: Record, last: int) -> int:
        """Return the number of a record within the shard's changelog; it strictly increases within a topic."""
        finding = self._findings.writer
        finding.looked_at += 1
        self._findings.duplicates.looked_at += 1
        cause = cause_of(record)
        if cause is None or cause.source != self._source or cause.nth < CHANGELOG_INDEX:
            finding.wrong(
                record, f"names the cause {record.header(CAUSE)!r:.300}, which is not of this shard's changelog"
            )
            return last
        if cause.nth <= last:
            finding.wrong(record, f"has changelog number {cause.nth}, behind number {last}")
        self._indexes.append(cause.nth)
        return max(last, cause.nth)

    def _check_indexes(self) -> None:
        """Check that changelog numbers are unique. If none is missing, the numbers of stateful entities have no gap."""
        doubles = 0
        for first, second in pairwise(sorted(self._indexes)):
            if first == second:
                doubles += 1
                place = Place(self._hosted.codec.state, self._source.partition)
                self._findings.duplicates.wrong(place, f"two changelog records have the cause index {first}")
        self.is_complete = self.shard is not None and len(self._indexes) - doubles == self.shard.changelog
        if self.is_complete and self._hosted.behaviour.stateful:
            for skipped, sentence in self._skips:
                self._findings.writer.wrong(skipped, sentence)

    # --- state ------------------------------------------------------------------------------------------------

    def _shard_record(self, record: Record, index: int) -> None:
        self._findings.shards.looked_at += 1
        before, after = self.shard, decode_shard(record.value or b"")
        self.shard = after
        wrong = self._findings.shards.wrong
        if record.number(SEQ) != after.seq:
            wrong(record, f"has seq {after.seq}, but its header has {record.number(SEQ)}")
        if index != CHANGELOG_INDEX + after.changelog - 1:
            wrong(record, f"counts {after.changelog} changelog records, but is number {index - CHANGELOG_INDEX + 1}")
        if after.tail_start > after.seq:
            wrong(record, f"has tail_start {after.tail_start} behind its seq {after.seq}")
        for name in _NEVER_BACK:
            if before is not None and getattr(after, name) < getattr(before, name):
                wrong(record, f"goes back in {name}: {getattr(before, name)} to {getattr(after, name)}")

    def _state(self, record: Record) -> None:
        self._findings.states.looked_at += 1
        state = None if record.value is None else decode_state(record.value)
        key = text(record.key) or ""
        place = Place(record.topic, record.partition, record.offset, key)
        entry = StateEntry(place, state, record.number(SEQ), record.number(VERSION))
        if partition_of(record.key or b"", self._hosted.partitions) != self._source.partition:
            self._findings.writer.wrong(record, "is on a partition that its key does not belong to")
        before = self.latest.get(key)
        if before is not None and 0 <= entry.seq < before.seq:
            self._findings.states.wrong(record, f"goes back from seq {before.seq} to {entry.seq}")
        if entry.seq < 0 and state is not None and (state.snapshot is not None or state.ended):
            self._findings.states.wrong(record, "holds a state but no seq")
        if state is not None and list(state.restarts_ms) != sorted(state.restarts_ms):
            self._findings.states.wrong(record, f"lists restarts out of order: {state.restarts_ms}")
        self._note_skips(entry, before)
        self.seq_last = max(self.seq_last, entry.seq)
        self.latest[key] = entry
        self.unconfirmed.setdefault(key, []).append(entry)

    def _note_skips(self, entry: StateEntry, before: StateEntry | None) -> None:
        """Record where a stateful entity's numbers have a gap, which compaction may have caused."""
        if entry.seq > self.seq_last + 1:
            self._skips.append((entry.place, f"has seq {entry.seq}, but {self.seq_last + 1} is next"))
        version = 0 if before is None else before.version
        again = before is not None and entry.seq == before.seq
        due = {version} if again else {0} if not entry.lives else {version + 1, 1}
        if entry.version not in due:
            self._skips.append((entry.place, f"has version {entry.version}, but {max(due)} is next"))

    # --- stash ------------------------------------------------------------------------------------------------

    def _stashed_command(self, record: Record) -> None:
        self._findings.stashed.looked_at += 1
        if record.key is None or not record.key.isdigit() or len(record.key) > 18:
            self._findings.stashed.wrong(record, "has a key that is not an offset")
            return
        offset = int(record.key)
        self._stashed_places[offset] = Place(record.topic, record.partition, record.offset, text(record.key))
        if record.value is None:
            self.stashed.pop(offset, None)
            return
        try:
            self.stashed[offset] = decode_stashed(record.value)
        except DecodeError as error:
            self._findings.stashed.wrong(record, f"cannot be decoded: {error}")
        else:
            self.attempts[offset] = self.stashed[offset].attempt

    def place_of(self, offset: int) -> Place:
        """Return the place of a command's stash record."""
        return self._stashed_places[offset]

    def _check_stashed(self) -> None:
        """Compare the stashed commands of each key with the counts in its state record."""
        queues: dict[str, list[int]] = {}
        for offset in sorted(self.stashed):
            queues.setdefault(self.stashed[offset].key, []).append(offset)
        for key, queue in queues.items():
            entry = self.latest.get(key)
            state = entry.state if entry is not None else None
            counted = (0, -1) if state is None else (state.stashed, state.stashed_first)
            if counted != (len(queue), queue[0]):
                place = self.place_of(queue[0])._replace(key=key)
                self._findings.stashed.wrong(
                    place,
                    f"{len(queue)} commands of the key are stashed, the first is {queue[0]}; "
                    f"its state record has {counted[0]}, first {counted[1]}",
                )
        for key, entry in self.latest.items():
            if entry.state is not None and entry.state.stashed and key not in queues:
                self._findings.stashed.wrong(
                    entry.place, f"counts {entry.state.stashed} stashed commands, but none is stashed"
                )
