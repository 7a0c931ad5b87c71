"""Bugs planted in sources: in the relay, its positions, and what is done about topics and operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from repertory.bridge.log.port import OutputsRefused, Transaction
from repertory.bridge.log.record import Output
from repertory.bridge.sources import checks
from repertory.bridge.sources import relay as relay_module
from repertory.bridge.sources.partition import SourcePartition, SourcePhase
from repertory.bridge.sources.position import SKIP, Positions, SourceRequest
from repertory.bridge.sources.refused_records import RefusedRecords
from repertory.bridge.sources.relay_shard import RelayPhase, RelayShard
from tests.bridge.sources import test_crashes as crashes
from tests.bridge.sources import test_relay as relays
from tests.bridge.sources import test_relay_faults as faults
from tests.bridge.sources import test_sources as sources
from tests.bridge.sources.test_relay import Surveyed
from tests.campaigns.planting import Patch, mutant, swap

#: Seeds that find each bug of the relay many times over.
SEEDS = 60


def _postponed(patch: Patch, is_late: Callable[[Output], bool]) -> None:
    """Have some records of each transaction written by one of their own, behind it."""
    late: dict[RelayShard, list[Output]] = {}

    def make(decide: Any) -> Any:
        def mutated(shard: RelayShard, *arguments: Any) -> Any:
            if before := late.pop(shard, []):
                shard._change(RelayPhase.COMMITTING)
                return Transaction(shard.place, shard._next_offset, before), []
            transaction, incidents = decide(shard, *arguments)
            if transaction is None:
                return transaction, incidents
            late[shard] = [each for each in transaction.records if is_late(each)]
            now = [each for each in transaction.records if not is_late(each)]
            return Transaction(transaction.shard, transaction.next_offset, now), incidents

        return mutated

    def ready(is_ready: Any) -> Any:
        return lambda shard: (shard.phase is RelayPhase.RUNNING and bool(late.get(shard))) or is_ready(shard)

    swap(patch, RelayShard, "decide", make)
    swap(patch, RelayShard, "is_ready", ready)


@mutant("bridge/sources/relay_shard.py", crashes.test_a_death_at_each_point_of_a_relay)
def position_after_the_commit(patch: Patch) -> None:
    """The position is written once its commands are in the log, and not with them: a crash between relays twice."""
    _postponed(patch, lambda each: each.topic.endswith(".sources"))


@mutant("bridge/sources/relay_shard.py", crashes.test_a_death_at_each_point_of_a_relay)
def dead_letter_after_the_commit(patch: Patch) -> None:
    """A dead letter is written once the position is behind its record: a crash between loses it."""
    _postponed(patch, lambda each: each.topic.endswith(".dead-letters"))


@mutant("bridge/sources/relay_shard.py", faults.run_some, seeds=SEEDS)
def positions_kept_over_a_claim(patch: Patch) -> None:
    """A relay that is claimed again goes on from what it remembers: a commit that was aborted is lost."""

    def make(abort: Any) -> Any:
        def mutated(shard: RelayShard, *arguments: Any, **more: Any) -> Any:
            kept = {**shard.partitions}
            delay_s = abort(shard, *arguments, **more)
            for place, each in kept.items():
                each.survey_again()
                shard._kept = {**getattr(shard, "_kept", {}), place: each}  # type: ignore[attr-defined]
            return delay_s

        return mutated

    def remember(run: Any) -> Any:
        def mutated(shard: RelayShard, committed: int | None) -> Any:
            start = run(shard, committed)
            shard.partitions |= getattr(shard, "_kept", {})
            return start

        return mutated

    swap(patch, RelayShard, "abort", make)
    swap(patch, RelayShard, "run", remember)


@mutant("bridge/sources/partition.py", faults.run_some, seeds=SEEDS)
def followed_on_after_a_stop(patch: Patch) -> None:
    """A partition that is tried again reads on from where it was fetched to: what had waited is lost."""

    def mutated(partition: SourcePartition, phase: SourcePhase) -> None:
        partition.phase = phase
        partition._wait(())

    patch.setattr(SourcePartition, "_leave", mutated)


@mutant("bridge/sources/relay_shard.py", faults.run_some, seeds=SEEDS)
def request_done_with_records(patch: Patch) -> None:
    """What an operator asks for is done in one transaction with records: if the log refuses those, it is for ever."""

    def make(decide: Any) -> Any:
        def mutated(shard: RelayShard, *arguments: Any) -> Any:
            done, shard._done = shard._done, {}
            transaction, incidents = decide(shard, *arguments)
            shard._done = done
            tombstones = [Output(*shard.place, place.request_key, None) for place in done]
            if transaction is None and tombstones:
                shard._change(RelayPhase.COMMITTING)
                transaction = Transaction(shard.place, shard._next_offset, [])
            if transaction is not None:
                transaction = msgspec.structs.replace(transaction, records=[*transaction.records, *tombstones])
            return transaction, incidents

        return mutated

    swap(patch, RelayShard, "decide", make)


@mutant("bridge/sources/refused_records.py", faults.run_some, seeds=SEEDS)
def refused_records_are_sent_again(patch: Patch) -> None:
    """A record whose commands the log refuses for good is sent again and again, and nothing behind it is relayed."""

    def mutated(refusals: RefusedRecords, _event: OutputsRefused, turn_records: int) -> bool:
        refusals.records_max = max(1, turn_records // 2)
        return True

    patch.setattr(RefusedRecords, "blame", mutated)


@mutant("bridge/sources/relay.py", relays.test_each_command_names_its_record_and_its_index)
def index_left_out(patch: Patch) -> None:
    """All commands of a record have the same header."""

    def make(command_output: Any) -> Any:
        def mutated(each: Any, headers: Any, routing: Any) -> Output:
            ((name, value),) = headers
            found: Output = command_output(each, ((name, value.rpartition(b"/")[0] + b"/0"),), routing)
            return found

        return mutated

    swap(patch, relay_module, "command_output", make)


@mutant("bridge/sources/relay.py", relays.test_any_other_error_stops_before_its_record, how="boom")
def any_error_is_a_dead_letter(patch: Patch) -> None:
    """A bug in a source's function makes a dead letter of each record."""

    def make(routes_of: Any) -> Any:
        def mutated(*arguments: Any) -> Any:
            try:
                return routes_of(*arguments)
            except Exception as error:
                raise ValueError(str(error)) from error

        return mutated

    swap(patch, relay_module, "routes_of", make)


