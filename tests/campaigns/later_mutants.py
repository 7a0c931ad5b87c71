"""Bugs planted in what happens later: timers, delayed messages and effects."""

from __future__ import annotations

from typing import Any

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard import effect_settler as settler_module
from repertory.actors.shard import timers as module
from repertory.actors.shard.changelog import EffectRecord, TellRecord, TimerRecord, owed_entry, tell_key, timer_of
from repertory.actors.shard.effect_settler import EffectSettler
from repertory.actors.shard.effects import EffectOutcome, Effects
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.timers import Timers
from repertory.actors.shard.turn import Turn
from repertory.bridge.codec import Codec
from tests.actors.shard import test_effects as effects
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


# --- effects --------------------------------------------------------------------------------------------------


@mutant("bridge/recovery.py", effects.test_every_crash_leaves_one_result)
def effects_not_restored(patch: Patch) -> None:
    """A restore forgets the effects: nobody runs what an owner that is gone had under way."""
    patch.setattr(Effects, "load", lambda _table, _records: None)


@mutant("actors/shard/shard.py", effects.test_every_crash_leaves_one_result)
def not_armed_again_on_takeover(patch: Patch) -> None:
    """What a restore finds is never started: it is taken for what still runs."""

    def make(load: Any) -> Any:
        def mutated(table: Effects, records: dict[str, EffectRecord]) -> None:
            load(table, records)
            table._touched.clear()

        return mutated

    swap(patch, Effects, "load", make)


@mutant("actors/shard/effects.py", effects.test_what_another_owner_started_is_ignored)
def result_of_a_lost_owner(patch: Patch) -> None:
    """The outcome of an attempt is accepted though another owner has started it."""

    def make(finished: Any) -> Any:
        def mutated(table: Effects, outcome: EffectOutcome) -> Any:
            return finished(table, msgspec.structs.replace(outcome, epoch=table.epoch))

        return mutated

    swap(patch, Effects, "finished", make)


@mutant("actors/shard/shard.py", effects.test_no_effect_starts_before_the_takeover_is_committed)
def epoch_of_the_former_owner(patch: Patch) -> None:
    """An owner has the number of the one before it, as it writes nothing when it takes over."""

    def make(takeover_result: Any) -> Any:
        def mutated(shard: Shard, *deaths: Any) -> Any:
            epoch = shard.effects.epoch
            result = takeover_result(shard, *deaths)
            shard.effects.epoch = 1 if epoch else 0
            return result

        return mutated

    swap(patch, Shard, "takeover_result", make)


@mutant("actors/shard/effects.py", effects.test_nothing_starts_before_its_command_is_committed)
def started_before_the_commit(patch: Patch) -> None:
    """An effect starts as soon as its command is decided: the world is asked what no log says."""

    def make(put: Any) -> Any:
        def mutated(table: Effects, place: str, record: EffectRecord) -> Any:
            entry = put(table, place, record)
            table.committed()
            return entry

        return mutated

    swap(patch, Effects, "put", make)


@mutant("bridge/read_changelog.py", effects.test_a_failed_attempt_is_repeated_after_its_backoff)
def attempts_forgotten_at_a_crash(patch: Patch) -> None:
    """The next owner counts the attempts of an effect from 1 again, and it is never parked."""

    def make(load: Any) -> Any:
        def mutated(table: Effects, records: dict[str, EffectRecord]) -> None:
            load(table, {place: msgspec.structs.replace(each, attempt=1) for place, each in records.items()})

        return mutated

    swap(patch, Effects, "load", make)


@mutant("actors/shard/effects.py", effects.test_the_effects_of_one_key_and_function_are_in_order)
def order_per_key_ignored(patch: Patch) -> None:
    """Each effect is a queue of its own."""
    patch.setattr(Effects, "queue_of", lambda _table, record: (record.key, f"{record.offset}/{record.index}"))


@mutant("actors/shard/effects.py", effects.test_the_effects_of_one_key_and_function_are_in_order)
def order_over_all_functions(patch: Patch) -> None:
    """The effects of one key wait for each other, whatever they ask."""
    patch.setattr(Effects, "queue_of", lambda _table, record: (record.key, ""))


@mutant("actors/shard/effect_settler.py", effects.test_every_crash_leaves_one_result)
def result_applied_twice(patch: Patch) -> None:
    """The record of an effect stays when its result is appended: another owner runs it again."""

    def make(forget: Any) -> Any:
        def mutated(table: Effects, place: str) -> Any:
            record = table.records[place]
            forget(table, place)
            return table.put(place, record)

        return mutated

    swap(patch, Effects, "forget", make)


@mutant("actors/shard/effects.py", effects.test_an_operator_drops_one_that_has_just_ended)
def result_of_what_was_dropped(patch: Patch) -> None:
    """An operator drops an effect that has ended, and its entity gets both answers."""

    def make(drop: Any) -> Any:
        def mutated(settler: EffectSettler, place: str, *more: Any) -> None:
            record = settler._effects.records[place]
            drop(settler, place, *more)
            settler._effects.put(place, record)

        return mutated

    swap(patch, EffectSettler, "drop", make)


