"""The full scan at the end of a run: the committed records must be those that a run without faults leaves."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from repertory.actors.headers import BECAUSE, CAUSE, EPOCH, ERROR_TYPE
from repertory.actors.message import Envelope, Stopped
from repertory.actors.shard.changelog import CHANGELOG_INDEX, SHARD_KEY, StashedRecord
from repertory.actors.shard.config import AT_LEAST_ONCE
from repertory.actors.shard.seen_causes import SeenCauses
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import DecodeError
from repertory.bridge.changelog_codec import decode_shard, decode_stashed, decode_state, is_stashed, stashed_offset
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.journal import Inconsistent
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.nontransactional import CountingJournal
from repertory.bridge.recovery import Recovery
from repertory.bridge.topics import dead_letters_topic
from repertory.simulation.model import Model
from repertory.simulation.seen import Seen, ahead_of, dropping_of
from repertory.simulation.virtual import Violation

if TYPE_CHECKING:
    from repertory.simulation.cluster import SimulatedCluster

#: The outputs of each command, by shard, offset and index.
Outputs = dict[str, dict[int, dict[int, Record]]]


class Scan:
    """Reads all records and checks them. Used once; raises Violation."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self._cluster, self._reader = cluster, cluster.reader
        self._outputs: Outputs = defaultdict(lambda: defaultdict(dict))
        self._causes: set[bytes] = set()
        #: What each shard has sent later: the commands of timers, and delayed messages.
        self._sent: dict[str, list[Record]] = defaultdict(list)
        #: Whether the outputs of a shard may be repeated.
        self._repeats = cluster.swarm.settings.delivery == AT_LEAST_ONCE
        #: Commands that were dead-lettered because they crashed processes; earlier attempts may have sent outputs.
        self._given_up: set[bytes] = set()
        self.journals: dict[tuple[str, int], list[Record]] = {}
        self._topics: dict[tuple[str, int], list[Record]] = {}
        self.commands = 0
        self.dead = 0

    def check(self) -> None:
        """Check all records."""
        self._read()
        live = {
            assigned.place: assigned.shard
            for worker in self._cluster.node.workers.values()
            for assigned in worker.region
        }
        for hosted in self._cluster.topology.entities.values():
            for partition in range(hosted.partitions):
                place = TopicPartition(hosted.codec.commands, partition)
                self._shard(hosted, place, live.get(place))
        self._cluster.projections.check(self.journals)

    def _read(self) -> None:
        """Read all topics. No two records have the same cause (I3); at least once, repeated records are equal."""
        self._read_all()
        for hosted in self._cluster.topology.entities.values():
            for partition in range(hosted.partitions if hosted.behaviour.journaled else 0):
                self.journals[hosted.codec.events, partition] = self._counted(hosted, partition)
        for (topic, _), records in self._topics.items() if self._repeats else ():
            if topic == dead_letters_topic(self._cluster.system.name):
                self._given_up.update(_command_of(each) for each in records if _is_given_up(each))
        for place, records in self._topics.items():
            for record in self.journals.get(place, records):
                self._note(record)

    def _counted(self, hosted: HostedEntity, partition: int) -> list[Record]:
        """Return the journal records that count: all of them if the system works exactly once."""
        journal = self._topics[hosted.codec.events, partition]
        shards = [record for record in self._topics[hosted.codec.state, partition] if record.key == SHARD_KEY]
        if not self._repeats or not shards:
            return journal
        counted = CountingJournal(decode_shard(shards[-1].value or b""), from_seq=0)
        for record in journal:
            counted.add(record)
        return counted.settle()[0]

    def _first(self, commands: list[Record]) -> list[Record]:
        """Return the commands without those that are repetitions."""
        settings, count = self._cluster.swarm.settings, self._reader.partition_count
        seen = SeenCauses(settings.seen_causes_max, lambda topic, partition: partition < (count(topic) or 0))
        first = []
        for record in commands:
            stamp = seen.stamp(record.headers)
            if stamp is None or not seen.repeats(stamp):
                first.append(record)
            if stamp is not None:
                seen.note(stamp)
        return first

    def _read_all(self) -> None:
        for topic, count in sorted(self._cluster.backend.topics().items()):
            for partition in range(count):
                self._topics[topic, partition] = list(self._reader.read(topic, partition))

    def _note(self, record: Record) -> None:
        cause = record.header(CAUSE)
        if cause is None:
            return
        is_nontransactional = self._repeats and record.header(EPOCH) is not None
        if (
            is_nontransactional
            and _command_of(record) in self._given_up
            and b"Undelivered" not in (record.value or b"")
        ):
            return
        if is_nontransactional and cause in self._causes:
            shard, offset, index = cause.decode().rsplit("/", 2)
            before = self._outputs[shard][int(offset)].get(int(index), record)
            if (before.topic, before.key, before.value) != (record.topic, record.key, record.value):
                raise Violation("a repeated output is the same", f"{_at(record)} is not what {_at(before)} is")
            return
        if cause in self._causes:
            raise Violation("nothing happens twice", f"{_at(record)} has the cause {cause.decode()} of another record")
        self._causes.add(cause)
        shard, offset, index = cause.decode().rsplit("/", 2)
        if (number_of_output := int(index)) < CHANGELOG_INDEX:
            self._outputs[shard][int(offset)][number_of_output] = record
        elif record.header(BECAUSE) is not None:
            self._sent[shard].append(record)

    # --- one shard --------------------------------------------------------------------------------------------

    def _shard(self, hosted: HostedEntity, place: TopicPartition, live: Shard | None) -> None:
        codec, partition = hosted.codec, place.partition
        commands = self._first(self._topics[codec.commands, partition])
        stash = self._stashed(hosted, place)
        committed = self._reader.committed(self._cluster.system.name, *place) or 0
        handler_faults, settings = self._cluster.handler_faults, self._cluster.swarm.settings
        refused = [cause.rsplit("/", 1) for cause in self._cluster.refusals.commands]
        raised = [*(cause.rsplit("/", 1) for cause in handler_faults.raised), *refused]
        deadly = [
            cause.rsplit("/", 1) for cause, count in handler_faults.deaths.items() if count >= settings.deaths_max
        ]
        seen = Seen(
            partition, committed, ahead_of(self._topics[codec.state, partition]), commands,
            self._outputs[str(place)], stash,
            frozenset(int(offset) for shard, offset in raised if shard == str(place)),
            frozenset(int(offset) for shard, offset in refused if shard == str(place)),
            frozenset(int(offset) for shard, offset in deadly if shard == str(place)),
            dropping_of(self._outputs[str(place)]), settings.dead_letter_overflow, settings.output_bytes_max,
        )  # fmt: skip
        model = Model(hosted, self._cluster.topology.directory, self._cluster.system.name, seen)
        model.run()
        self.commands += committed
        self.dead += model.dead
        model.later.check(self._sent[str(place)])
        model.later.check_begun(each for shard, each in self._cluster.world.begun if shard == place)
        self._check_budgets(hosted, place)
        if hosted.behaviour.journaled:
            self._check_journal(hosted, place, model)
        self._check_state(hosted, self._restored(hosted, place), model, "restored")
        if live is not None:
            self._check_state(hosted, live, model, "in memory")
            model.later.check_tried(live, self._cluster.clock.epoch_ms())

    def _stashed(self, hosted: HostedEntity, place: TopicPartition) -> dict[int, StashedRecord]:
        """Return the commands that are stashed at the end."""
        stash: dict[int, StashedRecord] = {}
        for record in self._topics[hosted.codec.state, place.partition]:
            if not is_stashed(record):
                continue
            if record.value is None:
                stash.pop(stashed_offset(record), None)
                continue
            stash[stashed_offset(record)] = decode_stashed(record.value)
        return stash

    def _check_budgets(self, hosted: HostedEntity, place: TopicPartition) -> None:
        """Check that no key is restarted more often than its policy allows, and none is given a fresh budget (I15).

        An operator may give a key a fresh budget. If the calendar jumps, it is unknown which restarts have expired.
        """
        deliveries = [hosted.codec.decode(record) for record in self._topics[place]]
        behaviour = hosted.behaviour
        operated = {
            each.key
            for each in deliveries
            if isinstance(each, Envelope) and (behaviour.is_control(each) or type(each.message) in behaviour.urgent)
        }
        spent: dict[bytes, tuple[int, ...]] = defaultdict(tuple)
        for record in self._topics[hosted.codec.state, place.partition]:
            key = record.key or b""
            if key.startswith(b"\0"):
                continue
            restarts = () if record.value is None else decode_state(record.value).restarts_ms
            if len(restarts) > hosted.policy.max_restarts:
                raise Violation("restart intensity", f"{_at(record)}: {key!r} has {len(restarts)} restarts")
            since_ms = record.timestamp_ms - hosted.policy.within_s * 1000
            lost = {at_ms for at_ms in spent[key] if at_ms >= since_ms}.difference(restarts)
            if lost and key.decode() not in operated and not self._cluster.faults["jump"]:
                raise Violation("a restart budget is kept", f"{_at(record)}: {key!r} had restarts at {sorted(lost)}")
            spent[key] = restarts

    def _check_journal(self, hosted: HostedEntity, place: TopicPartition, model: Model) -> None:
        """Check that each key's events are in command order, and that ``seq`` and ``version`` have no gap (I1)."""
        order: dict[str, list[int]] = defaultdict(list)
        versions: dict[str, int] = defaultdict(int)
        decode = hosted.behaviour.journal.decode
        for expected, record in enumerate(self.journals[hosted.codec.events, place.partition]):
            key = (record.key or b"").decode()
            try:
                seq, version = record.position
                stopped = isinstance(decode(record.value or b""), Stopped)
            except DecodeError as error:
                raise Violation("a journal can be read", f"{_at(record)}: {error}") from error
            if seq != expected or version != versions[key] + 1:
                raise Violation(
                    "a journal has no gap",
                    f"{_at(record)} has seq {seq} for {expected}, version {version} for {versions[key] + 1}",
                )
            versions[key] = 0 if stopped else version
            order[key].append(int((record.header(CAUSE) or b"").rsplit(b"/", 2)[1]))
        for key, life in model.lives.items():
            if order[key] != life.journal:
                raise Violation("commands of a key are handled in order", f"{place} {key!r}: {order[key]}")

    def _restored(self, hosted: HostedEntity, place: TopicPartition) -> Shard:
        """Restore the shard from the log as it is now."""
        config = self._cluster.topology.shard_config(*place)
        codec, reader = hosted.codec, self._reader
        ends = {topic: reader.bounds(topic, place.partition)[1] for topic in codec.restored_topics}
        low, high = reader.bounds(*place)
        claimed = Claimed(place, reader.committed(self._cluster.system.name, *place), low, high, ends)
        try:
            recovery = Recovery(config, codec, claimed)
            while (wanted := recovery.wanted) is not None:
                found = self._topics[wanted.topic, place.partition]
                records = [record for record in found if wanted.from_offset <= record.offset < wanted.to_offset]
                recovery.feed(Replayed(place, wanted.topic, records, complete=True))
            return Shard(config, recovery.recovered())
        except Inconsistent as error:
            raise Violation("what is committed can be restored", str(error)) from error

    def _check_state(self, hosted: HostedEntity, shard: Shard, model: Model, where: str) -> None:
        """Check each entity's state (I7) and the order of its stashed commands (I13) against the model."""
        initial = hosted.behaviour.initial_data
        for key in dict.fromkeys([*shard.cells, *model.lives]):
            cell, life = shard.cells.get(key), model.lives.get(key)
            has = initial if cell is None else cell.data
            should = initial if life is None else life.data
            if has != should:
                raise Violation(
                    "a state is the fold of its commands",
                    f"{shard.config.id} {key!r} {where} is {has!r}, not {should!r}",
                )
        for key, life in model.lives.items():
            queue = [stash.envelope.offset for stash in shard.stash.queue(key)]
            if queue != life.queue:
                raise Violation(
                    "stashed commands keep their order", f"{shard.config.id} {key!r} {where}: {queue}, not {life.queue}"
                )
        model.later.check_open(shard, where)

    def records(self) -> Mapping[tuple[str, int], list[Record]]:
        """Return the records of each partition."""
        if not self._topics:
            self._read_all()
        return self._topics


def _command_of(record: Record) -> bytes:
    return (record.header(CAUSE) or b"").rpartition(b"/")[0]


def _is_given_up(delivery: Record) -> bool:
    return delivery.header(ERROR_TYPE) == b"Quarantined"


def _at(record: Record) -> str:
    return f"{record.topic}/{record.partition}@{record.offset}"
