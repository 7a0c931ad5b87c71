"""Bugs planted in what happens later: timers and delayed messages."""

from __future__ import annotations

from typing import Any

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard import timers as module
from repertory.actors.shard.changelog import TellRecord, TimerRecord, owed_entry, tell_key, timer_of
from repertory.actors.shard.timers import Timers
from repertory.actors.shard.turn import Turn
from repertory.bridge.codec import Codec
from tests.actors.shard import test_timers as timers
from tests.campaigns.planting import Patch, mutant, swap


@mutant("actors/shard/intake.py", timers.test_it_is_asked_again_at_the_retry)
def generation_not_checked_at_retry(patch: Patch) -> None:
    """The command of a timer is not asked again when it leaves the stash: one that was cancelled has its effect."""

    def make(is_stale: Any) -> Any:
        def mutated(turn: Turn, delivery: Any) -> bool:
            is_stashed = isinstance(delivery, Envelope) and turn._stash.holds(delivery.offset)
            return not is_stashed and bool(is_stale(turn, delivery))

        return mutated

    swap(patch, Turn, "is_stale", make)


@mutant(
    "actors/shard/intake.py", timers.test_cancel_and_replace_are_certain_after_it_fired, change="cancel", crashes=False
)
def not_checked_at_take(patch: Patch) -> None:
    """A timer that has fired cannot be cancelled any more."""
    patch.setattr(Turn, "is_stale", lambda _turn, _delivery: False)


@mutant("actors/shard/timers.py", timers.test_it_fires_once_over_every_crash)
def deleted_at_firing(patch: Patch) -> None:
    """The record of a timer is deleted as it fires: nothing tells a command that counts from one that does not."""

    def make(fire: Any) -> Any:
        def mutated(table: Timers, now_ms: int, refused: Any) -> Any:
            found = fire(table, now_ms, refused)
            if found is None or found[0].timer is None:
                return found
            place = found[1].key
            return found[0], table._forget(timer_of(place)[0], place)

        return mutated

    swap(patch, Timers, "fire", make)


@mutant("actors/shard/timers.py", timers.test_it_fires_once_over_every_crash)
def fired_twice_after_a_crash(patch: Patch) -> None:
    """A restore takes all timers for open: one whose command is in the log fires again."""

    def make(load: Any) -> Any:
        def mutated(table: Timers, records: dict[str, TimerRecord | TellRecord]) -> None:
            load(
                table,
                {
                    place: msgspec.structs.replace(each, fired=False) if isinstance(each, TimerRecord) else each
                    for place, each in records.items()
                },
            )

        return mutated

    swap(patch, Timers, "load", make)


@mutant("actors/shard/timers.py", timers.test_the_name_of_a_cancelled_timer_can_be_used_again)
def generation_is_a_counter(patch: Patch) -> None:
    """The generation of a timer counts in its record: it begins anew once the record is deleted."""

    def make(put: Any) -> Any:
        def mutated(table: Timers, place: str, record: TimerRecord | TellRecord) -> Any:
            if isinstance(record, TimerRecord) and not record.fired:
                before = table.records.get(place)
                record = msgspec.structs.replace(record, offset=0 if before is None else before.offset + 1)
            return put(table, place, record)

        return mutated

    swap(patch, Timers, "_put", make)


@mutant("actors/shard/turn.py", timers.test_it_is_settled_before_its_handler_schedules_it_again)
def settled_after_its_handlers_schedule(patch: Patch) -> None:
    """A timer is settled after what its handler schedules is, by its name: the new one is gone."""

    def make(schedule: Any) -> Any:
        def mutated(turn: Turn, envelope: Envelope, decision: Any) -> None:
            schedule(turn, envelope, decision)
            if envelope.timer is not None:
                turn.cancel(envelope.key, envelope.timer.name)

        return mutated

    swap(patch, Turn, "schedule", make)


@mutant("actors/shard/turn.py", timers.test_every_final_fate_settles_a_timer, number=914)
def dead_letters_do_not_settle(patch: Patch) -> None:
    """The timer of a command that becomes a dead letter stays fired for ever."""

    def make(dead_letter: Any) -> Any:
        def mutated(turn: Turn, delivery: Any, *more: Any, **options: Any) -> None:
            dead_letter(turn, msgspec.structs.replace(delivery, timer=None), *more, **options)

        return mutated

    swap(patch, Turn, "dead_letter", make)


