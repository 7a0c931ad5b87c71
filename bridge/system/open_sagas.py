"""Reads the sagas of a system from its committed records: their steps, and what each waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import msgspec

from repertory.actors.placement import checked_key, partition_of
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.inner import step_id, undo_id
from repertory.actors.saga.progress import RecordedStep, SagaPhase, SagaProgress
from repertory.actors.saga.saga import Saga
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.system.ask_places import AskPlace, AskPlaces
from repertory.bridge.system.committed import Skip, evolved
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.shard_entities import shard_entities

#: What a saga waits for beside the kinds of steps: that an undo is answered, and that an operator acts.
UNDO, OPERATOR = "undo", "operator"


class AwaitedStep(msgspec.Struct, frozen=True):
    """What a saga waits for: the answer to step ``n``, the end of a sleep, a signal, or the answer to the step's undo.

    ``kind``: that of the step, or `UNDO`, or `OPERATOR` where it is stuck. ``since_ms`` and ``due_ms`` (epoch; 0: it
    has no time-out). ``place``: where its message is, None if it is under way, or the receiver has it.
    """

    n: int
    kind: str
    target: str
    key: str
    since_ms: int
    due_ms: int = 0
    place: AskPlace | None = None


class OpenSaga(msgspec.Struct, frozen=True):
    """A saga: all that is recorded of it, and what it waits for.

    ``entity`` is its name in topics. ``stash``: the first stashed command of its own key, which it cannot handle; its
    code goes on when that is handled. A saga that is over has no steps any more, only its outcome; one whose start is
    stashed has none yet.
    """

    entity: str
    partition: int
    key: str
    progress: SagaProgress
    waits: tuple[AwaitedStep, ...] = ()
    stash: AskPlace | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing happens any more: only its outcome is kept."""
        return self.progress.phase is SagaPhase.OVER

    @property
    def stuck(self) -> str:
        """Why the undo was rejected at which it is stuck; "" if it is not stuck."""
        return self.progress.stuck

    @property
    def phase(self) -> str:
        """``new``, ``running``, ``cancelling``, ``settling``, ``undoing``, ``stuck``; then ``done`` or ``undone``.

        ``new``: its start is stashed, so nothing of it has happened.
        """
        progress = self.progress
        match progress.phase:
            case SagaPhase.NEW:
                return "new"
            case SagaPhase.OVER:
                return "undone" if progress.is_rejected else "done"
            case SagaPhase.SETTLING if progress.stuck:
                return "stuck"
            case SagaPhase.SETTLING:
                return "undoing" if progress.undoing >= 0 else "settling"
            case _:
                return "cancelling" if progress.is_cancelling else "running"

    @property
    def since_ms(self) -> int:
        """Since when (epoch) it waits for what it waits for, or is over."""
        if self.is_over:
            return self.progress.over_ms
        if self.progress.phase is SagaPhase.NEW and self.stash is not None:
            return self.stash.at_ms
        return min((each.since_ms for each in self.waits), default=self.progress.began_ms)


def open_sagas(reader: Reader, system: SystemDefinition, *, skip: Skip = None) -> Iterator[OpenSaga]:
    """Yield all sagas of a system by entity, partition and key, those that are over but not forgotten included.

    A record that cannot be decoded is a DecodeError that names it or, with ``skip``, is skipped after ``skip`` was
    called with that sentence.
    """
    places = AskPlaces(reader, system, skip)
    for hosted in system.hosted.values():
        if isinstance(hosted.behaviour, SagaBehaviour):
            for partition in range(hosted.partitions):
                yield from sagas_on(reader, system, hosted, partition, places, skip=skip)


def sagas_on(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, places: AskPlaces | None,
    *, key: str | None = None, skip: Skip = None,
) -> Iterator[OpenSaga]:  # fmt: skip
    """Yield those of one shard, or the one of that ``key``; without ``places`` nothing is said of where asks are."""
    found = shard_entities(reader, system, hosted, partition, only=key, skip=skip)
    keys = {*found, *(places.keys(hosted.behaviour.name, partition) if places is not None else ())}
    for each in sorted(keys if key is None else keys & {key}):
        saga = cast(Saga, found.get(each) or hosted.behaviour.initial())
        yield _saga(hosted, partition, each, saga.progress, places)


def saga_of(reader: Reader, system: SystemDefinition, hosted: EntityDefinition, key: str) -> OpenSaga:
    """Return one saga; of one that is over the steps too, as far as the journal still has them. LookupError if none."""
    partition = partition_of(checked_key(key).encode(), hosted.partitions)
    found = next(sagas_on(reader, system, hosted, partition, AskPlaces(reader, system), key=key), None)
    if found is None:
        raise LookupError(f"there is no {hosted.behaviour.name} {key!r}: it was never started, or is forgotten")
    before = _before_its_end(reader, system, hosted, partition, key, found.progress.life) if found.is_over else None
    if before is None:
        return found
    progress = msgspec.structs.replace(found.progress, steps=before.steps, first=before.first)
    return msgspec.structs.replace(found, progress=progress)


def _before_its_end(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int, key: str, life: int
) -> SagaProgress | None:
    """Return what was recorded of a saga just before it was over; None if the journal does not have its begin."""
    behaviour, raw = hosted.behaviour, key.encode()
    topic = topics.events_topic(system.name, behaviour.name)
    state, found = cast(Saga, behaviour.initial()), None
    for record in reader.read(topic, partition, reader.bounds(topic, partition)[0]):
        if record.key == raw:
            before = state.progress
            state = cast(Saga, evolved(behaviour, state, record)[0])
            if state.progress.phase is SagaPhase.OVER and before.life == life:
                found = before
    return found


def _saga(
    hosted: EntityDefinition, partition: int, key: str, progress: SagaProgress, places: AskPlaces | None
) -> OpenSaga:
    name = hosted.behaviour.name
    waits = tuple(_waits(name, partition, key, progress, places))
    stash = None if places is None else places.first(name, partition, key)
    return OpenSaga(name, partition, key, progress, waits, stash)


def _waits(
    entity: str, partition: int, key: str, progress: SagaProgress, places: AskPlaces | None
) -> Iterator[AwaitedStep]:
    def placed(target: str, to: str, about: str, *, is_effect: bool) -> AskPlace | None:
        if places is None:
            return None
        if is_effect:
            return places.effect(entity, partition, key, about)
        return places.ask(entity, key, about, target, to)

    running = progress.phase is SagaPhase.RUNNING
    for step in progress.steps:
        if step.is_unsettled or (running and step.is_waited_for and step.n >= progress.first):
            about, is_effect = step_id(progress.life, step.n), step.kind == "perform"
            place = placed(step.target, step.key, about, is_effect=is_effect) if step.is_outside else None
            yield AwaitedStep(
                step.n, step.kind, receiver(step), step.key, step.opened_ms, 0 if step.timed_out else step.due_ms, place
            )
    undone = progress.step(progress.undoing) if progress.undoing >= 0 else None
    if undone is not None and undone.undo is not None:
        undo = undone.undo
        about = undo_id(progress.life, undone.n, progress.undo_attempt)
        place = None if progress.stuck else placed(undo.target, undo.key, about, is_effect=undo.is_effect)
        kind = OPERATOR if progress.stuck else UNDO
        yield AwaitedStep(undone.n, kind, undo.target, undo.key, progress.since_ms, 0, place)


def receiver(step: RecordedStep) -> str:
    """Return whom a step asks, or what it waits for: ``account.withdraw``, an effect, a signal."""
    return f"{step.target}.{step.handler}" if step.handler else step.target
