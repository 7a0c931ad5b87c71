"""``ControlRunner``: carries out the requests to a shard itself, of operators and of clients, and answers them.

They change the stash, timers, effects and what is remembered of asks, never an entity. None is stashed, and each can be
carried out twice: one that was is found done. So a crash before the commit repeats it without harm.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from repertory.actors.control import (
    CANCELLED,
    OF_ASKS,
    CancelTimer,
    DropEffect,
    DropParked,
    FetchAnswer,
    NotAsked,
    RetryEffect,
    RetryParked,
    Revoke,
    RevokeAsk,
    Revoked,
    StillOpen,
    by_cancel,
)
from repertory.actors.entity import Behaviour
from repertory.actors.message import Done, Envelope, RetryRequest, TooOld, Undelivered
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.changelog import AnswerRecord, StashedRecord, effect_key
from repertory.actors.shard.effect_settler import EffectSettler
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.stash import Stash, Stashed
from repertory.actors.shard.turn import Turn, parked_by
from repertory.actors.shard.turn_result import Replied
from repertory.actors.wire import encode

#: The error of the dead letter of an ask that was revoked, and its reason.
_REVOKED, _WHY = "Revoked", "by request, before it was applied"
#: The answer to such an ask.
_REVOKED_ANSWER = encode(Undelivered(reason=f"{_REVOKED}: {_WHY}"))
_DONE = encode(Done())


class ControlRunner:
    """Mutable; owned by its shard, with which it shares what it changes."""

    __slots__ = ("_asks", "_budget", "_effects", "_obeyed", "_owed", "_starts", "_stash", "_urgent")

    def __init__(
        self,
        stash: Stash,
        budget: RestartBudget,
        asks: AnswerTable,
        effects: EffectSettler,
        behaviour: Behaviour,
    ) -> None:
        self._stash, self._budget, self._asks, self._effects = stash, budget, asks, effects
        #: What an operator cannot drop; and what is no request to the shard: an entity handles it.
        self._owed, self._urgent, self._starts = behaviour.owed, behaviour.urgent, behaviour.starts
        #: Offsets of the operators' requests in the mailbox that were carried out before they were reached.
        self._obeyed: set[int] = set()

    def take(self, control: Envelope, turn: Turn) -> None:
        """Carry out a request that is reached, unless that was done before, and answer it."""
        if control.offset not in self._obeyed:
            self._carry_out(control, turn)
        self._obeyed.discard(control.offset)
        if isinstance(control.message, OF_ASKS):
            self._tell(control, control.message, turn)
        elif control.sender is not None and not isinstance(control.message, RevokeAsk):
            turn.answer(Replied(control.sender, _DONE, control.offset, 0))

    def obey(self, deliveries: Iterable[Delivery], turn: Turn, anchor: int) -> None:
        """Carry out at once the requests behind commands without room, since they may make room.

        The order is kept: such a request is consumed and answered when it is reached. An operator's is not carried out
        again then; otherwise a command that fails again would be retried for ever. A client's is: the ask that it
        revokes may be behind those commands too, and revoking twice is harmless.
        """
        for delivery in deliveries:
            if not isinstance(delivery, Envelope) or type(delivery.message) in self._urgent:
                continue
            if _may_make_room(delivery) and delivery.offset not in self._obeyed:
                if not isinstance(delivery.message, OF_ASKS):
                    self._obeyed.add(delivery.offset)
                written = len(turn.changelog)
                self._carry_out(delivery, turn)
                if len(turn.changelog) > written:
                    turn.anchor = max(turn.anchor, anchor)
                    turn.handled += 1

    def _carry_out(self, control: Envelope, turn: Turn) -> None:
        match control.message:
            case Revoke() as revoke:
                self._revoke(control.key, revoke, turn)
            case RetryParked() | DropParked() as request:
                self._operate(control, request, turn)
            case CancelTimer(timer=timer):
                turn.cancel(control.key, timer)
            case RetryEffect(offset=offset, index=index):
                self._effects.retry(effect_key(offset, index), control.key, turn)
            case RevokeAsk():
                self.revoke_ask(control, turn)
            case DropEffect(offset=offset, index=index, reason=reason):
                self._effects.drop(effect_key(offset, index), control.key, reason, turn)

    # --- operators --------------------------------------------------------------------------------------------

    def _operate(self, control: Envelope, request: RetryParked | DropParked, turn: Turn) -> None:
        """Carry out an operator's request for a parked command; ignore it if the command is not parked (any more).

        The restart budget of the key is reset: the operator is assumed to have fixed the cause.
        """
        first = next(iter(self._stash.queue(control.key)), None)
        if first is None or not first.record.parked or first.envelope.offset != request.offset:
            return
        if first.record.retry is not None and control.offset <= first.record.retry.offset:
            return  # It was executed before its turn (`obey`), and is read again after a crash.
        if isinstance(request, DropParked) and type(first.envelope.message) in self._owed:
            return  # Its saga would wait for ever.
        self._budget.renew(control.key)
        match request:
            case RetryParked():
                retried = msgspec.structs.replace(first.envelope, retry=_request(control))
                record = StashedRecord(
                    key=control.key, value=retried.value, headers=retried.headers, timestamp_ms=retried.timestamp_ms,
                    retry=retried.retry,
                )  # fmt: skip
                self._stash.replace_first(Stashed(retried, record))
                turn.wrote(retried, record)
            case DropParked(reason=reason):
                turn.leave(first.envelope)
                failed = first.record
                why = f"{reason} ({parked_by(first)})"
                turn.dead_letter(first.envelope, "Dropped", why, failed.attempt, failed.traceback)

    # --- clients ----------------------------------------------------------------------------------------------

    def _revoke(self, key: str, revoke: Revoke, turn: Turn) -> None:
        """Dead-letter an ask that is stashed, and answer all who wait for it. Ignore any other.

        If it had parked its key, the commands behind it run with a new restart budget, as after an operator's drop.
        """
        known = self._asks.find(key, revoke.id, revoke.made_at_ms)
        if isinstance(known, AnswerRecord) and (stashed := self._stashed(key, known)) is not None:
            self._drop(key, stashed, turn)

    def revoke_ask(self, revoke: Envelope, turn: Turn) -> bool:
        """Dead-letter the ask of an entity that is stashed, and answer it; return whether there was one."""
        asker, message = revoke.sender, revoke.message
        if asker is None or not isinstance(message, RevokeAsk):
            return False
        address = asker.topic, asker.key, message.about
        for stashed in self._stash.queue(revoke.key):
            sender = stashed.envelope.sender
            if sender is not None and (sender.topic, sender.key, sender.about) == address:
                self._drop(revoke.key, stashed, turn)
                return True
        return False

    def has_start(self, key: str) -> bool:
        """Return whether a start of a saga is stashed."""
        return any(type(each.envelope.message) in self._starts for each in self._stash.queue(key))

    def drop_starts(self, cancel: Envelope, turn: Turn) -> None:
        """Dead-letter the starts of a saga that are stashed, and answer who has asked for it; it has not begun."""
        reason = getattr(cancel.message, "reason", "")
        for stashed in [*self._stash.queue(cancel.key)]:
            if type(stashed.envelope.message) in self._starts:
                self._drop(cancel.key, stashed, turn, (CANCELLED, by_cancel(cancel.offset, reason)))

    def unpark(self, key: str, turn: Turn) -> None:
        """Have the parked command of a key tried again: what made it fail does not run any more."""
        first = next(iter(self._stash.queue(key)), None)
        if first is None or not first.record.parked:
            return
        self._budget.renew(key)
        envelope = first.envelope
        record = StashedRecord(
            key=key, value=envelope.value, headers=envelope.headers, timestamp_ms=envelope.timestamp_ms,
            retry=envelope.retry,
        )  # fmt: skip
        self._stash.replace_first(Stashed(envelope, record))
        turn.wrote(envelope, record)

    def _drop(self, key: str, stashed: Stashed, turn: Turn, why: tuple[str, str] = (_REVOKED, _WHY)) -> None:
        failed = stashed.record
        if failed.parked:
            self._budget.renew(key)
        self._stash.remove(stashed)
        turn.wrote(stashed.envelope, None)
        turn.dead_letter(stashed.envelope, *why, failed.attempt, failed.traceback)

    def _stashed(self, key: str, known: AnswerRecord) -> Stashed | None:
        """Return the stashed command of an ask; None if it is answered, or owed by a sender that was kept."""
        if known.answer is not None:
            return None
        return next((each for each in self._stash.queue(key) if each.envelope.sender == known.sender), None)

    def _tell(self, control: Envelope, message: FetchAnswer | Revoke, turn: Turn) -> None:
        """Tell a client what is known of its ask, as it is now."""
        turn.has_late_answer = True
        if control.sender is None:
            return
        found = self._asks.find(control.key, message.id, message.made_at_ms)
        seq, is_answered = -1, False
        match found:
            case AnswerRecord(answer=bytes(data), seq=seq):
                is_answered = not (isinstance(message, Revoke) and data == _REVOKED_ANSWER)
                data = data if is_answered else encode(Revoked())
            case AnswerRecord():
                data = encode(self._open(control.key, found))
            case TooOld():
                data = encode(found)
            case None:
                data = encode(NotAsked())
        turn.bytes += len(data)
        turn.answer(Replied(control.sender, data, control.offset, 0, seq, again=is_answered))

    def _open(self, key: str, known: AnswerRecord) -> StillOpen:
        if self._stashed(key, known) is None:
            return StillOpen(state="kept")
        return StillOpen(state="parked" if self._stash.queue(key)[0].record.parked else "waiting")


def _may_make_room(delivery: Envelope) -> bool:
    return isinstance(delivery.message, RetryParked | DropParked | Revoke | RevokeAsk)


def _request(control: Envelope) -> RetryRequest:
    """Return the request of a control command. It is open if its sender can be answered, which an entity cannot."""
    sender = control.sender
    if sender is None or sender.partition is None:
        return RetryRequest(control.offset, "", 0, "", open=False)
    return RetryRequest(control.offset, sender.topic, sender.partition, sender.correlation_id)