@mutant("bridge/sources/relay.py", relays.test_a_hundred_dead_letters_in_a_row_stop_the_partition)
def dead_letters_counted_by_turn(patch: Patch) -> None:
    """Dead letters in a row are counted anew in each transaction."""
    swap(
        patch, relay_module, "relay",
        lambda relay: lambda place, decode, position, *more, **options: relay(
            place, decode, msgspec.structs.replace(position, dead_letters=0), *more, **options
        ),
    )  # fmt: skip
    patch.setattr(relays, "relay", relay_module.relay)


@mutant(
    "bridge/sources/checks.py", relays.test_what_operators_ask_for,
    request_=SourceRequest(SKIP, offset=5), bounds=(0, 9), topic_id="id", expected=None,
)  # fmt: skip
def skips_whatever_fails(patch: Patch) -> None:
    """A skip passes the record at which the partition has stopped, whatever record it names."""

    def make(asked: Any) -> Any:
        def mutated(place: Any, position: Any, found: Any, request: Any) -> Any:
            return asked(place, position, found, msgspec.structs.replace(request, offset=position.stopped.offset))

        return mutated

    swap(patch, checks, "asked", make)


def _without(patch: Patch, what: str) -> None:
    """Have one thing that is wrong with a topic overlooked."""

    def make(wrong: Any) -> Any:
        def mutated(*arguments: Any) -> Any:
            found = wrong(*arguments)
            return None if found is not None and found.what == what else found

        return mutated

    swap(patch, checks, "_wrong", make)


@mutant(
    "bridge/sources/checks.py", relays.test_a_topic_that_is_not_as_it_was_stops_the_partition,
    found=Surveyed("id", [(7, 9)] * 4), what="lost", words="records 4 to 6",
)  # fmt: skip
def retention_is_overlooked(patch: Patch) -> None:
    """A source goes on behind records that retention took, and says nothing."""
    _without(patch, "lost")


@mutant(
    "bridge/sources/checks.py", relays.test_a_topic_that_is_not_as_it_was_stops_the_partition,
    found=Surveyed("other", [(0, 9)] * 4), what="recreated", words="adopt",
)  # fmt: skip
def topic_id_is_overlooked(patch: Patch) -> None:
    """A topic that was created again is read from the old position."""
    _without(patch, "recreated")


@mutant(
    "bridge/sources/checks.py", relays.test_where_a_partition_begins, from_="latest", began=3, expected=5
)  # fmt: skip
def added_partitions_begin_at_their_end(patch: Patch) -> None:
    """With ``latest``, what a new partition of the topic has when it is first seen is left out."""
    swap(
        patch, checks, "first_position", lambda first: lambda source, place, found, _: first(source, place, found, int)
    )


@mutant("bridge/sources/relay_shard.py", sources.test_positions_that_are_lost_are_not_begun_anew)
def lost_positions_begin_anew(patch: Patch) -> None:
    """Where the topic of the positions was emptied, all records are relayed a second time."""
    swap(patch, RelayShard, "run", lambda run: lambda shard, _committed: run(shard, None))


@mutant("bridge/sources/position.py", relays.test_the_last_record_of_a_key_counts)
def tombstones_are_no_end(patch: Patch) -> None:
    """A request that was done is done again after each claim."""

    def make(take: Any) -> Any:
        def mutated(positions: Positions, key: bytes | None, value: bytes | None, where: str) -> None:
            if value is not None:
                take(positions, key, value, where)

        return mutated

    swap(patch, Positions, "take", make)
