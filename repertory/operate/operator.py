"""Operator actions on parked keys, dead letters, timers and effects: through the log alone, from any machine."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from repertory.actors.control import CancelTimer, DropEffect, DropParked, RetryEffect, RetryEnded, RetryParked
from repertory.actors.headers import ASK_ID, ASKED, RETRY_OF, RETRY_TO
from repertory.actors.message import Message
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.committed import stashed_commands
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.failed import DeadLetter, Parked, dead_letters, parked_keys, parked_on
from repertory.bridge.system.open_effects import OpenEffect, open_effects
from repertory.bridge.system.open_timers import OpenTimer, open_timers, timers_on
from repertory.operate.marks import MarkedDeadLetter, marked
from repertory.operate.outcome import IGNORED, WAITING, Answers, RetryOutcome, outcome_of
from repertory.operate.sources import decoded_again, is_of_a_source
from repertory.operate.waiting import Retried, why_it_waits


class Operator:
    """For use by one thread. Appends control commands to a shard's commands topic; the shard's owner executes them.

    ``skipped`` names the records that a listing could not read: anybody may write to a topic.
    """

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system, self._backend = system, backend
        self._reader: Reader = backend.reader()
        self._appender = backend.appender()
        self.skipped: list[str] = []

    # --- parked keys ------------------------------------------------------------------------------------------

    def parked(self) -> Iterator[Parked]:
        """Return all parked keys of the system."""
        return parked_keys(self._reader, self._system, skip=self.skipped.append)

    def find_parked(self, entity: str, key: str) -> Parked:
        """Return a parked key. Raises LookupError if the key is not parked or the system hosts no such entity."""
        hosted = self._system.hosted[self._system.behaviour(entity).entity]
        partition = partition_of(checked_key(key).encode(), hosted.partitions)
        for parked in parked_on(self._reader, self._system, hosted, partition, skip=self.skipped.append):
            if parked.key == key:
                return parked
        raise LookupError(f"the key {key!r} of {hosted.behaviour.name} is not parked")

    def retry(self, parked: Parked, wait_s: float = 30.0) -> RetryOutcome:
        """Run a parked key's commands again, in order, and return how the first of them ended.

        If that takes longer than ``wait_s``, the outcome says what it waits for; the request stays in the log.
        """
        deadline_s = time.monotonic() + wait_s
        answers = Answers(self._reader, self._system.name)
        request = self._request(parked, RetryParked(offset=parked.offset), answers)
        for answer in answers.follow(deadline_s):
            if isinstance(answer, RetryEnded):
                return outcome_of(answer)
            record = self._stashed_at(parked.entity, parked.partition, parked.offset)
            retry = None if record is None else record.retry
            if retry is None or not retry.open or retry.offset != request:  # It has ended, or is not ours.
                ended = answers.ended()
                return (
                    RetryOutcome(IGNORED, "another request retried or dropped it")
                    if ended is None
                    else outcome_of(ended)
                )
        return self._waits(Retried(parked.entity, parked.partition, parked.key, request, parked.offset))

    def drop(self, parked: Parked, reason: str, wait_s: float = 30.0) -> None:
        """Dead-letter a parked key's first command, with a reason; the commands behind it run.

        Raises LookupError for what a saga waits for, an answer or a timer: without it, it would wait for ever.
        Raises LogUnavailable if no worker answers in time. The request stays in the log and is executed later.
        """
        if not reason.strip():
            raise ValueError("a command is dropped with a reason, which the dead letter records; give one")
        self._have_done(parked, DropParked(offset=parked.offset, reason=reason), wait_s, parked.offset)
        if self._system.behaviour(parked.entity).owed and self._stashed_at(
            parked.entity, parked.partition, parked.offset
        ):
            raise LookupError(
                f"the saga {parked.key!r} waits for what is parked, so it was not dropped; mend its code and retry, or "
                "cancel the saga"
            )

    def _have_done(
        self, what: Parked | OpenTimer | OpenEffect, message: Message, wait_s: float, offset: int | None = None
    ) -> None:
        """Append a control command and wait until the shard has executed it. ``offset``: see `Retried`."""
        deadline_s = time.monotonic() + wait_s
        answers = Answers(self._reader, self._system.name)
        request = self._request(what, message, answers)
        if any(True for _ in answers.follow(deadline_s)):
            return
        waits = self._waits(
            Retried(what.entity, what.partition, what.key, request, request if offset is None else offset)
        )
        raise LogUnavailable(
            f"no worker of {self._system.name} answered within {wait_s:g} s: {waits.why}; the request is in the log "
            "and is executed when a worker reaches it"
        )

    def _request(self, what: Parked | OpenTimer | OpenEffect, message: Message, answers: Answers) -> int:
        """Append a control command and return its offset."""
        topic = topics.commands_topic(self._system.name, what.entity)
        output = Output(topic, what.partition, what.key.encode(), encode(message), answers.headers)
        return self._appender.append([output])[0]

    def _stashed_at(self, entity: str, partition: int, offset: int) -> StashedRecord | None:
        hosted = self._system.hosted[self._system.behaviour(entity).entity]
        found = stashed_commands(self._reader, self._system, hosted.behaviour, partition, skip=self.skipped.append)
        return dict(found).get(offset)

    def _waits(self, retried: Retried) -> RetryOutcome:
        return RetryOutcome(WAITING, why_it_waits(self._reader, self._system, self._backend, retried))

    # --- timers -----------------------------------------------------------------------------------------------

    def timers(self) -> Iterator[OpenTimer]:
        """Return all open timers and delayed messages of the system."""
        return open_timers(self._reader, self._system, skip=self.skipped.append)

    def find_timer(self, entity: str, key: str, name: str) -> OpenTimer:
        """Return an open timer of a key. Raises LookupError if there is none, or the system hosts no such entity."""
        hosted = self._system.hosted[self._system.behaviour(entity).entity]
        partition = partition_of(checked_key(key).encode(), hosted.partitions)
        found = timers_on(self._reader, self._system, hosted, partition, skip=self.skipped.append)
        for timer in found:
            if (timer.key, timer.name) == (key, name):
                return timer
        others = ", ".join(repr(each.name) for each in found if each.key == key)
        raise LookupError(
            f"the key {key!r} of {hosted.behaviour.name} has no timer {name!r}; it has {others or 'none'}"
        )

    def cancel(self, timer: OpenTimer, wait_s: float = 30.0) -> None:
        """Cancel a timer. If it has fired, its command is dropped, unless it is handled before the request.

        Raises LogUnavailable if no worker answers in time. The request stays in the log and is executed later.
        """
        self._have_done(timer, CancelTimer(timer=timer.name), wait_s)

    # --- effects ----------------------------------------------------------------------------------------------

    def effects(self) -> Iterator[OpenEffect]:
        """Return all effects of the system that are not settled."""
        return open_effects(self._reader, self._system, skip=self.skipped.append)

    def find_effect(self, entity: str, address: str) -> OpenEffect:
        """Return the effect at ``partition@offset/index``. Raises LookupError if there is none."""
        name = self._system.behaviour(entity).name
        for found in self.effects():
            if (found.entity, found.address) == (name, address):
                return found
        raise LookupError(f"{name} has no effect {address!r}; `effects list` shows the addresses, such as 0@17/0")

    def retry_effect(self, effect: OpenEffect, wait_s: float = 30.0) -> None:
        """Have a parked effect tried again, as attempt 1. LookupError if it is not; else raises as ``cancel``."""
        if not effect.parked:
            then = f"it waits, since {effect.record.reason}, and starts" if effect.not_in_build else "it is tried again"
            raise LookupError(f"{effect.effect} {effect.address} is not parked: {then} by itself")
        self._have_done(effect, RetryEffect(offset=effect.offset, index=effect.index), wait_s)

    def drop_effect(self, effect: OpenEffect, reason: str, wait_s: float = 30.0) -> None:
        """Give an effect up, and tell its entity ``Undelivered`` with the reason. Raises as ``drop`` does."""
        if not reason.strip():
            raise ValueError("an effect is dropped with a reason, which its entity is told; give one")
        self._have_done(effect, DropEffect(offset=effect.offset, index=effect.index, reason=reason), wait_s)

    # --- dead letters -----------------------------------------------------------------------------------------

    def dead_letters(self) -> Iterator[DeadLetter]:
        """Return all dead letters that the log still holds, oldest first in each partition."""
        return dead_letters(self._reader, self._system)

    def find_dead_letter(self, address: str) -> DeadLetter:
        """Return the dead letter at ``partition@offset``. Raises LookupError if there is none."""
        for letter in self.dead_letters():
            if letter.address == address:
                return letter
        raise LookupError(f"there is no dead letter {address!r}; `dead-letters list` shows the addresses, such as 0@17")

    def marked(self, letters: Sequence[DeadLetter]) -> list[MarkedDeadLetter]:
        """Return what became of dead letters."""
        return marked(self._reader, self._system, letters)

    def retry_dead_letter(self, letter: DeadLetter, *, force: bool = False, wait_s: float = 30.0) -> RetryOutcome:
        """Append the command again, at the end of its topic, and return how it ended. Nobody receives its reply.

        Raises LookupError if its topic is not a commands topic of the system and, unless ``force``, if it was retried
        before, or if its asker was answered with `Undelivered`, which says that the command is never applied.
        """
        place, topic = letter.address, letter.source_topic
        is_foreign = is_of_a_source(self._system, letter)
        if not is_foreign and topic not in self._system.commands_topics():
            raise LookupError(f"{place} came from {topic!r}, which is not a commands topic of {self._system.name}")
        (before,) = [MarkedDeadLetter(letter, (), answered=False)] if force else self.marked([letter])
        if before.answered:
            raise LookupError(f"{place} was an ask and was answered with Undelivered; --force retries it nevertheless")
        if before.retried:
            raise LookupError(f"{place} was retried before ({before.retried[-1]}); --force retries it again")
        if is_foreign:
            return self._relay_again(letter, wait_s)
        key, deadline_s = letter.record.key, time.monotonic() + wait_s
        answers = Answers(self._reader, self._system.name)
        left_out = {*ASKED, ASK_ID, RETRY_OF, RETRY_TO}  # Its id was answered when it became a dead letter.
        headers = (
            *(header for header in letter.headers if header[0] not in left_out),
            (RETRY_OF, letter.retry_of),
            answers.header(RETRY_TO),
        )
        hosted = next(h for h in self._system.hosted.values() if topic.endswith(f".{h.behaviour.name}.commands"))
        partition = letter.source_partition if key is None else partition_of(key, hosted.partitions)
        (offset,) = self._appender.append([Output(topic, partition, key, letter.record.value, headers)])
        for answer in answers.follow(deadline_s):
            if isinstance(answer, RetryEnded):
                return outcome_of(answer)
        text = "" if key is None else key.decode("utf-8", "replace")
        return self._waits(Retried(hosted.behaviour.name, partition, text, offset, offset))

    def _relay_again(self, letter: DeadLetter, wait_s: float) -> RetryOutcome:
        """Append the commands that this build makes of a foreign record; return how the first ended that failed."""
        deadline_s, answers = time.monotonic() + wait_s, Answers(self._reader, self._system.name)
        outputs = decoded_again(self._system, letter, answers.header(RETRY_TO))
        offsets = self._appender.append(outputs)
        ended: list[RetryOutcome] = []
        for answer in answers.follow(deadline_s):
            if isinstance(answer, RetryEnded):
                ended.append(outcome_of(answer))
                if len(ended) == len(outputs):
                    return next((each for each in ended if not each.is_handled), ended[0])
        output, entity = outputs[0], outputs[0].topic.split(".")[1]
        key = (output.key or b"").decode("utf-8", "replace")
        return self._waits(Retried(entity, output.partition, key, offsets[0], offsets[0]))

    def close(self) -> None:
        """Release what it holds."""
        self._appender.close()
        self._reader.close()
