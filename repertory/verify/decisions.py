"""Decide each command of one shard again, on the state before it, and compare the result with its records in the log.

The state before a command follows from the earlier commands of its key: commands of one key are applied in log order,
even if they were stashed. The records of a command are recognised by their `cause`, in any topic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from repertory.actors.context import OutputRefused
from repertory.actors.control import OF_ASKS
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.placement import partition_of
from repertory.actors.shard.decision import Decision
from repertory.bridge.log.record import Record
from repertory.supervision.directive import qualified_name
from repertory.verify.again import Again, Decider, Moment, Subject
from repertory.verify.asked import AskedCommands
from repertory.verify.compare import equal, events_of, explain, is_given_up, stray, without_doubles
from repertory.verify.control import check_control
from repertory.verify.gather import DeadLetterEntry
from repertory.verify.kept import KeptCommands
from repertory.verify.output_order import OutputOrder
from repertory.verify.overtaken import HandledCommand, OvertakenCommands
from repertory.verify.owed import Owed
from repertory.verify.produced import Made
from repertory.verify.queries import Queries
from repertory.verify.sequence import Sequence
from repertory.verify.stale import StaleCommands


class Decisions:
    """Checks the commands of one shard. Used once. ``fates`` counts their outcomes."""

    def __init__(
        self, subject: Subject, moments: dict[str, Moment], sequence: Sequence | None, *, decides: bool
    ) -> None:
        self._subject, self._sequence = subject, sequence
        self._source, self._changelog, self._findings = subject.source, subject.changelog, subject.findings
        self._targets, self._codec = subject.gathered.targets, subject.hosted.codec
        self._decider = Decider(subject, moments)
        #: The current state of each entity; a missing one is in its initial state. ``unknown`` ones are not verifiable.
        self.moments = moments
        self.unknown: set[str] = set()
        self._decides = decides
        #: Whether commands are decided again at all. The state of a stateful entity is known only if its first command
        #: is still in the log and no dead letters were deleted, as they show which commands were not applied.
        is_cut = subject.low > 0 or subject.gathered.has_cut_dead_letters
        shard = self._changelog.shard
        #: Whether this shard has worked at least once. If so, outputs may be repeated, or be written before their
        #: command is handled. Repeated commands are known only if the first command is still in the log.
        self._again = shard is not None and shard.epoch > 0
        self.judges = decides and not (is_cut and (subject.hosted.behaviour.stateful or self._again))
        self._kept = KeptCommands(subject, self._decider, decides=decides, again=self._again)
        self._queries, self._asked = Queries(subject, self._decider), AskedCommands(subject, self.unknown)
        #: What the shard sends later.
        self.owed, self.fates = Owed(), Counter[str]()
        self._stale = StaleCommands(subject, self.owed, self.is_known)
        #: Key -> its first stashed command.
        self._blocked: dict[str, int] = {}
        self._unmatched_stashed = set(self._changelog.stashed)
        self._order = OutputOrder(self._targets, self._findings.order)

    def walk(self, commands: Iterator[Record]) -> None:
        """Compare each command with its records, and check that each record has a command."""
        dead = self._subject.gathered.dead[self._source]
        filled = self._subject.gathered.produced.pop(self._source)
        self._overtaken = OvertakenCommands(self._subject, self._decider, self.owed, filled)
        produced = filled.by_command()
        offset, made = next(produced, (None, []))
        for record in commands:
            while offset is not None and offset < record.offset:
                self._stray(offset, made)
                offset, made = next(produced, (None, []))
            if offset == record.offset:
                deliveries = dead.pop(record.offset, [])
                if not (self._again and is_given_up(deliveries)):
                    made = without_doubles(self._targets, self._findings, made, again=self._again)
                self._command(record, made, deliveries)
                offset, made = next(produced, (None, []))
            else:
                self._command(record, [], [])
        while offset is not None:
            self._stray(offset, made)
            offset, made = next(produced, (None, []))
        for each in self._overtaken.left():
            self._decided(*each)
        for each in self._overtaken.unexplained():
            self._differs(each.record, each.delivery.key, each.made, self._decider.again(*each))
        for stashed in sorted(self._unmatched_stashed):
            if stashed >= self._subject.low:
                self._findings.stashed.wrong(
                    self._changelog.place_of(stashed), "is of a command that is not in the log"
                )

    def _stray(self, offset: int, made: list[Made]) -> None:
        """Check records whose command is not in the log."""
        if offset < self._subject.low:
            self.fates["deleted"] += 1
            self._findings.completeness.unverifiable += 1
        else:
            stray(self._targets, self._findings, made, self._name(offset))

    def _name(self, offset: int) -> str:
        return f"{self._subject.prefix}{offset}"

    # --- one command ------------------------------------------------------------------------------------------

    def _command(self, record: Record, made: list[Made], dead: list[DeadLetterEntry]) -> None:
        """Derive the outcome of a command from its records, and check the records that this outcome requires."""
        self._findings.completeness.looked_at += 1
        self._kept.stashed(record)
        stashed = record.offset in self._unmatched_stashed
        self._unmatched_stashed.discard(record.offset)
        if not self._changelog.has_handled(record.offset):
            self._not_handled(record, made, stashed=stashed)
            return
        made, fate = self._asked.take(record, made, kept=stashed or bool(dead))
        if fate:
            self.fates[fate] += 1
        elif dead:
            if stashed:
                self._findings.completeness.wrong(record, "is both dead-lettered and stashed")
            self.fates["dead-lettered"] += 1
            self._kept.dead_letter(record, made, dead)
            self.owed.ended(self._codec.decode(record))
        elif stashed:
            self._stashed(record, made)
        else:
            self._handled(record, made)

    def _not_handled(self, record: Record, made: list[Made], *, stashed: bool) -> None:
        self.fates["not handled yet"] += 1
        if self._again:
            self._subject.published.excuse(self._source, record.offset)
        for each in [] if self._again else made:
            sentence = f"belongs to command {record.offset}, which the shard record does not say to be handled"
            self._findings.atomicity.wrong(self._targets.place(each), sentence)
        if stashed:
            self._findings.stashed.wrong(record, "is stashed, but the shard record does not say that it was handled")

    def _stashed(self, record: Record, made: list[Made]) -> None:
        """Check that the command has produced nothing."""
        key = (record.key or b"").decode(errors="backslashreplace")
        first = self._blocked.setdefault(key, record.offset)
        self.fates["parked" if self._changelog.stashed[first].parked else "stashed"] += 1
        if self._again and self._changelog.stashed[record.offset].error == qualified_name(OutputRefused):
            self._subject.published.excuse(self._source, record.offset)
            return  # Its other outputs may have been sent.
        for each in made:
            self._findings.completeness.wrong(self._targets.place(each), f"is of the stashed command {record.offset}")

    def _handled(self, record: Record, made: list[Made]) -> None:
        """Check a command that is neither dead-lettered nor stashed: it was applied, rejected, or a control command."""
        delivery = self._codec.decode(record)
        if not made and self._stale.may_be(delivery):
            self.fates["stale"] += 1
            return
        if isinstance(delivery, Undecodable):
            if self._decides:
                self._must_be_dead(record, made, f"cannot be decoded ({delivery.reason:.300})")
            return
        if self._subject.hosted.behaviour.is_control(delivery):
            self.fates["about an ask" if isinstance(delivery.message, OF_ASKS) else "of an operator"] += 1
            self.owed.controlled(delivery)
            check_control(self._subject, self._decider, record, delivery, made)
            return
        here = partition_of(delivery.key.encode(), self._subject.hosted.partitions)
        if here != self._source.partition:
            self._must_be_dead(record, made, f"belongs on partition {here}")
        elif self._queries.take(delivery):
            self._answered(record, delivery, made)
        elif (first := self._blocked.get(delivery.key)) is not None and not self._overtaken.is_urgent(delivery):
            if self._may_be_dead(made):
                return
            self.unknown.add(delivery.key)
            if made:
                self._findings.order.wrong(record, f"was applied while command {first} of its key is stashed")
            else:
                self._findings.completeness.wrong(record, f"is not stashed, but command {first} of its key is")
        else:
            for each in self._overtaken.in_order(HandledCommand(record, delivery, made)):
                self._decided(*each)

    def _answered(self, record: Record, delivery: Envelope, made: list[Made]) -> None:
        """Check a query. It waits for no command of its key, so it has no place in the order of its outputs."""
        self.fates["answered"] += 1
        if [each.nth for each in made] == [1] and self._may_be_dead(made):
            return  # It was quarantined.
        if not self.judges or delivery.key in self.unknown:
            self._findings.decisions.unverifiable += 1
        else:
            self._queries.check(record, delivery, made)

    def _must_be_dead(self, record: Record, made: list[Made], why: str) -> None:
        if self._may_be_dead(made):
            return
        if made:
            self._findings.decisions.wrong(record, f"{why}, but was applied")
        else:
            self._findings.completeness.wrong(record, f"{why}, but was not dead-lettered")

    def _may_be_dead(self, made: list[Made]) -> bool:
        """Whether this may be one of the deleted dead letters: at most the reply to an ask is left of it."""
        may_be = self._subject.gathered.has_cut_dead_letters and [each.nth for each in made] in ([], [1])
        self._findings.completeness.unverifiable += may_be
        return may_be

    # --- again ------------------------------------------------------------------------------------------------

    def _decided(self, record: Record, delivery: Envelope, made: list[Made]) -> None:
        """Decide a command again, compare its outputs, and continue with the new state."""
        key = delivery.key
        if self._overtaken.has_place(made):
            self._order.check(key, made)
        if not self.judges or key in self.unknown:
            self._findings.decisions.unverifiable += 1
            self.fates["not decided again"] += 1
            return
        if self._stale.is_surely(delivery):
            self._findings.later.wrong(record, "was handled, though its timer was cancelled or replaced before")
        self._findings.decisions.looked_at += 1
        again = self._decider.again(record, delivery, made)
        if again.decision is None or not equal(made, again.made):
            if self._may_be_dead(made) or self._overtaken.may_fit_elsewhere(HandledCommand(record, delivery, made)):
                return
            self._differs(record, key, made, again)
        if again.decision is None:
            return
        for index, output in enumerate(again.outputs):
            if self._subject.published.is_foreign(output.topic):
                decode = self._subject.receivers.of_value(again.published(index))
                self._subject.published.expect(f"{self._name(record.offset)}/{index}", output, decode, record)
        self._go_on(delivery, again.decision)

    def is_known(self, key: str | None, offset: int) -> bool:
        """Return whether it is known what the entity of a key did at an offset; None: what all entities did."""
        if not self.judges or offset < self._subject.low:
            return False
        return not self.unknown if key is None else key not in self.unknown

    def _go_on(self, delivery: Envelope, decision: Decision) -> None:
        key, offset = delivery.key, delivery.offset
        self.owed.ended(delivery)
        self.owed.decided(delivery, decision)
        moment = self.moments.get(key)
        data = self._subject.hosted.behaviour.initial_data if moment is None else moment.data
        self.fates["rejected" if decision.rejected else "applied"] += 1
        if decision.data is data and not decision.stopped:
            return
        self._queries.changed(key, offset, data)
        if self._sequence is not None:
            self._sequence.changed(key, None if moment is None else data, None if decision.stopped else decision.data)
        if decision.stopped:
            self.moments.pop(key, None)
        else:
            self.moments[key] = Moment(decision.state, decision.data)
        for command, found in self._overtaken.changed(key, offset, data):
            self.owed.ended(command.delivery)
            self.fates["stale" if found is None else "rejected" if found.rejected else "applied"] += 1

    def _differs(self, record: Record, key: str, made: list[Made], again: Again) -> None:
        """Record the differences. If events differ, later commands of the key cannot be verified."""
        if again.decision is None or events_of(self._targets, made) != events_of(self._targets, again.made):
            self.unknown.add(key)
        if again.decision is None and made:
            self._findings.decisions.wrong(record, f"was applied, but deciding it again fails: {again.error}")
        elif again.decision is None:
            sentence = f"has no records and no outcome, and deciding it again fails: {again.error}"
            self._findings.completeness.wrong(record, sentence)
        elif not made and not all(self._targets.is_cut(each.target) for each in again.made):
            written = ", ".join(output.topic for output in again.outputs)
            self._findings.completeness.wrong(record, f"has no records, but deciding it again writes to {written:.300}")
        elif made and not again.made:
            does = "rejects it" if again.decision.rejected else "produces nothing"
            self._findings.decisions.wrong(record, f"has {len(made)} records, but deciding it again {does}")
        else:
            explain(self._targets, self._findings, record, made, again.made, "deciding it again")