@mutant("actors/shard/timers.py", timers.test_a_recurring_timer_counts_from_the_log_time_of_its_command)
def recurring_drift(patch: Patch) -> None:
    """A recurring timer is due a period after it was due before: what was missed is made up for, one by one."""

    def make(settle: Any) -> Any:
        def mutated(table: Timers, key: str, timer: Any, _timestamp_ms: int) -> Any:
            return settle(table, key, timer, timer.due_ms)

        return mutated

    swap(patch, Timers, "settle", make)


@mutant("actors/shard/turn.py", timers.test_the_timers_of_an_entity_end_with_its_life)
def stop_leaves_timers(patch: Patch) -> None:
    """The timers of an entity that stops ring in its next life."""
    patch.setattr(Timers, "stop", lambda _table, _key: [])


@mutant("actors/shard/turn.py", timers.test_the_timers_of_an_entity_end_with_its_life)
def stop_cancels_messages(patch: Patch) -> None:
    """An entity that stops takes the delayed messages of all entities along."""

    def make(stop: Any) -> Any:
        def mutated(table: Timers, key: str) -> Any:
            told = [place for place, record in table.records.items() if isinstance(record, TellRecord)]
            for place in told:
                del table.records[place]
            return [*stop(table, key), *(owed_entry(place, None) for place in told)]

        return mutated

    swap(patch, Timers, "stop", make)


@mutant("bridge/recovery.py", timers.test_a_delayed_message_is_sent_once_without_a_header_of_a_timer)
def messages_not_restored(patch: Patch) -> None:
    """A restore forgets the delayed messages."""

    def make(load: Any) -> Any:
        def mutated(table: Timers, records: dict[str, Any]) -> None:
            load(table, {place: each for place, each in records.items() if isinstance(each, TimerRecord)})

        return mutated

    swap(patch, Timers, "load", make)


@mutant("actors/shard/timers.py", timers.test_a_delayed_message_is_sent_once_without_a_header_of_a_timer)
def message_kept_when_sent(patch: Patch) -> None:
    """The record of a delayed message stays when it is sent: another owner sends it again."""

    def make(fire: Any) -> Any:
        def mutated(table: Timers, now_ms: int, refused: Any) -> Any:
            found = fire(table, now_ms, refused)
            if found is None or found[0].timer is not None:
                return found
            sent = found[0]
            record = TellRecord(sent.entity or "", sent.key, sent.data, now_ms, sent.offset, sent.index)
            return sent, owed_entry(tell_key(sent.offset, sent.index), record)

        return mutated

    swap(patch, Timers, "fire", make)


@mutant("actors/shard/shard.py", timers.test_what_is_due_goes_in_bounded_batches_in_the_order_of_its_time)
def unbounded_firing(patch: Patch) -> None:
    """A turn fires all timers that are due: commands wait for a hundred thousand of them."""
    swap(patch, Turn, "fire", lambda fire: lambda turn, _count_max, *more: fire(turn, 1 << 30, *more))


@mutant("actors/shard/timers.py", timers.test_what_is_due_goes_in_bounded_batches_in_the_order_of_its_time)
def order_of_keys(patch: Patch) -> None:
    """What is due goes in the order of the records' keys."""
    patch.setattr(module, "_due", lambda place, record: (record.due_ms // 10**9, 0, 0, place))


@mutant("bridge/codec.py", timers.test_a_timer_fires_once_when_it_is_due)
def cause_of_an_output(patch: Patch) -> None:
    """The command of a timer has the cause of an output of what scheduled it, which the receiver may have seen."""

    def make(encode: Any) -> Any:
        def mutated(codec: Codec, fired: Any, prefix: str, _cause: Any) -> Any:
            return encode(codec, fired, prefix, ("cause", f"{prefix}{fired.offset}/{fired.index}".encode()))

        return mutated

    swap(patch, Codec, "_fired", make)


@mutant("actors/shard/shard.py", timers.test_it_fires_once_over_every_crash)
def early(patch: Patch) -> None:
    """A timer fires while its shard has other work, before it is due."""
    swap(patch, Timers, "next_due_ms", lambda due: lambda table: None if due(table) is None else 0)


@mutant(
    "actors/shard/changelog.py", timers.test_a_recurring_timer_of_an_owner_whose_clock_is_ahead_fires_once_in_a_period
)
def storm(patch: Patch) -> None:
    """A recurring timer of an owner whose clock is ahead fires again and again, as fast as it can."""
    patch.setattr(TimerRecord, "when_ms", property(lambda record: record.due_ms))


@mutant("actors/shard/timers.py", timers.test_a_recurring_timer_of_an_owner_whose_clock_is_ahead_fires_once_in_a_period)
def stall(patch: Patch) -> None:
    """A recurring timer that a clock fired that was ahead waits until it is so late again."""
    patch.setattr(Timers, "clock_set_back", lambda _table, _now_ms: None)
