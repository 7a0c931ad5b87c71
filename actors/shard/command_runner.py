"""``CommandRunner``: runs one command of a shard, and handles the failure of its handler."""

from __future__ import annotations

import msgspec

from repertory.actors.context import OutputRefused
from repertory.actors.message import Envelope
from repertory.actors.shard.cells import Cell
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.crash_guard import CrashGuard
from repertory.actors.shard.decision import Decision, decide
from repertory.actors.shard.effects import Effects
from repertory.actors.shard.entities import Entities
from repertory.actors.shard.failure import Fate, Quarantined, judged
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.outputs import outputs_of
from repertory.actors.shard.placed import is_misplaced
from repertory.actors.shard.stash import Stash, Stashed
from repertory.actors.shard.timers import Timers
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Incident
from repertory.actors.wire import encode
from repertory.supervision.directive import Failure


class CommandRunner:
    """Mutable; owned by its shard, with which it shares the entities, the stash and the crash guard."""

    __slots__ = (
        "_cause_prefix", "_cell", "_config", "_effects", "_entities", "_guard", "_handlers", "_refused", "_stash",
        "_timers", "envelope", "failure", "is_ahead", "stalled",
    )  # fmt: skip

    def __init__(
        self,
        config: ShardConfig,
        entities: Entities,
        guard: CrashGuard,
        stash: Stash,
        timers: Timers,
        effects: Effects,
        refused: dict[int | str, str],
    ) -> None:
        """``refused``: commands whose outputs the log refuses for good, by offset, and why; taken out when judged."""
        self._refused, self._effects = refused, effects
        self._config, self._entities, self._guard, self._stash, self._timers = config, entities, guard, stash, timers
        self._cell = entities.cells.get
        self._handlers = config.behaviour.handlers
        self._cause_prefix = f"{config.topic}/{config.id.partition}/"
        #: The command that is being handled, or was handled last.
        self.envelope: Envelope | None = None
        #: The failure that escalates: its command was not handled, and no further command is.
        self.failure: Failure | None = None
        #: Why the stash had no room for the command that was checked last; None if it had.
        self.stalled: str | None = None
        #: Whether the command is handled before its turn: it would be stashed before others of its key.
        self.is_ahead = False

    def run(self, envelope: Envelope, stashed: StashedRecord | None, now_ms: int, turn: Turn) -> None:
        """Run one command; ``stashed`` is its record if it comes from the stash."""
        config, behaviour = self._config, self._config.behaviour
        cell = self._cell(envelope.key)
        if cell is None:
            if is_misplaced(config, envelope, turn):
                return
            cell = Cell(behaviour.initial(), behaviour.initial_data)
        is_admitted = self._guard.admits(envelope.offset)
        if not is_admitted or envelope.offset in self._refused:
            self._give_up(envelope, stashed, now_ms, turn, is_quarantined=not is_admitted)
            return
        takes_context = self._handlers[type(envelope.message)].takes_context
        self.envelope = envelope
        try:
            decision = decide(
                behaviour, cell.state, cell.data, envelope, config.directory,
                cause=f"{self._cause_prefix}{envelope.offset}" if takes_context else "",
                attempt=1 if stashed is None else stashed.attempt,
                bytes_max=config.limits.output_bytes_max,
            )  # fmt: skip
            if decision.later:
                self._timers.check(envelope.key, decision.later)
                self._effects.check(decision.later)
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001  the supervisor judges every exception of user code
            if behaviour.has_mutable_fields:
                cell.state = behaviour.state_decode(cell.data)
            self._failed(envelope, stashed, error, now_ms, turn)
            return
        self._entities.apply(cell, envelope, decision, turn)
        if decision.outputs or decision.reply is not None:
            seq = self._entities.seq if behaviour.journaled else -1
            turn.outputs.extend(outputs_of(envelope, decision, seq))
            turn.bytes += sum(map(len, decision.sent), len(decision.reply_data))
            turn.asked.remember(envelope, decision, seq)
        elif envelope.sender is not None:
            turn.asked.remember(envelope, decision, -1)
        if envelope.retry is not None:
            turn.end_retry(envelope.retry, "rejected" if decision.rejected else "applied", reply=_answer(decision))
        if stashed is not None:
            turn.leave(envelope)
        if decision.later or decision.stopped or envelope.timer is not None or decision.alerts:
            self._follow_up(envelope, decision, turn)

    def _follow_up(self, envelope: Envelope, decision: Decision, turn: Turn) -> None:
        """Settle the timer that sent a command, add what is for later, and report what operators must know."""
        for alert in decision.alerts:
            turn.incidents.append(Incident(self._where(envelope), alert.error, alert.reason, alert.next, "stuck"))
        turn.schedule(envelope, decision)
        if decision.later:
            turn.changelog += self._effects.apply(envelope.key, envelope.offset, decision.later, decision.later_data)

    def _give_up(
        self, envelope: Envelope, stashed: StashedRecord | None, now_ms: int, turn: Turn, *, is_quarantined: bool
    ) -> None:
        """Judge a command that is not handled: it is quarantined, or its outputs are refused."""
        if is_quarantined and type(envelope.message) in self._config.behaviour.owed:
            deaths = f"{self._guard.deaths} processes in a row died while they handled it"
            self._failed(envelope, stashed, Quarantined(deaths), now_ms, turn)
        elif is_quarantined:
            turn.quarantine(envelope, self._where(envelope), self._guard.deaths, is_stashed=stashed is not None)
        else:
            turn.refused.append(envelope.offset)
            self._failed(envelope, stashed, OutputRefused(self._refused.pop(envelope.offset)), now_ms, turn)

    def has_begun(self, key: str) -> bool:
        """Return whether an entity is more than its key; see `Behaviour`."""
        cell = self._cell(key)
        return cell is not None and self._config.behaviour.has_begun(cell.state)

    def has_room(self, delivery: Delivery) -> bool:
        """Return whether the stash has room for a command; if not, ``stalled`` says why. A query needs none."""
        if isinstance(delivery, Envelope) and type(delivery.message) in self._config.behaviour.queries:
            return True
        key = delivery.key if isinstance(delivery, Envelope) else None
        room = self._stash.no_room(key, self._config.limits)
        self.stalled = "a command before it has no room" if self.is_ahead else room
        return self.stalled is None

    def overflow(self, envelope: Envelope, attempt: int, turn: Turn, traceback: str = "") -> None:
        """Dead-letter a command for which the stash has no room."""
        assert self.stalled is not None
        turn.dead_letter(envelope, "NoRoom", self.stalled, attempt, traceback)
        self.stalled = None

    def _failed(
        self, envelope: Envelope, stashed: StashedRecord | None, error: Exception, now_ms: int, turn: Turn
    ) -> None:
        attempt, budget = 1 if stashed is None else stashed.attempt, self._entities.budget
        failed = judged(self._config, budget, envelope, attempt, error, now_ms, self._where(envelope))
        failure, fate = failed.failure, failed.fate
        if fate in (Fate.PARKED, Fate.RESTARTED) and stashed is None and not self.has_room(envelope):
            fate = Fate.NO_ROOM
        match fate:
            case Fate.ESCALATED:
                self.failure = failure
            case Fate.DEAD_LETTERED:
                turn.dead_letter(envelope, failure.error_type, failure.message, attempt, failure.traceback)
                if stashed is not None:
                    turn.leave(envelope)
            case Fate.NO_ROOM:
                self.overflow(envelope, attempt, turn, failure.traceback)
            case Fate.PARKED | Fate.RESTARTED:
                if fate is Fate.RESTARTED and failed.is_in_build:
                    budget.restarted(envelope.key, failed.restarts_ms)
                # Decoded again: the next attempt must not see changes that the handler made to the command's lists.
                behaviour, again = self._config.behaviour, envelope
                if type(envelope.message) in behaviour.wire_types:
                    again = msgspec.structs.replace(envelope, message=behaviour.decoder.decode(envelope.value))
                turn.keep(Stashed(again, failed.stashed(envelope, now_ms)), known=stashed is not None)
        turn.incidents += failed.incidents(fate, stashed)

    def _where(self, envelope: Envelope) -> str:
        return f"{self._config.id}@{envelope.offset} key {envelope.key!r}"


def _answer(decision: Decision) -> bytes:
    """Return what a handler answered, for an operator, also if nobody asked: its rejection, its last event, or b""."""
    if decision.reply_data or decision.rejection is None:
        return decision.reply_data or (decision.events[len(decision.messages) - 1] if decision.messages else b"")
    try:
        return encode(decision.rejection)
    except (TypeError, ValueError, OverflowError, RecursionError):  # Nobody would have got it.
        return b""
