"""``SagaBehaviour``: the meaning of a saga's class, as that of an entity whose commands record and replay its code."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from repertory.actors.context import Context
from repertory.actors.control import CONTROL, RevokeAsk
from repertory.actors.entity import Behaviour, Entity
from repertory.actors.handler import CommandHandler, EventHandler, Handler
from repertory.actors.message import Command, DefinitionError, Event, Message, Rejection, wire_name
from repertory.actors.saga.fold import FOLD
from repertory.actors.saga.inner import OWED, STEP_MARK, ResultDue, StepAnswer, StepDue, StepId
from repertory.actors.saga.messages import (
    URGENT,
    AlreadyBegun,
    AmendUndo,
    CancelSaga,
    NoSuchSaga,
    NotStuck,
    RetryUndo,
    SkipUndo,
    TooLate,
)
from repertory.actors.saga.progress import SAGA_EVENTS, SagaPhase, SagaProgress
from repertory.actors.saga.room import SagaLimits
from repertory.actors.saga.step import NotInBuild, digest_of
from repertory.actors.saga.turn import SagaTurn

if TYPE_CHECKING:
    from repertory.actors.saga.saga import RunHandler, Saga

_REFUSALS: tuple[type[Rejection], ...] = (AlreadyBegun, NoSuchSaga, TooLate, NotStuck)


class SagaHandler(CommandHandler[Any, Any, Any]):
    """Handles one kind of message of a saga, whatever its code is."""

    kind = "saga"

    def __init__(self, owner: type, message: type[Command], name: str, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self.owner, self.name = owner, name
        self.message_types, self.takes_context, self.returns_tuple = (message,), True, True
        self.returns_nothing = True
        self.set_results((*SAGA_EVENTS, *_REFUSALS))


class SagaBehaviour(Behaviour):
    """What the runtime needs to know about one saga class: an entity's behaviour, made of its ``@run`` methods."""

    entity: type[Saga]

    def __init__(self, entity: type[Entity]) -> None:
        self.limits: SagaLimits = entity.__saga_limits__  # type: ignore[attr-defined]
        self._runs: dict[int, RunHandler[Any, Any, Any]] = {}
        #: The version with which new sagas begin.
        self.latest = 0
        #: Handles timers.
        self.due: Handler = SagaHandler(entity, StepDue, "due", self._due)
        super().__init__(entity)

    def run(self, progress: SagaProgress) -> Handler:
        """Return the code of a saga; NotInBuild if this build does not have its version."""
        found = self._runs.get(progress.version)
        if found is None:
            raise NotInBuild(
                f"{self.entity.__name__} was begun with version {progress.version} of its code, and this build has "
                f"{', '.join(map(str, sorted(self._runs)))}; keep the @run(version={progress.version}) method"
            )
        return found

    @property
    def versions(self) -> str:
        """The versions of its code, for people."""
        return f"version{'s' if len(self._runs) > 1 else ''} {', '.join(map(str, sorted(self._runs)))}"

    is_shallow = True
    owed = frozenset[type[Message]](OWED)
    #: Its code awaits those that another one depends on; those that it gathers run at once.
    orders_effects = False
    _answers = (Event, Rejection)
    urgent = frozenset[type[Message]]((*URGENT, RevokeAsk))
    cancels = frozenset[type[Message]]((CancelSaga,))
    #: A revoke may cancel the saga, so a handler takes it.
    control = tuple(each for each in CONTROL if each is not RevokeAsk)

    def has_begun(self, state: Entity) -> bool:
        """See `Behaviour`."""
        return isinstance(state, self.entity) and state.progress.phase is not SagaPhase.NEW

    def answer(self, about: str, value: bytes, *, rejected: bool) -> Message | None:
        """Return the message for a record that answers a step, or a revoke; None if ``about`` is not of a saga's."""
        return StepAnswer(step=about, value=value, rejected=rejected) if about.startswith(STEP_MARK) else None

    # --- the handlers -----------------------------------------------------------------------------------------

    def _declare(self, declared: Sequence[Handler]) -> None:
        from repertory.actors.saga.saga import RunHandler, SignalHandler  # noqa: PLC0415  its classes name this one

        runs = [each for each in declared if isinstance(each, RunHandler)]
        self._check_runs(runs)
        for each in runs:
            self._runs[each.version] = each
        self.latest = max(self._runs)
        begin = self._runs[self.latest]
        self.starts = frozenset[type[Message]](begin.message_types)
        self._add(self._as(begin, self._begin))
        for handler in declared:
            if isinstance(handler, SignalHandler):
                self._add(self._as(handler, self._signal))
        inner: dict[type[Command], Callable[..., Any]] = {
            StepAnswer: self._answer, ResultDue: self._forget, CancelSaga: self._cancel, RetryUndo: self._retry_undo,
            SkipUndo: self._skip_undo, AmendUndo: self._amend_undo, RevokeAsk: self._revoke,
        }  # fmt: skip
        self._add(self.due)
        for message, function in inner.items():
            self._add(SagaHandler(self.entity, message, function.__name__.removeprefix("_"), function))
        for evt, fold in FOLD.items():
            self.events[evt] = _folding(self.entity, evt, fold)

    def _answering(self) -> Collection[Handler]:
        return [*super()._answering(), *self._runs.values()]

    def _check_runs(self, runs: Sequence[RunHandler[Any, Any, Any]]) -> None:
        name = self.entity.__name__
        if not runs:
            raise DefinitionError(f"{name} has no @run method, so it can do nothing; write one.")
        for each in runs:
            other = next(other for other in runs if other.version == each.version)
            if other is not each:
                raise each.refusal(f"is version {each.version}, and so is {name}.{other.name}; give it another")
            if each.message_types != runs[0].message_types:
                raise each.refusal(
                    f"takes {each.message_types[0].__name__} and {name}.{runs[0].name} "
                    f"{runs[0].message_types[0].__name__}; all versions of a saga begin with one command"
                )

    def _as(self, declared: Handler, function: Callable[..., Any]) -> Handler:
        """Return the handler for the message of a declared one, which stays the address."""
        made = SagaHandler(self.entity, declared.message_types[0], declared.name, function)  # type: ignore[arg-type]
        made.kind, made.replies, made.answers = declared.kind, declared.replies, declared.answers
        return made

    @property
    def wire_types(self) -> Collection[type[Message]]:
        """See `Behaviour`: a `StepAnswer` is made of a record and never read."""
        return [each for each in self.taken if each is not StepAnswer]

    def _turn(self, saga: Saga, ctx: Context) -> SagaTurn:
        ctx.replied = True  # What is answered, a turn says itself.
        return SagaTurn(self, saga, ctx)

    def _begin(self, saga: Saga, cmd: Command, ctx: Context) -> object:
        turn, progress = self._turn(saga, ctx), saga.progress
        if progress.phase is SagaPhase.NEW:
            turn.begin(cmd)
        elif progress.digest != digest_of(cmd):
            return AlreadyBegun()
        elif (refusal := turn.join()) is not None:
            return refusal
        return turn.recorded()

    def _signal(self, saga: Saga, cmd: Command, ctx: Context) -> object:
        return self._known(saga, ctx, lambda turn: turn.signalled(cmd, wire_name(type(cmd))))

    def _answer(self, saga: Saga, cmd: StepAnswer, ctx: Context) -> object:
        turn, found = self._turn(saga, ctx), StepId.parse(cmd.step)
        if found is None or saga.progress.phase is SagaPhase.NEW or found.life != saga.progress.life:
            return ()
        if found.undo:
            turn.undo_answered(found.n, found.undo, cmd.value, rejected=cmd.rejected)
        else:
            turn.answered(found.n, cmd.value, rejected=cmd.rejected)
        return turn.recorded()

    def _due(self, saga: Saga, cmd: StepDue, ctx: Context) -> object:
        turn = self._turn(saga, ctx)
        if ctx.due_ms is not None:
            turn.expired(cmd.step)
        return turn.recorded()

    def _forget(self, saga: Saga, _cmd: ResultDue, ctx: Context) -> object:
        if ctx.due_ms is not None:
            self._turn(saga, ctx).forget()
        return ()

    def _cancel(self, saga: Saga, cmd: CancelSaga, ctx: Context) -> object:
        if ctx.drops_start:
            self._turn(saga, ctx).say_done()
            return ()
        return self._known(saga, ctx, lambda turn: turn.cancel(cmd.reason, ctx.sender))

    def _retry_undo(self, saga: Saga, cmd: RetryUndo, ctx: Context) -> object:
        return self._known(saga, ctx, lambda turn: turn.retry_undo(cmd.step))

    def _skip_undo(self, saga: Saga, cmd: SkipUndo, ctx: Context) -> object:
        return self._known(saga, ctx, lambda turn: turn.skip_undo(cmd.step, cmd.reason))

    def _amend_undo(self, saga: Saga, cmd: AmendUndo, ctx: Context) -> object:
        return self._known(saga, ctx, lambda turn: turn.amended(cmd.step, cmd.message))

    def _known(self, saga: Saga, ctx: Context, act: Callable[[SagaTurn], Rejection | None]) -> object:
        """Have a saga that was started act; ``act`` returns what it refuses."""
        if saga.progress.phase is SagaPhase.NEW:
            return NoSuchSaga()
        turn = self._turn(saga, ctx)
        return act(turn) or turn.recorded()

    def _revoke(self, saga: Saga, cmd: RevokeAsk, ctx: Context) -> object:
        turn = self._turn(saga, ctx)
        if saga.progress.phase is not SagaPhase.NEW and (sender := ctx.sender) is not None:
            turn.revoked((sender.topic, sender.key, cmd.about))
        return turn.recorded()


def _folding(entity: type[Saga], evt: type[Event], fold: Callable[[SagaProgress, Any], SagaProgress]) -> Handler:
    """Return the event handler of a saga for one event of its journal."""

    def evolve(saga: Saga, event: Event) -> Saga:
        return saga.replace(progress=fold(saga.progress, event))

    handler: EventHandler[Saga, Event] = EventHandler(evolve)
    handler.owner, handler.name = entity, fold.__name__.removeprefix("_")
    handler.message_types = (evt,)
    return handler
