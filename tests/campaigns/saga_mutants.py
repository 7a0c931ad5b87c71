"""Bugs planted in sagas: in what they record, settle and undo, and in what reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from msgspec.structs import replace

from repertory.actors.entity import resolved
from repertory.actors.saga import fold as folds
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.inner import StepAnswer
from repertory.actors.saga.messages import Cancelled
from repertory.actors.saga.progress import (
    RaceWon,
    RecordedStep,
    SagaBegan,
    SagaCancelling,
    SagaProgress,
    SignalTaken,
    StepAnswered,
)
from repertory.actors.saga.replay import SUSPENDED, Required, SagaReplay
from repertory.actors.saga.settling import Settling
from repertory.actors.saga.step import Gather, Plan
from repertory.actors.saga.turn import SagaTurn
from repertory.actors.shard.ahead import Ahead
from repertory.actors.shard.control_runner import ControlRunner
from repertory.actors.shard.crash_guard import CrashGuard
from repertory.actors.shard.intake import Intake
from repertory.actors.wire import encode
from repertory.bridge import codec
from tests.actors.saga import test_faults as faults
from tests.actors.saga import test_turns as sagas
from tests.actors.saga.domain import Taken
from tests.actors.shard import test_ahead as ahead
from tests.actors.shard import test_told as told
from tests.actors.shard import test_urgent as urgent
from tests.campaigns.planting import Patch, mutant, swap
from tests.repertory.simulation import test_sagas as simulated

_money = simulated.test_money_is_conserved_and_each_saga_ends_or_waits
_SEEDS = range(13_000, 13_100)


@mutant("actors/saga/settling.py", _money, seeds=_SEEDS)
def undo_before_settling(patch: Patch) -> None:
    """What was applied is undone before it is known what else was."""

    def make(settle: Any) -> Any:
        def mutated(turn: Settling) -> None:
            with Patch.context() as inner:
                if next(turn.progress.to_undo(), None) is not None:
                    inner.setattr(SagaProgress, "unsettled", lambda _progress: [])
                settle(turn)

        return mutated

    swap(patch, Settling, "_settle", make)


@mutant("actors/saga/progress.py", _money, seeds=_SEEDS)
def undo_of_a_step_that_was_not_applied(patch: Patch) -> None:
    """A step that was rejected is undone too."""
    patch.setattr(RecordedStep, "was_applied", property(lambda step: step.is_outside and step.answered))


@mutant("actors/saga/progress.py", _money, seeds=_SEEDS)
def undo_order_reversed(patch: Patch) -> None:
    """The first step is undone first."""
    swap(patch, SagaProgress, "to_undo", lambda undos: lambda progress: iter([*undos(progress)][::-1]))


@mutant(
    "actors/saga/step.py",
    sagas.test_code_that_changed_under_a_running_saga,
    code=sagas.other_message,
    sentence="step 0",
)
def digest_ignored(patch: Patch) -> None:
    """A message with other fields is taken for the recorded one."""
    swap(patch, Plan, "differs", lambda differs: lambda plan, step: differs(replace(plan, digest=step.digest), step))


@mutant("actors/saga/replay.py", faults.test_the_winner_of_a_race_stays_the_winner)
def winner_decided_at_replay(patch: Patch) -> None:
    """The winner of a race is, at each replay, the first of its steps that is completed by then."""

    def make(first: Any) -> Any:
        def mutated(run: SagaReplay, wanted: Any, recorded: list[RecordedStep], ctx: Any) -> object:
            if any(step.won for step in recorded):
                done = next(step for step in recorded if step.done)
                recorded = [replace(step, won=step.n == done.n) for step in recorded]
            found: object = first(run, wanted, recorded, ctx)
            return found

        return mutated

    swap(patch, SagaReplay, "_first", make)


@mutant("actors/saga/replay.py", _money, seeds=_SEEDS)
def gather_fails_fast_and_forgets(patch: Patch) -> None:
    """The first rejection of a gather ends the saga, which does not wait for the other steps."""

    def make(wait_for_all: Any) -> Any:
        def mutated(run: SagaReplay, wanted: Any, recorded: list[RecordedStep], ctx: Any) -> object:
            for step in recorded if isinstance(wanted, Gather) else ():
                if step.kind == "require" and step.done and step.rejected:
                    return Required(step)
            return wait_for_all(run, wanted, recorded, ctx) or SUSPENDED

        return mutated

    swap(patch, SagaReplay, "_all", make)
    swap(
        patch, SagaProgress, "unsettled",
        lambda unsettled: lambda progress: [each for each in unsettled(progress) if each.abandoned or each.is_pivot],
    )  # fmt: skip


@mutant("actors/saga/fold.py", _money, seeds=_SEEDS)
def signal_taken_twice(patch: Patch) -> None:
    """A signal that was taken waits on."""

    def make(taken: Any) -> Any:
        def mutated(progress: SagaProgress, evt: SignalTaken) -> SagaProgress:
            return replace(taken(progress, evt), signals=progress.signals)

        return mutated

    _fold(patch, SignalTaken, make)


@mutant("actors/saga/behaviour.py", faults.test_a_running_saga_keeps_its_version)
def version_ignored(patch: Patch) -> None:
    """A running saga goes on with the newest version of its code."""
    swap(
        patch, SagaBehaviour, "run",
        lambda run: lambda behaviour, progress: run(behaviour, replace(progress, version=behaviour.latest)),
    )  # fmt: skip


@mutant("actors/saga/behaviour.py", sagas.test_a_result_is_kept_and_then_a_new_life_begins)
def answer_of_an_old_life_accepted(patch: Patch) -> None:
    """The answer to a step of an earlier life of the same key is taken for one of this life."""

    def make(answer: Any) -> Any:
        def mutated(behaviour: SagaBehaviour, saga: Any, cmd: StepAnswer, ctx: Any) -> object:
            own = f"~{saga.progress.life}/" + cmd.step.partition("/")[2]
            return answer(behaviour, saga, replace(cmd, step=own), ctx)

        return mutated

    swap(patch, SagaBehaviour, "_answer", make)


@mutant("actors/saga/progress.py", _money, seeds=_SEEDS)
def keep_forgets_too_much(patch: Patch) -> None:
    """``keep`` and pivots forget the undos of abandoned asks."""

    def make(undos: Any) -> Any:
        def mutated(progress: SagaProgress) -> Iterator[RecordedStep]:
            return (each for each in undos(progress) if each.done > progress.stands)

        return mutated

    swap(patch, SagaProgress, "to_undo", make)


@mutant("actors/saga/fold.py", _money, seeds=_SEEDS)
def late_answer_of_a_timeout_dropped(patch: Patch) -> None:
    """What is answered after its time-out is forgotten, though it was applied."""

    def make(answered: Any) -> Any:
        def mutated(progress: SagaProgress, evt: StepAnswered) -> SagaProgress:
            step = progress.step(evt.n)
            late = step is not None and step.timed_out
            found: SagaProgress = answered(progress, replace(evt, rejected=True) if late else evt)
            return found

        return mutated

    _fold(patch, StepAnswered, make)


@mutant("actors/saga/turn.py", sagas.test_a_cancel_during_an_undo)
def cancel_swallowed_during_undo(patch: Patch) -> None:
    """A cancel while a saga rolls back is not answered."""

    def make(cancel: Any) -> Any:
        def mutated(turn: SagaTurn, *more: Any) -> Any:
            return None if turn.progress.phase == "settling" else cancel(turn, *more)

        return mutated

    swap(patch, SagaTurn, "cancel", make)


@mutant("actors/saga/settling.py", sagas.test_a_cancel_in_each_gap, applied=0, late=Taken())
def revoke_not_sent(patch: Patch) -> None:
    """An ask that nobody waits for any more is not revoked: a roll back waits for a parked key for ever."""
    patch.setattr(Settling, "_revoke", lambda _turn, _step: None)


@mutant("actors/saga/turn.py", sagas.test_a_cancel_with_an_open_pivot)
def pivot_ignored_at_cancel(patch: Patch) -> None:
    """A saga that is cancelled rolls back, though a pivot is under way."""

    def make(cancel: Any) -> Any:
        def mutated(turn: SagaTurn, reason: str, sender: Any) -> Any:
            if turn.progress.phase != "running":
                return cancel(turn, reason, sender)
            turn._add(SagaCancelling(reason=reason, sender=sender))
            turn._end(encode(Cancelled(reason=reason)), rejected=True)
            return None

        return mutated

    swap(patch, SagaTurn, "cancel", make)


@mutant("actors/saga/turn.py", faults.test_a_cancel_between_two_pivots_is_too_late)
def cancelled_behind_a_pivot(patch: Patch) -> None:
    """A saga that has applied a pivot can be cancelled, and answers that it is undone."""
    swap(
        patch, SagaTurn, "cancel",
        lambda cancel: lambda turn, *more: _without_pivots(cancel, turn, *more),
    )  # fmt: skip


def _without_pivots(cancel: Any, turn: SagaTurn, *more: Any) -> Any:
    with Patch.context() as inner:
        inner.setattr(SagaProgress, "applied_pivots", lambda _progress: iter(()))
        return cancel(turn, *more)


@mutant("actors/saga/fold.py", _money, seeds=_SEEDS)
def losers_stand(patch: Patch) -> None:
    """What has lost a race is not abandoned: if it was applied, it stays so."""

    def make(won: Any) -> Any:
        def mutated(progress: SagaProgress, evt: RaceWon) -> SagaProgress:
            found: SagaProgress = won(progress, replace(evt, over=()))
            return found

        return mutated

    _fold(patch, RaceWon, make)


@mutant("bridge/codec.py", _money, seeds=_SEEDS)
def rejections_not_marked(patch: Patch) -> None:
    """The answer to a step does not say that nothing was applied."""
    patch.setattr(codec, "_rejected", lambda _about, *, rejected: ())


@mutant("actors/shard/intake.py", urgent.test_a_request_whose_failure_escalates_is_tried_again)
def escalated_request_lost(patch: Patch) -> None:
    """A request that escalates while commands of its key are stashed is taken for handled."""

    def make(act: Any) -> Any:
        def mutated(intake: Intake, *more: Any) -> None:
            act(intake, *more)
            intake._runner.failure = None

        return mutated

    swap(patch, Intake, "_act", make)


@mutant("actors/shard/intake.py", urgent.test_a_full_stash_stops_no_cancel)
def cancel_waits_behind_the_stash(patch: Patch) -> None:
    """A request to cancel waits behind the answer that the saga cannot take."""
    swap(patch, Intake, "_act", lambda _: lambda intake, delivery, _now_ms, turn: turn.join(delivery))


@mutant("actors/shard/ahead.py", ahead.test_a_cancel_reaches_the_saga_that_fills_the_stash)
def cancel_behind_a_full_stash(patch: Patch) -> None:
    """A request to cancel waits behind a command for which the stash has no room, and which it would make room for."""
    patch.setattr(Ahead, "first", lambda _ahead: None)


@mutant("actors/shard/ahead.py", ahead.test_what_was_handled_before_its_turn_is_handled_once, crash="behind")
def handled_ahead_forgotten(patch: Patch) -> None:
    """The shard record does not name what was handled before its turn: a restart handles it again."""
    patch.setattr(Ahead, "since", lambda _ahead, _next: ())


@mutant("actors/shard/intake.py", ahead.test_after_a_node_went_down_it_is_announced_and_handled_alone)
def ahead_not_announced(patch: Patch) -> None:
    """What is handled before its turn is not announced after a node went down."""
    patch.setattr(Intake, "_take_ahead", _unannounced(Intake._take_ahead))


@mutant("actors/shard/intake.py", urgent.test_what_is_parked_is_tried_again_behind_a_cancel)
def parked_for_ever(patch: Patch) -> None:
    """What has parked the key of a saga that is cancelled then waits for an operator."""
    patch.setattr(ControlRunner, "unpark", lambda _runner, _key, _turn: None)


@mutant("actors/shard/control_runner.py", urgent.test_an_operator_cannot_drop_an_answer)
def answer_dropped(patch: Patch) -> None:
    """An operator can drop the answer that a saga waits for."""

    def make(init: Any) -> Any:
        def mutated(runner: ControlRunner, *more: Any) -> None:
            init(runner, *more)
            runner._owed = ()

        return mutated

    swap(patch, ControlRunner, "__init__", make)


@mutant("actors/saga/context.py", faults.test_a_pivot_stands_beside_nothing_that_can_be_undone)
def pivot_beside_what_is_undone(patch: Patch) -> None:
    """A gather takes a pivot beside a step with an undo: whether that stands is a matter of luck."""
    patch.setattr(SagaContext, "gather", lambda ctx, *steps: Gather(ctx._several("gather", steps)))


@mutant(
    "actors/shard/intake.py", urgent.test_a_cancel_drops_the_starts_of_a_saga_that_could_not_begin, number=1, crashes=0
)  # fmt: skip
def start_outlives_its_cancel(patch: Patch) -> None:
    """The start of a saga that is cancelled before it could begin stays in the stash, and mended code begins it."""
    patch.setattr(ControlRunner, "drop_starts", lambda _runner, _cancel, _turn: None)


@mutant(
    "actors/saga/fold.py", told.test_a_saga_that_was_told_to_run_is_not_cancelled_by_a_revoke,
    starts=(told.TELL, told.ASK),
)  # fmt: skip
def told_start_forgotten(patch: Patch) -> None:
    """That a saga was told to run is not recorded: one who has asked for it too, and revokes that, cancels it."""
    _fold(patch, SagaBegan, lambda fold: lambda *each: replace(fold(*each), is_told=False), told.Again)


def _unannounced(take: Any) -> Any:
    def mutated(intake: Intake, now_ms: int, turn: Any) -> Any:
        with Patch.context() as inner:
            inner.setattr(CrashGuard, "must_announce", lambda _guard, _offset: False)
            return take(intake, now_ms, turn)

    return mutated


@mutant("actors/saga/settling.py", _money, seeds=_SEEDS)
def state_without_its_last_event(patch: Patch) -> None:
    """The state that a turn leaves is not the fold of what it has recorded."""

    def make(recorded: Any) -> Any:
        def mutated(turn: Settling) -> tuple[Any, ...]:
            found: tuple[Any, ...] = recorded(turn)
            if len(found) > 1:
                progress = reduce(folds.fold, found[:-1], turn._saga.progress)
                turn._context.evolved = turn._saga.replace(progress=progress)
            return found

        return mutated

    swap(patch, Settling, "recorded", make)


def _fold(patch: Patch, event: type, make: Any, kind: type = simulated.sagas.Deal) -> None:
    """Change the fold of an event, for the turns of all sagas, and for the journals of one kind."""
    patch.setitem(folds.FOLD, event, make(folds.FOLD[event]))

    def evolved(saga: Any, evt: Any) -> Any:
        return saga.replace(progress=folds.FOLD[type(evt)](saga.progress, evt))

    patch.setitem(resolved(kind).evolve, event, evolved)
