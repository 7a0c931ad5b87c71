"""``AskedTurn``: what a turn does about asks with an id: it answers those that it knows, and remembers its answers."""

from __future__ import annotations

from collections.abc import Callable

from repertory.actors.collected import Reply
from repertory.actors.message import Envelope, Message, Sender, Undelivered
from repertory.actors.shard.answers import AnswerTable, StoredAnswer
from repertory.actors.shard.changelog import AGAIN_INDEX, ChangelogEntry
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.mailbox import Delivery
from repertory.actors.shard.turn_result import Replied, TurnOutput
from repertory.actors.wire import encode

#: The answer to what was kept as its entity's life ended.
NEVER_ANSWERED = encode(Undelivered(reason="Stopped: the entity had kept the asker, and stopped without an answer"))


class AskedTurn:
    """Owned by its turn, to whose outputs and changelog it adds.

    ``decided``: how many ids it has answered; ``bytes``: of the answers that it has given again.
    """

    __slots__ = ("_again", "_changelog", "_now_ms", "_outputs", "_reply", "_table", "bytes", "decided")

    def __init__(
        self,
        table: AnswerTable,
        outputs: list[TurnOutput],
        changelog: list[ChangelogEntry],
        now_ms: int,
        reply: Callable[[Replied], None],
    ) -> None:
        """``reply``: adds an answer on which nothing depends, unless the log refuses it."""
        self._table, self._outputs, self._changelog, self._now_ms = table, outputs, changelog, now_ms
        self._reply = reply
        self.decided = self._again = self.bytes = 0

    def is_known(self, delivery: Delivery) -> bool:
        """Answer an ask whose id is known, or refuse it for its id; return whether that is all that becomes of it."""
        sender = delivery.sender
        if sender is None or not sender.ask or (found := self._table.ask(delivery, sender)) is None:
            return False
        if isinstance(found, StoredAnswer):
            self._reply(Replied(sender, found.answer, delivery.offset, AGAIN_INDEX, found.seq, again=True))
            self.bytes += len(found.answer)
        elif isinstance(found, Message):
            self._reply(Replied(sender, encode(found), delivery.offset, AGAIN_INDEX))
        elif found.entry is not None:
            self._changelog.append(found.entry)
        return True

    def open(self, envelope: Envelope) -> None:
        """Remember that an ask with an id is undecided."""
        sender = envelope.sender
        if sender is not None and sender.ask and (entry := self._table.open(envelope, sender)) is not None:
            self._changelog.append(entry)

    def remember(self, envelope: Envelope, decision: Decision, seq: int) -> None:
        """Remember the answers in a decision: to the asker, and to senders that the entity has kept."""
        key, own, is_answered = envelope.key, envelope.sender, False
        for output, data in zip(decision.outputs, decision.sent, strict=True):
            if isinstance(output, Reply) and output.to.ask:
                is_own = output.to == own
                is_answered |= is_own
                self.decide(key, output.to, data, seq, envelope.offset, envelope if is_own else None)
        if own is None or not own.ask or is_answered:
            return
        if decision.reply is None:
            if (entry := self._table.keep(envelope, own)) is not None:
                self._changelog.append(entry)
        else:
            self.decide(key, own, decision.reply_data, seq, envelope.offset, envelope)

    def decide(self, key: str, to: Sender, answer: bytes, seq: int, offset: int, asked: Delivery | None) -> None:
        """Remember the answer that the command at ``offset`` gives to an ask with an id, and give it to all who wait.

        ``asked``: the ask itself, None where the answer is for a sender that was kept.
        """
        if not to.ask or (found := self._table.decide(key, to, answer, seq, self._now_ms, asked)) is None:
            return
        waiting, entry = found
        self.decided += 1
        self._changelog.append(entry)
        for each in waiting:
            self._give(each, answer, seq, offset, again=True)

    def end(self, key: str, offset: int) -> None:
        """Answer what a key has kept: its life has ended with the command at ``offset``, and nobody else will."""
        for sender in self._table.kept_of(key):
            self._give(sender, NEVER_ANSWERED, -1, offset, again=False)
            self.decide(key, sender, NEVER_ANSWERED, -1, offset, None)

    def _give(self, to: Sender, answer: bytes, seq: int, offset: int, *, again: bool) -> None:
        self._outputs.append(Replied(to, answer, offset, AGAIN_INDEX + self._again, seq, again=again))
        self._again += 1
        self.bytes += len(answer)
