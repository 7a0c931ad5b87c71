"""What an operator does about sagas: see what each waits for, cancel one, and help one whose undo was rejected."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from repertory.actors.effect import registered
from repertory.actors.message import Command, Done, Message, wire_name
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.messages import AmendUndo, CancelSaga, NoSuchSaga, NotStuck, RetryUndo, SkipUndo, TooLate
from repertory.actors.saga.progress import RecordedCall, SagaPhase
from repertory.actors.wire import DecodeError, MessageDecoder, encode
from repertory.bridge import topics
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.ask_places import AskPlaces
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.hosting import EntityDefinition
from repertory.bridge.system.open_sagas import OpenSaga, open_sagas, receiver, saga_of
from repertory.inspect.cycles import cycles
from repertory.operate.outcome import Answers
from repertory.operate.waiting import Retried, why_it_waits

#: An entity and a key of it.
Node: TypeAlias = tuple[str, str]


class Unanswered(msgspec.Struct, frozen=True):
    """No answer has come in time; ``why`` says what the request waits for. It stays in the log."""

    why: str


#: How a request ended.
Outcome: TypeAlias = Done | TooLate | NotStuck | NoSuchSaga | Unanswered


class SagaOperator:
    """For use by one thread. Appends requests to a saga's commands topic; the saga itself answers them.

    ``skipped`` names the records that a listing could not read.
    """

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system, self._backend = system, backend
        self._reader: Reader = backend.reader()
        self._appender = backend.appender()
        self.skipped: list[str] = []

    # --- what there is ----------------------------------------------------------------------------------------

    def sagas(self) -> list[OpenSaga]:
        """Return all sagas of the system, those that are over but not forgotten included."""
        return list(open_sagas(self._reader, self._system, skip=self.skipped.append))

    def find(self, entity: str, key: str) -> OpenSaga:
        """Return a saga with all its steps. LookupError if there is none, or the entity is no saga."""
        return saga_of(self._reader, self._system, self._hosted(entity), key)

    def cycles(self, sagas: list[OpenSaga]) -> list[list[Node]]:
        """Return the cycles of keys that wait for each other: sagas, and whoever waits in a stash."""
        waits: dict[Node, dict[Node, None]] = {}
        for saga in sagas:
            asked = {(each.target.partition(".")[0], each.key): None for each in saga.waits if each.key}
            waits[saga.entity, saga.key] = asked
        for asker, asked_key in AskPlaces(self._reader, self._system, self.skipped.append).askers():
            waits.setdefault(asker, {})[asked_key] = None
        return cycles(waits)

    # --- requests ---------------------------------------------------------------------------------------------

    def cancel(self, entity: str, key: str, reason: str, wait_s: float = 30.0) -> Outcome:
        """Cancel a saga: what it has done is undone, and it answers ``Cancelled`` with the reason."""
        return self._ask(entity, key, CancelSaga(reason=reason), wait_s)

    def retry(self, entity: str, key: str, step: int, wait_s: float = 30.0) -> Outcome:
        """Send the undo of a step again, at which a saga is stuck."""
        return self._ask(entity, key, RetryUndo(step=step), wait_s)

    def skip(self, entity: str, key: str, step: int, reason: str, wait_s: float = 30.0) -> Outcome:
        """Go on without the undo of a step, at which a saga is stuck. The journal keeps the reason."""
        if not reason.strip():
            raise ValueError("an undo is skipped with a reason, which the saga's journal keeps; give one")
        return self._ask(entity, key, SkipUndo(step=step, reason=reason), wait_s)

    def amend(self, entity: str, key: str, step: int, json: str, wait_s: float = 30.0) -> Outcome:
        """Send another message as the undo of a step, to the same receiver: ``json`` has its fields.

        Its ``type`` may be left out if it is that of the recorded message. Raises ValueError for what is not such a
        message, and LookupError where the saga has no such step, or this build does not know its receiver.
        """
        found = self.find(entity, key).progress.step(step)
        if found is None or found.undo is None:
            what = "has no undo" if found is not None else "is no step of it"
            raise LookupError(f"step {step} of {entity} {key!r} {what}; `sagas show` lists its steps")
        return self._ask(entity, key, AmendUndo(step=step, message=self._amended(found.undo, json)), wait_s)

    def _amended(self, undo: RecordedCall, json: str) -> bytes:
        types = self._receivable(undo)
        try:
            raw = msgspec.json.decode(json)
        except msgspec.DecodeError as error:
            raise ValueError(f"the message is not JSON: {error}") from error
        if not isinstance(raw, dict):
            raise ValueError('the message is a JSON object with the fields of the undo, such as {"amount": 5}')  # noqa: TRY004
        name = raw.get("type") or _recorded_name(undo, types)
        if not isinstance(name, str) or name not in types:
            raise ValueError(f"{undo.target} takes no {name!r:.100}; it takes {', '.join(sorted(types))}")
        fields = types[name].__struct_encode_fields__
        if unknown := sorted(raw.keys() - {"type", *fields}):  # A misspelt one would be left to its default.
            raise ValueError(f"{name} has no field {unknown[0]!r:.100}; it has {', '.join(fields) or 'none'}")
        try:
            return encode(msgspec.json.decode(msgspec.json.encode({**raw, "type": name}), type=types[name]))
        except msgspec.ValidationError as error:
            raise ValueError(f"the message is no {name}: {error}") from error

    def _receivable(self, undo: RecordedCall) -> Mapping[str, type[Message]]:
        """Return the messages that the receiver of an undo takes, by wire name."""
        if undo.is_effect:
            if (effect := registered(undo.target)) is None:
                raise LookupError(f"this build has no effect {undo.target!r}")
            return {wire_name(effect.signature.request): effect.signature.request}
        behaviour = self._system.behaviour(undo.target)
        return {wire_name(each): each for each in behaviour.handlers if issubclass(each, Command)}

    def _ask(self, entity: str, key: str, request: Command, wait_s: float) -> Outcome:
        """Append a request and return its answer. LookupError if it became a dead letter."""
        hosted = self._hosted(entity)
        name, raw = hosted.behaviour.name, checked_key(key).encode()
        partition, deadline_s = partition_of(raw, hosted.partitions), time.monotonic() + wait_s
        answers = Answers(self._reader, self._system.name)
        topic = topics.commands_topic(self._system.name, name)
        (offset,) = self._appender.append([Output(topic, partition, raw, encode(request), answers.headers)])
        for answer in answers.follow(deadline_s):
            if isinstance(answer, Done | TooLate | NotStuck | NoSuchSaga):
                return answer
        return Unanswered(self._pivots(hosted, key) or why_it_waits(
            self._reader, self._system, self._backend, Retried(name, partition, key, offset, offset)
        ))  # fmt: skip

    def _pivots(self, hosted: EntityDefinition, key: str) -> str:
        """Return what a saga that is cancelled waits for before it can roll back, "" if that is nothing."""
        with contextlib.suppress(LookupError):
            progress = saga_of(self._reader, self._system, hosted, key).progress
            if progress.phase is SagaPhase.RUNNING and progress.is_cancelling:
                pivots = [each for each in progress.unsettled() if each.is_pivot]
                steps = ", ".join(f"step {each.n} ({receiver(each)} {each.key!r})" for each in pivots)
                return f"the answer to {steps} decides: if that is applied, it cannot be undone, and the saga goes on"
        return ""

    def _hosted(self, entity: str) -> EntityDefinition:
        behaviour = self._system.behaviour(entity)
        if not isinstance(behaviour, SagaBehaviour):
            sagas = [
                each.behaviour.name
                for each in self._system.hosted.values()
                if isinstance(each.behaviour, SagaBehaviour)
            ]
            names = ", ".join(sagas) or "none"
            raise LookupError(f"{behaviour.name} is no saga; {self._system.name} has {names}")  # noqa: TRY004
        return self._system.hosted[behaviour.entity]

    def close(self) -> None:
        """Release what it holds."""
        self._appender.close()
        self._reader.close()


def _recorded_name(undo: RecordedCall, types: Mapping[str, type[Message]]) -> str:
    """Return the wire name, in this build, of the message that was recorded."""
    try:
        return wire_name(type(MessageDecoder(types.values()).decode(undo.message)))
    except DecodeError as error:
        raise ValueError(
            f'this build cannot read the recorded undo ({error}); name the message: {{"type": …}}'
        ) from error
