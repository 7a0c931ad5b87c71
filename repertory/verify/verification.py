"""``verify``: check all records that a system has written to a log against its promises. It only reads.

It works shard by shard. Its memory holds the states and the state records of one shard, 32 bytes for each tell, reply
and dead letter of all shards and for each event of one shard, 8 bytes for each ask, and the dead letters' reasons.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection

import msgspec

from repertory.actors.shard.changelog import ShardRecord
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Reader
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.silence import silenced
from repertory.bridge.system.committed import accepted_of
from repertory.bridge.system.definition import SystemDefinition
from repertory.verify.accepted import check_skipped
from repertory.verify.again import Moment, Subject
from repertory.verify.changelog import Changelog
from repertory.verify.decisions import Decisions
from repertory.verify.epochs import OwnerEpochs
from repertory.verify.findings import Check, Findings, Place
from repertory.verify.gather import Gathered
from repertory.verify.journal import Journal, Step
from repertory.verify.later import Later
from repertory.verify.published import PublishedOutputs
from repertory.verify.records import Records, ends_of
from repertory.verify.relayed import RelayedCommands
from repertory.verify.restored import restored
from repertory.verify.sequence import Sequence
from repertory.verify.values import Receivers, alike


class VerificationReport(msgspec.Struct, frozen=True):
    """The result of a verification. ``fates`` counts commands by their outcome; a query is ``answered``, by whatever.

    ``accepted``: what operators have accepted, as the shard records say.

    ``grew``: records were added during the verification, so that a violation may only be a command in progress.
    ``silenced``: how many lines handlers logged or printed when their commands were decided again.
    """

    system: str
    ok: bool
    grew: bool
    records: int
    seconds: float
    fates: dict[str, int]
    checks: list[Check]
    accepted: list[str] = []
    silenced: int = 0


def verify(
    reader: Reader,
    system: SystemDefinition,
    *,
    decides: bool = True,
    seen: Callable[[int], None] = lambda _: None,
    on_command: Callable[[Record], None] = lambda _: None,
    on_step: Callable[[Step], None] | None = None,
    silent: bool = True,
) -> VerificationReport:
    """Verify all committed records of a system. No node of the system should be running.

    ``decides``: decide each command again, which needs the code that wrote the log. ``seen`` is called with the number
    of records read since its last call. For invariants of the application, ``on_command`` is called with each command
    and ``on_step`` with each event, in the order of their partition. ``silent``: what handlers log and print is counted
    and not shown, since nothing happens again; the functions given here are heard.
    """
    verification = Verification(reader, system, decides=decides, seen=seen)
    if not silent:
        return verification.run(on_command, on_step)
    with silenced() as quiet:
        before = quiet.lines
        report = verification.run(quiet.outside(on_command), None if on_step is None else quiet.outside(on_step))
        return msgspec.structs.replace(report, silenced=quiet.lines - before)


class Verification:
    """One verification. Used once."""

    def __init__(self, reader: Reader, system: SystemDefinition, *, decides: bool, seen: Callable[[int], None]) -> None:
        self._reader, self._system, self._decides = reader, system, decides
        self._findings = Findings()
        self._fates: Counter[str] = Counter()
        self._accepted: list[str] = []
        self._records = Records(reader, seen)
        self._topology = system.topology(reader.partition_count)
        self._hosted = {
            TopicPartition(topic, partition): hosted
            for topic, hosted in self._topology.entities.items()
            for partition in range(hosted.partitions)
        }
        self._epochs = epochs = OwnerEpochs(reader, self._hosted)
        compacted = {topic for topic, declared in system.publishes.items() if declared.is_compacted}
        self._published = PublishedOutputs(system.name, self._hosted.keys(), compacted, epochs, self._findings)
        self._receivers = Receivers(self._topology.entities, topics.replies_topic(system.name))
        self._relayed = RelayedCommands(reader, system, self._findings.sources, decides=decides)
        self._gathered = Gathered(
            self._records, system, self._hosted, self._receivers, epochs, self._findings, self._relayed
        )

    def run(self, on_command: Callable[[Record], None], on_step: Callable[[Step], None] | None) -> VerificationReport:
        """Read everything and return the report."""
        started_s, ends = time.monotonic(), ends_of(self._records, self._system)
        self._gathered.read(on_command)
        for source, hosted in self._hosted.items():
            self._shard(source, hosted, on_step)
        self._gathered.finish()
        self._published.check(self._records)
        self._relayed.check()
        self._accepted += self._relayed.accepted()
        checks = self._findings.checks(has_sources=bool(self._system.sources))
        return VerificationReport(
            self._system.name,
            all(check.ok for check in checks),
            ends_of(self._records, self._system) != ends,
            self._records.count,
            round(time.monotonic() - started_s, 3),
            dict(sorted(self._fates.items())),
            checks,
            self._accepted,
        )

    def _shard(self, source: TopicPartition, hosted: HostedEntity, on_step: Callable[[Step], None] | None) -> None:
        low, high = self._reader.bounds(*source)
        changelog = Changelog(source, hosted, self._findings)
        sent = self._gathered.sent_later.pop(source)
        changelog.read(self._records, (each.nth for each in sent), decides=self._decides)
        journal, moments = None, dict[str, Moment]()
        made = self._gathered.produced[source]
        if hosted.behaviour.journaled:
            urgent = {offset for _, offset in self._gathered.urgent.of(source)}
            journal = Journal(
                source, hosted, self._findings, changelog, low, self._gathered.targets, self._receivers, self._epochs,
                urgent,
            )  # fmt: skip
            journal.read(self._records, made, on_step)
            moments = {key: Moment(state, data) for key, (state, data) in journal.bases().items() if data is not None}
        sequence = Sequence(changelog, hosted.behaviour, self._findings) if hosted.behaviour.stateful else None
        has_made = len(made) > 0
        if changelog.shard is not None and changelog.shard.accepted:
            self._check_accepted(source, hosted, changelog.shard, low, {*made.offsets(), *changelog.stashed})
        limits = self._system.limits()
        subject = Subject(
            source, hosted, changelog, self._gathered, self._published, self._receivers, self._findings,
            self._topology.directory, limits.output_bytes_max, limits.ids_ahead_max_s * 1_000, low,
        )  # fmt: skip
        decisions = Decisions(subject, moments, sequence, decides=self._decides)
        if journal is not None:
            decisions.unknown |= journal.bases().keys() - moments.keys()
        repeated = self._gathered.repeated_of(source, changelog.stashed, has_seen=changelog.has_seen)
        decisions.walk(record for record in self._records.read(*source) if record.offset not in repeated)
        self._fates += decisions.fates
        self._fates += Counter({"repeated": len(repeated)} if repeated else {})
        self._published.is_partial |= "not decided again" in decisions.fates or low > 0 or bool(decisions.unknown)
        self._check_states(source, hosted, journal, sequence, decisions)
        later = Later(
            decisions.owed, self._system.name, hosted.codec.commands, self._receivers, self._findings.later,
            decisions.is_known,
        )  # fmt: skip
        later.check_sent(sent)
        later.check_open(changelog.owed, changelog.effects, Place(hosted.codec.state, source.partition))
        committed = self._reader.committed(self._system.name, *source)
        self._check_shard(source, hosted, changelog, journal, (committed, low, high), has_made=has_made)
        self._check_restore(source, hosted, journal, decisions, committed)

    def _check_accepted(
        self, source: TopicPartition, hosted: HostedEntity, shard: ShardRecord, low: int, traces: Collection[int]
    ) -> None:
        """Note what operators have accepted, and check that nothing else is missing than that."""
        where = Place(hosted.codec.state, source.partition, -1, "\0shard")
        name = f"{hosted.behaviour.name}/{source.partition}"
        self._accepted += [accepted_of(name, accepted) for accepted in shard.accepted]
        check_skipped(shard, source, low, traces, where, self._findings.shards)

    def _check_states(
        self,
        source: TopicPartition,
        hosted: HostedEntity,
        journal: Journal | None,
        sequence: Sequence | None,
        done: Decisions,
    ) -> None:
        """Compare the entities after all commands with those after all state records or events."""
        where = Place(hosted.codec.state, source.partition)
        if not done.judges:
            self._findings.states.unverifiable += sequence is not None
        elif sequence is not None:
            sequence.finish({key: moment.data for key, moment in done.moments.items()}, done.unknown, where)
        elif journal is not None:
            for key, life in journal.lives.items():
                moment = done.moments.get(key)
                data = hosted.behaviour.initial_data if moment is None else moment.data
                if key not in done.unknown and life.data not in (None, data):
                    self._findings.states.wrong(
                        where._replace(key=key), "folds to two different states from the same events"
                    )

    def _check_shard(
        self,
        source: TopicPartition,
        hosted: HostedEntity,
        changelog: Changelog,
        journal: Journal | None,
        group: tuple[int | None, int, int],
        *,
        has_made: bool,
    ) -> None:
        """Compare the last shard record with the group's offset, the commands, and the end of the journal."""
        committed, low, high = group
        where = Place(hosted.codec.state, source.partition, -1, "\0shard")
        wrong, shard = self._findings.shards.wrong, changelog.shard
        if journal is not None and journal.next_seq < 0:
            journal = None  # All its events were deleted.
        last = changelog.seq_last if journal is None else journal.next_seq - 1
        if shard is None:
            if committed is not None or has_made or changelog.latest or changelog.stashed:
                wrong(where, f"is missing, but the shard has written; the group's offset is {committed}")
            return
        if not shard.nontransactional and committed not in (
            None,
            shard.next,
        ):  # None: the group's offset expired, and is committed again.
            wrong(where, f"has {shard.next} as the next command, but the group has {committed}")
        if shard.next > high:
            wrong(where, f"has {shard.next} as the next command, but the commands end at {high}")
        if shard.next < low:
            wrong(
                where, f"has {shard.next} as the next command, but the commands begin at {low}: some were never handled"
            )
        is_exact = journal is not None or (changelog.is_complete and not hosted.behaviour.journaled)
        if shard.seq < last + 1 or (is_exact and shard.seq != last + 1):
            wrong(where, f"has {shard.seq} as the next seq, but the last seq written is {last}")

    def _check_restore(
        self,
        source: TopicPartition,
        hosted: HostedEntity,
        journal: Journal | None,
        done: Decisions,
        committed: int | None,
    ) -> None:
        """Restore the shard as its next owner does, and compare its entities with those that follow from the log."""
        finding = self._findings.restore
        config = self._topology.shard_config(*source)
        where = Place(hosted.codec.state, source.partition)
        try:
            cells = restored(self._reader, source, hosted, config, committed).cells
        except (Inconsistent, AssertionError) as error:
            finding.wrong(where, f"{error}")
            return
        living = {key: cell.state for key, cell in cells.items() if cell.version}
        finding.looked_at += len(living)
        if journal is not None:
            expected = {key: life.state for key, life in journal.lives.items() if life.version}
            unknown = {*done.unknown, *(key for key, life in journal.lives.items() if life.data is None)}
        elif done.judges:
            expected, unknown = {key: moment.state for key, moment in done.moments.items()}, done.unknown
        else:
            return
        for key in (living.keys() | expected.keys()) - unknown:
            if not alike(living.get(key), expected.get(key)):
                finding.wrong(where._replace(key=key), "would be restored to a different state")
