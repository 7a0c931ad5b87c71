"""Decide the queries of one shard again, each on the state that it was answered from, and compare their answers."""

from __future__ import annotations

from collections import deque

from repertory.actors.message import Envelope, Undelivered
from repertory.actors.shard.turn_result import Replied
from repertory.actors.wire import encode
from repertory.bridge.log.record import Record
from repertory.verify.again import Decider, Moment, Subject
from repertory.verify.compare import equal, explain
from repertory.verify.produced import Made

#: Queries are compared with so many earlier states of their key; by default no more commands of a key can be stashed.
_PAST_MAX = 1_001


class Queries:
    """Checks the queries of one shard.

    A query is answered from the last applied state, and commands of its key that were stashed then may have been
    applied later. So it is compared with the state after all commands before it, and with those before commands that
    were ever stashed; a command that never was ends such a row, since all before it were applied by then. Where
    compaction has deleted what was stashed, another answer cannot be judged.
    """

    def __init__(self, subject: Subject, decider: Decider) -> None:
        self._subject, self._decider = subject, decider
        self._behaviour, self._findings = subject.hosted.behaviour, subject.findings
        self._targets = subject.gathered.targets
        self._past: dict[str, deque[bytes]] = {}

    def take(self, delivery: Envelope) -> bool:
        """Return whether a command is a query."""
        return type(delivery.message) in self._behaviour.queries

    def changed(self, key: str, offset: int, before: bytes) -> None:
        """Note that a command has changed the state of a key; ``before`` is the encoded state before it."""
        if self._subject.changelog.digest_of(offset) is None:
            self._past.pop(key, None)
        elif self._behaviour.queries:
            self._past.setdefault(key, deque(maxlen=_PAST_MAX)).append(before)

    def check(self, record: Record, delivery: Envelope, made: list[Made]) -> None:
        """Compare an answer with what deciding the query again gives."""
        decisions = self._findings.decisions
        decisions.looked_at += 1
        if delivery.sender is None:
            if made:
                decisions.wrong(record, f"has {len(made)} records, but is a query that nobody asked")
            return
        if record.offset in self._subject.gathered.undelivered[self._subject.source]:
            self._check_failure(record, delivery, made)
            return
        current = self._decider.moments.get(delivery.key)
        again = self._decider.answered(record, delivery, current)
        due, past = again.made, self._past.get(delivery.key, ())
        if equal(made, due) or any(equal(made, self._made_before(record, delivery, data)) for data in reversed(past)):
            return
        if not self._subject.changelog.is_complete or len(past) == _PAST_MAX:
            decisions.unverifiable += 1
        elif again.decision is None and made:
            decisions.wrong(record, f"was answered, but deciding it again fails: {again.error}")
        elif not made and not all(self._targets.is_cut(each.target) for each in due):
            self._findings.completeness.wrong(record, "is a query that was asked, but it has no answer")
        else:
            explain(self._targets, self._findings, record, made, due, "deciding it again")

    def _made_before(self, record: Record, delivery: Envelope, data: bytes) -> list[Made]:
        moment = Moment(self._behaviour.state_decode(data), data)
        return self._decider.answered(record, delivery, moment).made

    def _check_failure(self, record: Record, delivery: Envelope, made: list[Made]) -> None:
        """Compare where the answer to a failed query went. As of a dead letter, the reason is not compared."""
        assert delivery.sender is not None
        data = encode(Undelivered(reason=""))
        outputs = self._decider.encoded([Replied(delivery.sender, data, record.offset, 0)], record.offset)
        due = [self._decider.made(output, index) for index, output in enumerate(outputs)]
        if [each[:2] for each in made] != [each[:2] for each in due]:
            explain(self._targets, self._findings, record, made, due, "a failed query")
