"""The changelog of one shard, its state topic: shard records, the states of its entities, its stashed commands."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import accumulate, pairwise

from repertory.actors.headers import CAUSE, SEQ, VERSION
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    SEEN_KEY,
    SHARD_KEY,
    EffectRecord,
    ShardRecord,
    TellRecord,
    TimerRecord,
)
from repertory.actors.shard.changelog_digest import ChangelogDigest
from repertory.actors.wire import DecodeError
from repertory.bridge.changelog_codec import (
    decode_answer,
    decode_effect,
    decode_owed,
    decode_seen,
    decode_shard,
    decode_state,
    is_answer,
    is_effect,
    is_owed,
    is_stashed,
)
from repertory.bridge.consistency import recreated
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record, TopicPartition
from repertory.verify.findings import Findings, Place, text
from repertory.verify.headers import are_of_the_changelog, names
from repertory.verify.produced import cause_of
from repertory.verify.records import Records
from repertory.verify.shard_records import ShardRecords
from repertory.verify.stash_records import StashRecords, StateEntry


class Changelog:
    """The state topic of one shard. Filled by `read`."""

    def __init__(self, source: TopicPartition, hosted: HostedEntity, findings: Findings) -> None:
        self._source, self._hosted, self._findings = source, hosted, findings
        self._shards, self._stash = ShardRecords(hosted, findings), StashRecords(findings)
        #: The last shard record, brought up to date with the journal.
        self.shard: ShardRecord | None = None
        self.latest: dict[str, StateEntry] = {}
        #: The state records of each key, in order, that deciding or folding has not confirmed yet.
        self.unconfirmed: dict[str, list[StateEntry]] = {}
        self.stashed, self.attempts = self._stash.stashed, self._stash.attempts
        #: The timers, delayed messages and effects that are open, by their keys.
        self.owed: dict[str, TimerRecord | TellRecord] = {}
        self.effects: dict[str, EffectRecord] = {}
        #: How many effects that must run alone were written since the last shard record.
        self._blamed = 0
        self.seq_last = -1
        #: Whether compaction has deleted nothing. If so, a skipped number means that a record was lost.
        self.is_complete = False
        #: Whether the shard has written down messages that it has received.
        self.has_seen = False
        self._digest = ChangelogDigest()
        self._skips: list[tuple[Place, str]] = []
        self._indexes, self._times_ms = array("q"), array("q")
        #: When the latest record up to each changelog number was written, if none is missing.
        self._latest_ms: list[int] = []

    def read(self, records: Records, sent: Iterable[int], *, decides: bool) -> None:
        """Read the topic. ``decides``: the policies are those of the code that wrote the log.

        ``sent``: the changelog numbers of what the shard has sent later, which are in no record of this topic.
        """
        last = -1
        for record in records.read(self._hosted.codec.state, self._source.partition):
            last = self._index(record, last)
            key = record.key or b""
            try:
                if key == SHARD_KEY:
                    self._shards.take(record, decode_shard(record.value or b""), last, self._digest.value, self._blamed)
                    self._blamed = 0
                elif is_stashed(record):
                    self._stash.take(record, last)
                elif not key.startswith(b"\0"):
                    self._state(record, last)
                elif key.startswith(SEEN_KEY):
                    self.has_seen = True
                    decode_seen(record.value or b"")
                elif is_owed(key) or is_effect(key):
                    self._owed(key.decode("utf-8", "backslashreplace"), record.value)
                elif is_answer(key):
                    if record.value is not None:
                        decode_answer(record.value)
                else:
                    self._findings.states.wrong(record, "has a key that no shard writes")
            except DecodeError as error:
                finding = self._findings.shards if key == SHARD_KEY else self._findings.states
                finding.wrong(record, f"cannot be decoded: {error}")
            if key != SHARD_KEY:
                self._digest.write(key.decode("utf-8", "backslashreplace"), record.value, _seq(record))
        self.shard = self._shards.last
        self._indexes.extend(sent)
        self._times_ms.extend([0] * (len(self._indexes) - len(self._times_ms)))
        self._check_indexes()
        self._check_stashed()
        forgotten = self._forgotten if decides and self.is_complete and not self._is_nontransactional else None
        self._stash.settle(self.unconfirmed, forgotten=forgotten, is_complete=self.is_complete)
        end = records.reader.bounds(*self._source)[1]
        self._shards.settle(sorted(self._indexes), self.stashed, end, self._digest.value)
        codec = self._hosted.codec
        if self.shard is not None and (
            names := recreated(codec, self.shard, records.reader.topic_ids([*codec.topics.values()]))
        ):
            place = Place(codec.state, self._source.partition)
            self._findings.shards.wrong(place, f"{names} deleted and created again since the shard record was written")

    def has_handled(self, offset: int) -> bool:
        """Return whether a command was handled, as the last shard record says."""
        return self.shard is not None and self.shard.has_handled(offset)

    def _index(self, record: Record, last: int) -> int:
        """Return the number of a record within the shard's changelog; it strictly increases within a topic."""
        finding = self._findings.writer
        finding.looked_at += 1
        if not are_of_the_changelog(record):
            finding.wrong(record, f"has headers that no shard writes to its changelog: {names(record.headers)}"[:500])
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
        self._times_ms.append(record.timestamp_ms)
        return max(last, cause.nth)

    def _owed(self, place: str, value: bytes | None) -> None:
        if value is None:
            self.owed.pop(place, None)
            self.effects.pop(place, None)
        elif is_effect(place.encode()):
            effect = self.effects[place] = decode_effect(value)
            self._blamed += effect.alone
        else:
            self.owed[place] = decode_owed(place, value)

    def _check_indexes(self) -> None:
        """Check that changelog numbers are unique. If none is missing, the numbers of stateful entities have no gap."""
        doubles = 0
        for first, second in pairwise(sorted(self._indexes)):
            if first == second:
                doubles += 1
                place = Place(self._hosted.codec.state, self._source.partition)
                self._findings.duplicates.wrong(place, f"two changelog records have the cause index {first}")
        self.is_complete = self.shard is not None and len(self._indexes) - doubles == self.shard.changelog
        if self.is_complete:
            by_index = sorted(zip(self._indexes, self._times_ms, strict=True))
            self._latest_ms = list(accumulate((at_ms for _, at_ms in by_index), max))
        if self.is_complete and self._hosted.behaviour.stateful:
            for skipped, sentence in self._skips:
                self._findings.writer.wrong(skipped, sentence)

    @property
    def _is_nontransactional(self) -> bool:
        """Whether turns can have left no changelog record, so that a clock that went ahead left no trace."""
        return self.shard is not None and self.shard.epoch > 0

    def _forgotten(self, number: int) -> float:
        """Return up to when restarts were forgotten: a clock that went ahead and was set back has forgotten more."""
        latest_ms = self._latest_ms[min(number - CHANGELOG_INDEX, len(self._latest_ms) - 1)]
        return latest_ms - self._hosted.policy.within_s * 1000

    # --- state ------------------------------------------------------------------------------------------------

    def _state(self, record: Record, number: int) -> None:
        self._findings.states.looked_at += 1
        state = None if record.value is None else decode_state(record.value)
        key = text(record.key) or ""
        place = Place(record.topic, record.partition, record.offset, key)
        entry = StateEntry(place, state, record.number(SEQ), record.number(VERSION), number)
        if partition_of(record.key or b"", self._hosted.partitions) != self._source.partition:
            self._findings.writer.wrong(record, "is on a partition that its key does not belong to")
        before = self.latest.get(key)
        if before is not None and 0 <= entry.seq < before.seq:
            self._findings.states.wrong(record, f"goes back from seq {before.seq} to {entry.seq}")
        if entry.seq < 0 and state is not None and (state.snapshot is not None or state.ended):
            self._findings.states.wrong(record, "holds a state but no seq")
        if entry.seq >= 0 and state is not None and state.snapshot is None and not state.ended:
            self._findings.states.wrong(record, f"has seq {entry.seq}, but holds neither a state nor its end")
        if state is not None and state.ended and state.snapshot is not None:
            self._findings.states.wrong(record, "holds a state and its end")
        if state is not None and (state.stashed == 0) != (state.stashed_first < 0):
            self._findings.stashed.wrong(record, f"counts {state.stashed} stashed commands from {state.stashed_first}")
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

    def place_of(self, offset: int) -> Place:
        """Return the place of a command's last stash record."""
        return self._stash.places[offset]

    def digest_of(self, offset: int) -> int | None:
        """Return the hash of a command as the stash keeps it, None if it never was there."""
        return self._stash.digests.get(offset)

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


def _seq(record: Record) -> int:
    """Return the seq of a state record, -1 for any other, and for one whose header is damaged."""
    try:
        return -1 if record.header(SEQ) is None else record.number(SEQ)
    except DecodeError:
        return -1
