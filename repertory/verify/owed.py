"""What a shard must send later, as it follows from the commands: open timers, delayed messages, results of effects.

It knows nothing of due times that pass: a timer is open until its command has a fate. Which of the open ones have fired
is in the log, and whether they had to, a log does not say.
"""

from __future__ import annotations

from collections.abc import Container

import msgspec

from repertory.actors.collected import Cancel, Perform, Schedule, Tell
from repertory.actors.control import CancelTimer
from repertory.actors.entity import resolved
from repertory.actors.headers import BECAUSE, value
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.shard.changelog import (
    EffectRecord,
    TellRecord,
    TimerRecord,
    effect_key,
    tell_key,
    timer_key,
    timer_of,
)
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.identity import key_in
from repertory.actors.timer import FiredTimer


class Owed:
    """One shard between two commands. Timers are kept as not fired, by their keys in the changelog."""

    def __init__(self) -> None:
        self.timers: dict[str, TimerRecord] = {}
        self.tells: dict[str, TellRecord] = {}
        #: Every effect that was performed, as it was then, by its key in the changelog.
        self.effects: dict[str, EffectRecord] = {}
        #: The key of the entity that told each delayed message.
        self.teller: dict[str, str] = {}
        #: Every time at which a timer was to fire, by the key of its entity; and the timer then.
        self.meant: dict[tuple[str, FiredTimer], TimerRecord] = {}

    def is_stale(self, delivery: Envelope | Undecodable) -> bool:
        """Return whether a command was sent by a timer that was cancelled or replaced, or that there never was."""
        timer = delivery.timer
        if timer is None or timer.retried:
            return False
        return self._of(delivery, timer) is None or value(delivery.headers, BECAUSE) is None

    def ended(self, delivery: Envelope | Undecodable) -> None:
        """Note that a command has its fate.

        A dead letter may have had it before the commands in front of it, which were stashed and then took its timer
        back. In between, a recurring timer may have fired again.
        """
        key, timer = key_in(delivery) or "", delivery.timer
        if timer is None or value(delivery.headers, BECAUSE) is None or (found := self.meant.get((key, timer))) is None:
            return
        place = timer_key(key, timer.name)
        again = msgspec.structs.replace(found, due_ms=delivery.timestamp_ms + found.every_ms)
        if self._of(delivery, timer) is None:
            if found.every_ms:
                self._mean(place, again)
        elif found.every_ms:
            self._put(place, again)
        else:
            del self.timers[place]

    def decided(self, delivery: Envelope, decision: Decision) -> None:
        """Note what a decision has scheduled, cancelled and performed."""
        key, offset = delivery.key, delivery.offset
        for index, (each, data) in enumerate(zip(decision.later, decision.later_data, strict=True)):
            match each:
                case Schedule(name, _, _, due_ms, every_ms):
                    self._put(timer_key(key, name), TimerRecord(data, due_ms, offset, index, every_ms))
                case Cancel(name):
                    self.timers.pop(timer_key(key, name), None)
                case Perform(effect, _, about):
                    performed = EffectRecord(effect.name, key, data, offset, index, about)
                    self.effects[effect_key(offset, index)] = performed
                case Tell(handler, to, due_ms=int(due_ms)):
                    name = resolved(handler.owner).name
                    self.tells[place := tell_key(offset, index)] = TellRecord(name, to, data, due_ms, offset, index)
                    self.teller[place] = key
        if decision.stopped:
            for place in [place for place in self.timers if timer_of(place)[0] == key]:
                del self.timers[place]

    def given_up(self, key: str, timer: FiredTimer) -> None:
        """Note that the log has refused the command of a timer, which ends it."""
        place = timer_key(key, timer.name)
        found = self.timers.get(place)
        if found is not None and fired(place, found) == timer:
            del self.timers[place]

    def controlled(self, delivery: Envelope) -> None:
        """Note what a request to the shard has cancelled."""
        if isinstance(delivery.message, CancelTimer):
            self.timers.pop(timer_key(delivery.key, delivery.message.timer), None)

    def left(
        self, has_fired: Container[tuple[str, FiredTimer]], told: Container[str]
    ) -> dict[str, TimerRecord | TellRecord]:
        """Return what must be in the changelog, by its keys, if these timers have fired and these messages are sent."""
        timers: dict[str, TimerRecord | TellRecord] = {
            place: msgspec.structs.replace(timer, fired=(timer_of(place)[0], fired(place, timer)) in has_fired)
            for place, timer in self.timers.items()
        }
        return timers | {place: record for place, record in self.tells.items() if place not in told}

    def _put(self, place: str, record: TimerRecord) -> None:
        self.timers[place] = record
        self._mean(place, record)

    def _mean(self, place: str, record: TimerRecord) -> None:
        self.meant[timer_of(place)[0], fired(place, record)] = record

    def _of(self, delivery: Envelope | Undecodable, timer: FiredTimer) -> TimerRecord | None:
        place = timer_key(key_in(delivery) or "", timer.name)
        found = self.timers.get(place)
        return found if found is not None and fired(place, found) == timer else None


def fired(place: str, record: TimerRecord) -> FiredTimer:
    """Return what a command of a timer says about it; ``place`` is its key in the changelog."""
    return FiredTimer(timer_of(place)[1], record.offset, record.index, record.due_ms)


def without_last(record: TimerRecord | TellRecord, value: bytes) -> TimerRecord | TellRecord:
    """Return a record with a value, and without the time at which it fired last, of which only its owner knows."""
    if isinstance(record, TellRecord):
        return msgspec.structs.replace(record, value=value)
    return msgspec.structs.replace(record, value=value, last_ms=0)