@mutant("actors/shard/effect_settler.py", effects.test_an_effect_whose_attempts_are_spent_is_parked)
def never_parked(patch: Patch) -> None:
    """An effect is tried for ever."""

    def make(failed: Any) -> Any:
        def mutated(settler: EffectSettler, effect: Any, place: str, record: EffectRecord, *more: Any) -> None:
            failed(settler, effect, place, msgspec.structs.replace(record, attempt=1), *more)

        return mutated

    swap(patch, EffectSettler, "_failed", make)


@mutant("actors/shard/effects.py", effects.test_a_parked_effect_is_overtaken)
def parked_blocks_its_key(patch: Patch) -> None:
    """The effects behind a parked one wait for an operator."""

    def make(put: Any) -> Any:
        def mutated(table: Effects, place: str, record: EffectRecord) -> Any:
            entry = put(table, place, record)
            if record.parked:
                table._busy[table.queue_of(record)] = place
            return entry

        return mutated

    swap(patch, Effects, "put", make)


@mutant("actors/shard/effect_settler.py", effects.test_a_result_that_cannot_be_sent_is_a_failed_attempt, result=None)
def any_result_counts(patch: Patch) -> None:
    """What an effect returns is not compared with its annotation: nothing comes back, and the entity waits for ever."""

    def make(settle: Any) -> Any:
        def mutated(settler: EffectSettler, outcome: EffectOutcome, now_ms: int, turn: Turn) -> None:
            if outcome.error or outcome.result is not None:
                settle(settler, outcome, now_ms, turn)
            else:
                turn.changelog.append(settler._effects.forget(outcome.place))

        return mutated

    swap(patch, EffectSettler, "_settle", make)


@mutant("actors/shard/effect_settler.py", effects.test_only_the_guilty_effect_is_parked_after_deaths, deaths_max=1)
def all_are_guilty(patch: Patch) -> None:
    """All effects that ran in a process which died are counted as its end, and parked together."""

    def make(died: Any) -> Any:
        def mutated(settler: EffectSettler, deaths: Any) -> Any:
            return died(settler, [each._replace(is_sole=True) for each in deaths])

        return mutated

    swap(patch, EffectSettler, "died", make)


@mutant("actors/shard/effects.py", effects.test_only_the_guilty_effect_is_parked_after_deaths, deaths_max=3)
def suspects_run_together(patch: Patch) -> None:
    """Those that ran in a process which died are tried together again: the guilty one is never known."""
    patch.setattr(Effects, "_first_alone", lambda _table, _now_ms: None)


@mutant("actors/shard/effect_settler.py", effects.test_an_effect_that_this_build_cannot_run_waits, lacks="the method")
def tried_by_any_build(patch: Patch) -> None:
    """An effect is tried by an owner whose build cannot read its request, or take its result: a dead letter."""
    patch.setattr(settler_module, "lacking", lambda _record, _behaviour: None)


@mutant("actors/shard/effect_settler.py", effects.test_an_effect_that_this_build_cannot_run_waits, lacks="the function")
def waits_for_ever(patch: Patch) -> None:
    """An effect that waited for its build does not start when an owner has it: its record still says that it waits."""

    def make(say: Any) -> Any:
        def mutated(settler: EffectSettler, place: str, turn: Turn) -> None:
            if settler._effects.held[place]:
                say(settler, place, turn)

        return mutated

    swap(patch, EffectSettler, "_say", make)


@mutant("actors/shard/effects.py", effects.test_a_suspect_that_this_build_cannot_run_holds_up_no_other)
def one_that_waits_holds_up_all(patch: Patch) -> None:
    """An effect that must run alone, and that this build cannot run, keeps the others of its shard from running."""

    def make(first_alone: Any) -> Any:
        def mutated(table: Effects, now_ms: int) -> Any:
            return next((place for place in table._alone if place in table.held), None) or first_alone(table, now_ms)

        return mutated

    swap(patch, Effects, "_first_alone", make)


@mutant("actors/shard/effect_settler.py", effects.test_results_are_settled_in_bounded_batches)
def unbounded_settling(patch: Patch) -> None:
    """A turn settles all effects that have ended."""
    swap(
        patch, EffectSettler, "settle",
        lambda settle: lambda settler, now_ms, turn, _count_max: settle(settler, now_ms, turn, 1 << 30),
    )  # fmt: skip


@mutant("actors/shard/turn.py", effects.test_what_the_log_refuses_is_a_dead_letter)
def refused_results_are_sent(patch: Patch) -> None:
    """The result that the log refuses is sent again and again, and its shard comes to nothing else."""

    def make(bring: Any) -> Any:
        def mutated(turn: Turn, result: Any, entry: Any, shard: str) -> None:
            turn._refusals.pop(result.place, None)
            bring(turn, result, entry, shard)

        return mutated

    swap(patch, Turn, "bring", make)
