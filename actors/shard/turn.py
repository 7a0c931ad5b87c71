"""``Turn``: collects the outputs, changelog entries and counts of one call of ``Shard.decide``."""

from __future__ import annotations

import msgspec

from repertory.actors.control import RetryEnded
from repertory.actors.message import Envelope, RetryRequest, Undelivered
from repertory.actors.shard.answers import AnswerTable
from repertory.actors.shard.asked import AskedTurn
from repertory.actors.shard.changelog import RETRY_INDEX, ChangelogEntry, StashedRecord, stash_entry
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.failure import Fate
from repertory.actors.shard.identity import key_in
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.stash import Stash, Stashed
from repertory.actors.shard.timers import Timers
from repertory.actors.shard.turn_result import (
    Counts,
    DeadLettered,
    Fired,
    Incident,
    Replied,
    TurnOutput,
)  # fmt: skip
from repertory.actors.wire import encode
from repertory.supervision.policy import Policy

#: Longest reason of a dead letter: it is written to a header, and sent to the asker too.
REASON_CHARS_MAX = 1_000


class Turn:
    """Mutable; it exists for one call. Each change that it makes to the stash is added to the changelog."""

    __slots__ = (
        "_answers",
        "_now_ms",
        "_refusals",
        "_stash",
        "_timers",
        "anchor",
        "announces",
        "asked",
        "bytes",
        "changed",
        "changelog",
        "counts",
        "fired",
        "handled",
        "has_late_answer",
        "incidents",
        "outputs",
        "overflowed",
        "refused",
        "touched",
        "unanswered",
    )  # fmt: skip

    def __init__(
        self,
        policy: Policy,
        stash: Stash,
        asks: AnswerTable,
        timers: Timers,
        now_ms: int,
        refusals: dict[int | str, str],
    ) -> None:
        """``asks``: what the shard has answered to asks with an id; ``now_ms``: epoch time.

        ``policy``: with ``restart(asked="answer")`` asked commands are answered instead of parked. ``refusals``: the
        commands whose outputs the log refuses for good, by offset; an operator's request among them is carried out, and
        is not answered.
        """
        self._stash, self._answers, self._refusals = stash, policy.asked == "answer", refusals
        self._timers, self._now_ms = timers, now_ms
        self.outputs: list[TurnOutput] = []
        self.changelog: list[ChangelogEntry] = []
        #: What the turn does about asks with an id.
        self.asked = AskedTurn(asks, self.outputs, self.changelog, now_ms, self.answer)
        #: What was due, and is sent.
        self.fired: list[Fired] = []
        self.counts = Counts()
        self.incidents: list[Incident] = []
        self.handled = 0
        #: An estimate of the bytes of its transaction: events, messages, dead letters, stashed commands and states.
        #: Snapshots are only written when they are due; instead each command counts the size of its new state.
        self.bytes = 0
        #: Number of commands that had to be stashed behind others of their key, and for which the stash had no room.
        self.overflowed = 0
        #: Whether a query was answered while commands of its key were stashed, or a client was told about an ask: if
        #: decided again, they may see more.
        self.has_late_answer = False
        #: The commands that were judged because the log refuses their outputs.
        self.refused: list[int | str] = []
        #: The failures of queries, by handler and error, and how many more failed alike: one incident each.
        self.unanswered: dict[tuple[str, str], tuple[Incident, int]] = {}
        self.anchor = -1
        #: The command that the next shard record must announce, since it is then handled before its turn; -1: none.
        self.announces = -1
        #: Keys whose state record is due: stateful ones that changed, with the offset of the last command that changed
        #: them, and those whose queue changed.
        self.changed: dict[str, int] = {}
        self.touched: dict[str, None] = {}

    def dead_letter(self, delivery: Delivery, error: str, reason: str, attempts: int = 1, traceback: str = "") -> None:
        """Dead-letter a command with its bytes and the reason, and answer the asker."""
        key = delivery.key.encode() if isinstance(delivery, Envelope) else delivery.key
        reason = reason[:REASON_CHARS_MAX]
        self.outputs.append(
            DeadLettered(key, delivery.value, delivery.headers, error, reason, attempts, delivery.offset, 0, traceback)
        )
        self.bytes += len(delivery.value or b"") + len(traceback)
        if delivery.sender is not None:
            answer = encode(Undelivered(reason=f"{error}: {reason}"))
            self.outputs.append(Replied(delivery.sender, answer, delivery.offset, 1, rejected=True))
            if (own := key_in(delivery)) is not None:
                self.asked.decide(own, delivery.sender, answer, -1, delivery.offset, delivery)
        if delivery.retry is not None:
            self.end_retry(delivery.retry, "dead-lettered", error, reason)
        self.settle(delivery)
        self.counts.dead_lettered += 1

    def leave_unanswered(self, envelope: Envelope, incident: Incident) -> None:
        """Tell the asker that a query failed; it is no dead letter, since nothing is lost."""
        answer = encode(Undelivered(reason=f"{incident.error}: {incident.reason[:REASON_CHARS_MAX]}"))
        if envelope.sender is not None:
            self.outputs.append(Replied(envelope.sender, answer, envelope.offset, 0))
        if envelope.retry is not None:
            self.end_retry(envelope.retry, "rejected", reply=answer)
        alike = type(envelope.message).__name__, incident.error
        first, more = self.unanswered.get(alike, (incident, -1))
        self.unanswered[alike] = first, more + 1

    def end_retry(
        self, retry: RetryRequest, outcome: str, error: str = "", reason: str = "", reply: bytes = b""
    ) -> None:
        """Tell the operator who retried a command how it ended, if one waits; see `RetryEnded`."""
        if not retry.open:
            return
        ended = RetryEnded(outcome=outcome, error=error, reason=reason[:REASON_CHARS_MAX], reply=reply)
        self.answer(Replied(retry.to, encode(ended), retry.offset, RETRY_INDEX))

    # --- failures and the stash -------------------------------------------------------------------------------

    def quarantine(self, envelope: Envelope, where: str, deaths: int, *, is_stashed: bool) -> None:
        """Dead-letter a command that kills every process that handles it."""
        reason = f"{deaths} processes in a row died while they handled it"
        self.dead_letter(envelope, "Quarantined", reason, deaths)
        if is_stashed:
            self.leave(envelope)
        self.incidents.append(Incident(where, "Quarantined", reason, "the command is a dead letter", "quarantined"))

    def keep(self, stashed: Stashed, *, known: bool) -> None:
        """Stash a failed command as the first of its key, until its retry or parked; ``known``: it is there already."""
        key = stashed.envelope.key
        if known:
            self._stash.replace_first(stashed)
        else:
            self._stash.join(stashed)
        self.wrote(stashed.envelope, stashed.record)
        self.asked.open(stashed.envelope)
        if not stashed.record.parked:
            self.counts.restarted += 1
            return
        self.counts.parked += 1
        if (retry := stashed.envelope.retry) is not None:
            self.end_retry(retry, "parked", stashed.record.error, stashed.record.reason)
            ended = msgspec.structs.replace(stashed.envelope, retry=retry.closed())
            self._stash.replace_first(Stashed(ended, stashed.record))
        for asked in self._stash.remove_asked(key) if self._answers else ():
            self.wrote(asked.envelope, None)
            self.dead_letter(asked.envelope, "Parked", parked_by(stashed), asked.record.attempt)

    def join(self, envelope: Envelope) -> None:
        """Stash a command behind those of its key."""
        first = self._stash.queue(envelope.key)[0]
        if self._answers and first.record.parked and envelope.sender is not None:
            self.dead_letter(envelope, "Parked", parked_by(first))
            return
        record = StashedRecord(
            key=envelope.key, value=envelope.value, headers=envelope.headers, timestamp_ms=envelope.timestamp_ms,
            retry=envelope.retry,
        )  # fmt: skip
        self._stash.join(Stashed(envelope, record))
        self.wrote(envelope, record)
        self.asked.open(envelope)

    def leave(self, envelope: Envelope) -> None:
        """Remove the first command of a key from the stash: this turn applies, rejects or dead-letters it."""
        self._stash.leave(envelope.key)
        self.wrote(envelope, None)

    # --- timers -----------------------------------------------------------------------------------------------

    def settle(self, delivery: Delivery) -> None:
        """Note that the command of a timer has its final fate, if a timer sent it."""
        if delivery.timer is not None:
            entry = self._timers.settle(key_in(delivery) or "", delivery.timer, delivery.timestamp_ms)
            if entry is not None:
                self.changelog.append(entry)

    def schedule(self, envelope: Envelope, decision: Decision) -> None:
        """Settle the timer that sent a command, then schedule and cancel what its decision says.

        The timers of an entity that stops are cancelled, and what it has kept is answered.
        """
        timers, key = self._timers, envelope.key
        self.settle(envelope)
        if decision.later:
            self.changelog += timers.apply(key, envelope.offset, decision.later, decision.later_data)
            self.bytes += sum(map(len, decision.later_data))
        if decision.stopped:
            self.changelog += timers.stop(key)
            self.asked.end(key, envelope.offset)

    def cancel(self, key: str, name: str) -> None:
        """Cancel a timer, if there is one of that name."""
        if (entry := self._timers.cancel(key, name)) is not None:
            self.changelog.append(entry)

    def is_stale(self, delivery: Delivery) -> bool:
        """Return whether a command was sent by a timer that was cancelled or replaced since then."""
        return delivery.timer is not None and self._timers.is_stale(key_in(delivery) or "", delivery.timer)

    def drop(self, delivery: Delivery) -> None:
        """Drop such a command, for which an operator may wait."""
        if delivery.retry is not None:
            self.end_retry(delivery.retry, "dropped", "Stale", "its timer was cancelled or replaced")
        self.counts.stale += 1

    def fire(self, count_max: int, bytes_max: int, shard: str) -> None:
        """Send what is due, up to so many commands and as far as the turn has room."""
        timers, now_ms, refusals = self._timers, self._now_ms, self._refusals
        while len(self.fired) < count_max and (not self.fired or self.bytes < bytes_max):
            if (found := timers.fire(now_ms, refusals)) is None:
                break
            fired, entry = found
            if fired.refused:
                self._give_up(fired, shard)
            self._send(fired, entry)
            self.counts.fired += 1

    def bring(self, result: Fired, entry: ChangelogEntry, shard: str) -> None:
        """Send the result of an effect to its entity, unless the log refuses it; ``entry`` removes the effect."""
        if why := self._refusals.get(result.place):
            result = msgspec.structs.replace(result, refused=why)
            self._give_up(result, shard)
        self._send(result, entry)

    def _send(self, fired: Fired, entry: ChangelogEntry) -> None:
        self.fired.append(fired)
        self.changelog.append(entry)
        self.bytes += 2 * len(fired.data)

    def _give_up(self, fired: Fired, shard: str) -> None:
        """Report what was due and is refused by the log: it is a dead letter."""
        self.refused.append(fired.place)
        del self._refusals[fired.place]
        self.counts.dead_lettered += 1
        name = f"the result of effect {fired.effect!r} to" if fired.effect else "a delayed message to"
        name = name if fired.timer is None else f"timer {fired.timer.name!r} of"
        where = f"{shard}@{fired.offset} {name} key {fired.key!r}"
        incident = Incident(where, "OutputRefused", fired.refused, "it is a dead letter", Fate.DEAD_LETTERED.value)
        self.incidents.append(incident)

    # --- reports ----------------------------------------------------------------------------------------------

    def report(self, shard: str) -> None:
        """Report what many commands of a turn may share as one incident: that they had no room, or failed alike.

        A client may repeat a query that fails without end.
        """
        if self.overflowed:
            reason = f"the stash had no room for {self.overflowed} commands"
            self.incidents.append(Incident(shard, "NoRoom", reason, "they are dead letters", Fate.NO_ROOM.value))
        for first, more in self.unanswered.values():
            then = f"{first.next}; {more} more in this turn failed alike" if more else first.next
            self.incidents.append(msgspec.structs.replace(first, next=then))

    def answer(self, answer: Replied) -> None:
        """Answer a request to the shard, whose sender waits for a limited time; nothing depends on it.

        Where the log takes no answer, none is given.
        """
        if self._refusals.pop(answer.offset, None) is None:
            self.outputs.append(answer)
        else:
            self.refused.append(answer.offset)

    def wrote(self, envelope: Envelope, record: StashedRecord | None) -> None:
        """Add a change of the stash to the changelog; None: the command has left it."""
        self.touched[envelope.key] = None
        self.changelog.append(stash_entry(envelope.offset, record))
        self.bytes += len(envelope.value) + (0 if record is None else len(record.traceback))


def parked_by(stashed: Stashed) -> str:
    """Return why the key of a parked command waits, for human readers."""
    return f"key {stashed.envelope.key!r} is parked by command {stashed.envelope.offset}: {stashed.record.reason}"
