"""What of the sagas of a log a build could not go on with: each running one is replayed on its code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, cast

from repertory.actors.context import Context, Directory
from repertory.actors.effect import registered
from repertory.actors.headers import ABOUT, REJECTED, REPLY_TO, RETRY_OF, Headers
from repertory.actors.message import DefinitionError, Envelope, Message
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.fold import fold
from repertory.actors.saga.inner import StepAnswer, StepId
from repertory.actors.saga.progress import RecordedCall, SagaPhase, SagaProgress, StepAnswered
from repertory.actors.saga.replay import SagaReplay
from repertory.actors.saga.saga import Saga
from repertory.actors.saga.step import NonDeterministic, NotInBuild
from repertory.actors.wire import DecodeError, MessageDecoder
from repertory.bridge.log.port import Reader
from repertory.bridge.system.committed import stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.shard_entities import shard_entities
from repertory.supervision.traceback_text import message_of

#: A turn that replays may not fail for the size of what it would send.
_BYTES_MAX = 1 << 40
_STEP = re.compile(r"step (\d+):")


class SagaFlaw(NamedTuple):
    """Why a saga could not go on. ``alike``: the same for sagas that fail alike, whatever their keys.

    ``is_in_build``: False if its key waits for a build that has what this one lacks.
    """

    what: str
    alike: str
    key: str
    is_in_build: bool = True


def is_step_answer(behaviour: SagaBehaviour, headers: Headers, value: bytes) -> StepAnswer | None:
    """Return the answer to a saga's step that a record brings: it is of any type, and read by the saga's code alone."""
    found = dict(headers)
    if REPLY_TO in found or RETRY_OF in found or ABOUT not in found:
        return None
    about = found[ABOUT].decode("utf-8", "replace")
    return cast(StepAnswer | None, behaviour.answer(about, value, rejected=REJECTED in found))


def saga_flaws(
    reader: Reader, system: SystemDefinition, hosted: EntityDefinition, partition: int
) -> Iterator[SagaFlaw]:
    """Yield what is wrong with the sagas of a shard that are not over, one flaw a saga."""
    behaviour = hosted.behaviour
    assert isinstance(behaviour, SagaBehaviour), behaviour
    waiting: dict[str, list[StepAnswer]] = {}
    for _, record in stashed_commands(reader, system, behaviour, partition):
        if (answer := is_step_answer(behaviour, record.headers, record.value)) is not None:
            waiting.setdefault(record.key, []).append(answer)
    for key, entity in sorted(shard_entities(reader, system, hosted, partition).items()):
        saga = cast(Saga, entity)
        if saga.progress.phase is not SagaPhase.OVER:
            progress = _with_answers(saga.progress, waiting.get(key, ()))
            if (found := _flaw(system, behaviour, key, saga, progress)) is not None:
                yield found


def _with_answers(progress: SagaProgress, answers: Sequence[StepAnswer]) -> SagaProgress:
    """Add the answers that are stashed: of a saga whose code has failed, these are what it goes on with."""
    for each in answers:
        found = StepId.parse(each.step)
        step = None if found is None else progress.step(found.n)
        if found is not None and not found.undo and found.life == progress.life and step and step.is_unsettled:
            evt = StepAnswered(n=found.n, value=each.value, rejected=each.rejected, at_ms=progress.began_ms)
            progress = fold(progress, evt)
    return progress


def _flaw(
    system: SystemDefinition, behaviour: SagaBehaviour, key: str, saga: Saga, progress: SagaProgress
) -> SagaFlaw | None:
    try:
        if progress.phase is SagaPhase.RUNNING:
            _replay(system, behaviour, key, saga, progress)
            for signal in progress.signals:
                behaviour.decoder.decode(signal.value)
    except NotInBuild as error:
        return SagaFlaw(message_of(error), message_of(error), key, is_in_build=False)
    except NonDeterministic as error:
        text = message_of(error)
        number = _STEP.search(text)
        alike = f"version {progress.version} differs at step {number[1]}" if number else text
        return SagaFlaw(text, alike, key)
    except DecodeError as error:
        text = f"what it has recorded cannot be read: {error}"
        return SagaFlaw(text, text, key)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  user code
        text = f"version {progress.version} of its code raises {type(error).__name__}: {message_of(error)}"
        return SagaFlaw(text, text, key)
    for step in progress.steps:
        if step.undo is not None and not step.undone and (what := _undo_flaw(system, step.undo)) is not None:
            return SagaFlaw(f"the undo of step {step.n} {what}", f"undo {step.undo.target} {what}", key)
    return None


def _replay(system: SystemDefinition, behaviour: SagaBehaviour, key: str, saga: Saga, progress: SagaProgress) -> None:
    """Run the code over the recorded steps. Raises what its turn would."""
    run = behaviour.run(progress)
    command: Message = behaviour.decoder.decode(progress.command)
    directory = Directory(system.hosted.__contains__, lambda _topic: None, system.publishes.__contains__)
    envelope = Envelope(progress.life, key, command, progress.command, (), progress.began_ms)
    context = Context(behaviour, run, envelope, directory, progress.cause, 1, _BYTES_MAX)
    replay = SagaReplay(run, progress, progress.began_ms, lambda _progress: None)
    replay.drive(saga, command, SagaContext(context, run, progress))


def _undo_flaw(system: SystemDefinition, undo: RecordedCall) -> str | None:
    """Return why an undo could not be done, None if it can."""
    if undo.is_effect:
        if (effect := registered(undo.target)) is None:
            return f"is the effect {undo.target!r}, which this build does not have"
        decoders: Mapping[str, MessageDecoder] = {undo.target: effect.signature.decoder}
    else:
        decoders = {each.behaviour.name: each.behaviour.decoder for each in system.hosted.values()}
    if undo.target not in decoders:
        return f"is for {undo.target!r}, which this build does not host"
    try:
        decoders[undo.target].decode(undo.message)
    except (DecodeError, DefinitionError) as error:
        return f"cannot be read by {undo.target}: {error}"
    return None
