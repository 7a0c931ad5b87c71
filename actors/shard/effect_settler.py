"""``EffectSettler``: writes what has become of effects: their results, failed attempts, and what operators want.

A result is appended to the shard's own partition as a command to the entity that asked, and its record is removed, in
one transaction. From there it is a command like any other. A failed attempt writes when the next one is due, or parks
the effect; the entity is not told before an operator drops it. What this build cannot run waits for an owner whose
build can, and its record says why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from repertory.actors.context import ContractViolation
from repertory.actors.effect import Effect, registered
from repertory.actors.message import Done, Message, Rejection, Undelivered
from repertory.actors.outgoing import sendable
from repertory.actors.shard.changelog import NOT_IN_BUILD, ChangelogEntry, EffectRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.effect_builds import lacking
from repertory.actors.shard.effects import EffectOutcome, Effects
from repertory.actors.shard.turn import REASON_CHARS_MAX, Turn
from repertory.actors.shard.turn_result import Fired, Incident
from repertory.actors.wire import encode
from repertory.supervision.directive import Failure


class EffectDeath(NamedTuple):
    """An effect that ran in a process which died; ``is_sole``: no other effect ran there."""

    place: str
    is_sole: bool


class EffectSettler:
    """Owned by its shard, with which it shares the effects."""

    __slots__ = ("_config", "_effects", "_unsaid")

    def __init__(self, config: ShardConfig, effects: Effects) -> None:
        self._config, self._effects = config, effects
        #: The restored ones whose records do not say what this build lacks, or say it and it does not.
        self._unsaid: list[str] = []
        for place, record in effects.records.items():
            lacks = "" if record.parked else lacking(record, config.behaviour) or ""
            if lacks or record.not_in_build:
                effects.held[place] = lacks
                if lacks != (record.reason if record.not_in_build else ""):
                    self._unsaid.append(place)

    def has_work(self) -> bool:
        """Return whether something can be settled."""
        return bool(self._unsaid) or self._effects.has_finished()

    def settle(self, now_ms: int, turn: Turn, count_max: int) -> None:
        """Settle up to so many effects that have ended, as far as the turn has room."""
        bytes_max, settled = self._config.limits.turn_bytes_max, 0
        while settled < count_max and (not settled or turn.bytes < bytes_max):
            if self._unsaid:
                self._say(self._unsaid.pop(), turn)
            elif (outcome := self._effects.take_finished()) is not None:
                self._settle(outcome, now_ms, turn)
            else:
                break
            settled += 1

    def retry(self, place: str, key: str, turn: Turn) -> None:
        """Have a parked effect of a key tried again at once, as attempt 1; ignore any other."""
        record = self._effects.records.get(place)
        if record is None or record.key != key or not record.parked:
            return
        again = EffectRecord(record.effect, key, record.request, record.offset, record.index, record.about)
        if lacks := lacking(again, self._config.behaviour):
            self._effects.held[place] = lacks
            self._unsaid.append(place)
        turn.changelog.append(self._effects.put(place, again))

    def drop(self, place: str, key: str, reason: str, turn: Turn) -> None:
        """Give up an effect of a key, also one that runs, and tell its entity; ignore any other."""
        record = self._effects.records.get(place)
        if record is None or record.key != key:
            return
        failed = f" (it failed: {record.error}: {record.reason})" if record.error else ""
        answer = Undelivered(reason=f"Dropped: {reason}{failed}"[:REASON_CHARS_MAX])
        self._answer(place, record, encode(answer), turn, rejected=True)

    def died(self, deaths: Iterable[EffectDeath]) -> tuple[list[ChangelogEntry], list[Incident]]:
        """Count the deaths of processes in which effects ran; return the changes, and incidents for the operator.

        One that ran with others may be innocent: it is tried again with no other. One that was the only one, and has
        been so at as many deaths in a row as make a quarantine, is parked.
        """
        entries, incidents, deaths_max = list[ChangelogEntry](), list[Incident](), self._config.limits.deaths_max
        for place, is_sole in deaths:
            record = self._effects.records.get(place)
            if record is None or record.parked:
                continue
            again = msgspec.structs.replace(record, alone=True, deaths=record.deaths + is_sole)
            then = "it is tried again, with no other"
            if again.deaths >= deaths_max:
                reason = f"{again.deaths} processes in a row died while it ran alone"
                again = msgspec.structs.replace(again, parked=True, error="Quarantined", reason=reason, traceback="")
                then = "it is parked"
            entries.append(self._effects.put(place, again))
            outcome, reason = ("parked" if again.parked else "died"), again.reason if again.parked else "it ran there"
            incidents.append(Incident(self._where(record), "ProcessDied", reason, then, outcome))
        return entries, incidents

    # --- one outcome ------------------------------------------------------------------------------------------

    def _settle(self, outcome: EffectOutcome, now_ms: int, turn: Turn) -> None:
        record = self._effects.records[outcome.place]
        effect = registered(record.effect)
        assert effect is not None, record.effect  # It was started in this process.
        if outcome.error:
            failure = outcome.error, outcome.reason, outcome.traceback
            self._failed(effect, outcome.place, record, failure, now_ms, turn)
        elif outcome.result is None and type(None) in effect.signature.results:
            if self._config.behaviour.owed:  # A saga, which waits for it.
                self._answer(outcome.place, record, encode(Done()), turn)
            else:
                turn.changelog.append(self._effects.forget(outcome.place))
        else:
            try:
                data = self._encoded(effect, outcome.result)
            except MemoryError:
                raise
            except Exception as error:  # noqa: BLE001  encoding a value of user code may raise anything
                found = Failure.of(error, self._where(record))
                failure = found.error_type, found.message, found.traceback
                self._failed(effect, outcome.place, record, failure, now_ms, turn)
            else:
                self._answer(outcome.place, record, data, turn, rejected=isinstance(outcome.result, Rejection))

    def _encoded(self, effect: Effect[Any, Any], result: object) -> bytes:
        if (flaw := effect.flaw_of_result(result)) is not None:
            raise ContractViolation(flaw)
        assert isinstance(result, Message)
        return sendable(result, self._config.limits.output_bytes_max)

    def _answer(self, place: str, record: EffectRecord, data: bytes, turn: Turn, *, rejected: bool = False) -> None:
        result = Fired(
            None, record.key, data, record.offset, record.index, place, effect=record.effect, about=record.about,
            rejected=rejected,
        )  # fmt: skip
        turn.bring(result, self._effects.forget(place), str(self._config.id))

    def _failed(
        self,
        effect: Effect[Any, Any],
        place: str,
        record: EffectRecord,
        failure: tuple[str, str, str],
        now_ms: int,
        turn: Turn,
    ) -> None:
        error, reason, traceback = failure[0], failure[1][:REASON_CHARS_MAX], failure[2]
        is_parked = record.attempt >= effect.attempts
        delay_s = effect.delay_s(record.attempt, record.offset, record.index)
        if is_parked:
            then, outcome = f"it is parked after attempt {record.attempt}", "parked"
        else:
            then, outcome = f"attempt {record.attempt + 1} follows in {delay_s:.2f} s", "retried"
        again = msgspec.structs.replace(
            record, attempt=record.attempt + (not is_parked), due_ms=0 if is_parked else now_ms + int(delay_s * 1_000),
            parked=is_parked, error=error, reason=reason, traceback=traceback, deaths=0, alone=False,
        )  # fmt: skip
        incident = Incident(
            self._where(record), error, reason, then, outcome, traceback, record.traceback == traceback != ""
        )
        self._keep(place, again, incident, turn)

    def _say(self, place: str, turn: Turn) -> None:
        """Write what this build lacks for an effect, or that it lacks nothing any more: then it can be started."""
        record = self._effects.records.get(place)
        if record is None or record.parked:
            return
        if lacks := self._effects.held[place][:REASON_CHARS_MAX]:
            again = msgspec.structs.replace(record, error=NOT_IN_BUILD, reason=lacks, traceback="")
            incident = Incident(
                self._where(record), NOT_IN_BUILD, lacks, "it waits for a build that can run it", "waits"
            )
            self._keep(place, again, incident, turn)
        else:
            del self._effects.held[place]
            self._keep(place, msgspec.structs.replace(record, error="", reason="", traceback=""), None, turn)

    def _keep(self, place: str, record: EffectRecord, incident: Incident | None, turn: Turn) -> None:
        turn.changelog.append(self._effects.put(place, record))
        turn.bytes += len(record.request) + len(record.traceback)
        if incident is not None:
            turn.incidents.append(incident)

    def _where(self, record: EffectRecord) -> str:
        return f"{self._config.id}@{record.offset} effect {record.effect!r} of key {record.key!r}"
