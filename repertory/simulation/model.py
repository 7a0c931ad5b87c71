"""The expected outcome: each entity's commands handled one at a time, in log order, without a fault.

The model reads the commands from the log and decides each again on the state that the earlier commands of its key have
led to. It knows nothing of shards, batches, windows, restores or workers: only handlers, which are pure, and policies.
If the outcome depends on the time of a failure (a key that was parked for a while), every allowed outcome is accepted,
and the model continues with the one that is in the log.
"""

from __future__ import annotations

from collections.abc import Mapping

from repertory.actors.context import Directory
from repertory.actors.control import CANCELLED, RetryParked
from repertory.actors.headers import ERROR_TYPE
from repertory.actors.message import Envelope, Undecodable
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import RETRY_INDEX
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.mailbox import Delivery
from repertory.bridge import topics
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.record import Record
from repertory.simulation.asked import AskedIds
from repertory.simulation.decided import ATTEMPTS_MAX, ModelEntity, Redecided
from repertory.simulation.expected import ExpectedOutput, is_undelivered, matches, reply_to
from repertory.simulation.seen import Seen
from repertory.simulation.timed import LaterChecks
from repertory.simulation.virtual import Violation
from repertory.verify.overtaking import Overtaking
from repertory.verify.owed import Owed

_NO_RECORDS: Mapping[int, Record] = {}
#: A command with its entity, its key and its outputs.
_Handled = tuple[ModelEntity, Envelope, bytes, Mapping[int, Record]]


class Model:
    """The expected outcome of one shard. ``run`` raises Violation; after it, ``lives`` holds the expected entities."""

    def __init__(self, hosted: HostedEntity, directory: Directory, system: str, seen: Seen) -> None:
        self._hosted, self._seen = hosted, seen
        self._prefix = f"{hosted.codec.commands}/{seen.partition}/"
        self._again = Redecided(hosted, directory, system, self._prefix, seen)
        self._dead_letters = topics.dead_letters_topic(system)
        self.lives: dict[str, ModelEntity] = {}
        self.dead = 0
        self._asked = AskedIds(self._wrong)
        self._urgent = hosted.behaviour.urgent
        self._overtaking = Overtaking[_Handled]()
        self._owed = Owed()
        self.later = LaterChecks(self._owed, system, self._prefix, self._wrong)

    def run(self) -> None:
        """Handle every command that the shard has handled."""
        seen = self._seen
        self._note_urgent()
        for record in seen.commands:
            if record.offset >= seen.next and record.offset not in seen.ahead:
                # A retry may be carried out before its turn, if the stash is full.
                if seen.outputs.get(record.offset, {}).keys() - {RETRY_INDEX}:
                    raise self._wrong("an unconsumed command has no outputs", record.offset, "has outputs")
                continue
            self._handle(record)
        for each in self._overtaking.left():
            self._live(*each)
        for life in self.lives.values():
            for delivery, got in life.unplaced:
                if not self._fits(life, delivery, got):
                    raise self._unexpected(life, delivery, got)

    def _note_urgent(self) -> None:
        """Note which commands may have been handled before those of their key that were stashed then."""
        for record in self._seen.commands if self._urgent else ():
            got, delivery = self._seen.outputs.get(record.offset, _NO_RECORDS), self._hosted.codec.decode(record)
            if isinstance(delivery, Envelope) and type(delivery.message) in self._urgent and self._has_events(got):
                self._overtaking.will_overtake(delivery.key, record.offset, got[0].offset)

    def _handle(self, record: Record) -> None:
        delivery = self._hosted.codec.decode(record)
        got = self._seen.outputs.get(record.offset, _NO_RECORDS)
        if self._owed.is_stale(delivery) and not got and delivery.offset not in self._seen.stash:
            return
        if isinstance(delivery, Undecodable):
            if (own := self._undecided(delivery, got)) is not None:
                self._check_dead(delivery, delivery.value, delivery.key, own, None)
            return
        if self._hosted.behaviour.is_control(delivery):
            allowed = set() if delivery.sender is None else {0}
            if isinstance(delivery.message, RetryParked) and allowed:
                allowed.add(RETRY_INDEX)
            if not got.keys() <= allowed:
                raise self._wrong("a control record makes its answers", record.offset, f"made {len(got)} records")
            self._owed.controlled(delivery)
            return
        raw_key = delivery.key.encode()
        is_query = type(delivery.message) in self._hosted.behaviour.queries
        if partition_of(raw_key, self._hosted.partitions) != self._seen.partition:
            if (own := got if is_query else self._undecided(delivery, got)) is not None:
                self._check_dead(delivery, delivery.value, raw_key, own, frozenset({"WrongPartition"}))
            return
        life = self.lives.get(delivery.key)
        if life is None:
            life = self.lives[delivery.key] = ModelEntity(self._hosted)
        if is_query:
            self._queried(life, delivery, raw_key, got)
        elif (own := self._undecided(delivery, got)) is not None:
            item = life, delivery, raw_key, own
            for each in self._in_order(item):
                self._live(*each)

    def _in_order(self, item: _Handled) -> list[_Handled]:
        """Return what is handled now, in order; a command is only overtaken where one of its key had failed."""
        life, delivery, _, own = item
        if not self._urgent or not self._has_events(own):
            return [item]
        overtakes, place = type(delivery.message) in self._urgent, own[0].offset
        found = self._overtaking.next(delivery.key, delivery.offset, place, item, overtakes=overtakes)
        life.troubled = life.troubled or not found
        return found

    def _has_events(self, got: Mapping[int, Record]) -> bool:
        return 0 in got and got[0].topic == self._hosted.codec.events

    def _undecided(self, delivery: Delivery, got: Mapping[int, Record]) -> Mapping[int, Record] | None:
        """Return the outputs of a command that its shard decides; None if it is an ask whose id is known or refused."""
        stashed, refused = delivery.offset in self._seen.stash, delivery.offset in self._seen.refused
        return self._asked.take(delivery, got, stashed=stashed, refused=refused)

    def _queried(self, life: ModelEntity, delivery: Envelope, raw_key: bytes, got: Mapping[int, Record]) -> None:
        """Compare the answer to a query with its state, or with one of those since a command of its key failed."""
        if 0 in got and got[0].topic == self._dead_letters:
            allowed = frozenset({"Quarantined"} if delivery.offset in self._seen.deadly else ())
            self._check_dead(delivery, delivery.value, raw_key, got, allowed)
            return
        if delivery.offset in self._seen.stash:
            raise self._wrong("a query is never stashed", delivery.offset, "is stashed")
        if delivery.sender is None:
            due = [list[ExpectedOutput]()]
        elif delivery.offset in self._seen.raised and is_undelivered(got):
            due = [[reply_to(delivery.sender, None)]]
        else:
            due = [[reply_to(delivery.sender, self._again.answer(data, delivery))] for data in (life.data, *life.past)]
        if not any(matches(each, got) for each in due):
            shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
            raise self._wrong("a query is answered from its state", delivery.offset, f"made {shown}, expected {due[0]}")

    def _live(self, life: ModelEntity, delivery: Envelope, raw_key: bytes, got: Mapping[int, Record]) -> None:
        """Handle one command of an entity, and compare its outcome in the log with the allowed ones."""
        stashed = delivery.offset in self._seen.stash
        if stashed and not got and self._may_have_failed(life, delivery):
            life.troubled = True
            life.queue.append(delivery.offset)
            return
        is_dead = 0 in got and got[0].topic == self._dead_letters
        error = (got[0].header(ERROR_TYPE) or b"").decode() if is_dead else ""
        waits = life.queue and delivery.offset > life.queue[0] and type(delivery.message) not in self._urgent
        if waits and not (is_dead and (delivery.sender is not None or error in ("NoRoom", CANCELLED))):
            raise self._wrong(
                "later commands wait behind a failed one", delivery.offset, f"{life.queue[0]} is still stashed"
            )
        if is_dead:
            allowed = {"Parked", "Dropped", "Revoked", CANCELLED} if life.troubled else set[str]()
            if delivery.offset in self._seen.deadly:
                allowed.add("Quarantined")
            is_tried = not life.queue or type(delivery.message) in self._urgent
            if is_tried and (errors := self._again.errors(life, delivery)):
                life.troubled = True
                allowed |= {
                    *errors,
                    "Dropped",
                    "Revoked",
                    CANCELLED,
                }  # It may have been parked, then dropped, or revoked.
            if (self._seen.overflows or type(delivery.message) in self._urgent) and life.troubled:
                allowed.add("NoRoom")
            self._check_dead(delivery, delivery.value, raw_key, got, frozenset(allowed))
            return
        if stashed:
            raise self._wrong(
                "no handled command is stashed", delivery.offset, f"is stashed, but made {len(got)} records"
            )
        if self._owed.is_stale(delivery):
            raise self._wrong("a timer that was taken back has no effect", delivery.offset, f"made {len(got)} records")
        life.troubled = life.troubled or delivery.offset in self._seen.raised
        decision = self._applied(life, delivery, got)
        if decision is None:
            life.unplaced += [] if self._has_fitted(life, delivery, got) else [(delivery, got)]
            return
        self._owed.ended(delivery)
        self._owed.decided(delivery, decision)
        if decision.rejected:
            return
        if decision.stopped:
            self._asked.ended(delivery.key, delivery.offset)
        if life.troubled and decision.data != life.data:
            life.past.append(life.data)
        life.state, life.data = decision.state, decision.data
        life.journal += [delivery.offset] * len(decision.events)
        life.unplaced = [each for each in life.unplaced if not self._fits(life, *each)]

    def _may_have_failed(self, life: ModelEntity, delivery: Envelope) -> bool:
        """Return whether a command may be stashed at the end."""
        may_fail = life.queue or life.troubled or delivery.offset in self._seen.deadly
        return bool(may_fail) or self._again.fails(life, delivery)

    def _has_fitted(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> bool:
        """Return whether a command that overtakes has the outcome of a state before commands that were stashed."""
        if type(delivery.message) not in self._urgent:
            return False
        now, found = (life.state, life.data), False
        for data in life.past:
            life.state, life.data = self._hosted.behaviour.state_decode(data), data
            found = found or self._fits(life, delivery, got)
        life.state, life.data = now
        return found

    def _fits(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> bool:
        """Return whether a command without events that may have been overtaken has the outcome of a state."""
        if self._owed.is_stale(delivery) and not got:
            return True
        outcome = self._again.decide(life, delivery, 1)
        if not isinstance(outcome, Decision) or not self._again.matches(delivery, outcome, got):
            return False
        self._owed.ended(delivery)
        return True

    def _applied(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> Decision | None:
        """Return the decision that matches the log, at whichever attempt it was made; None if it may be made later."""
        attempts = 1
        while attempts <= ATTEMPTS_MAX:
            outcome = self._again.decide(life, delivery, attempts)
            if isinstance(outcome, Decision) and self._again.matches(delivery, outcome, got):
                life.troubled = life.troubled or attempts > 1
                return outcome
            if isinstance(outcome, Decision) and delivery.offset not in self._seen.raised:
                break
            attempts += 1
        if self._urgent and not self._has_events(got):
            return None
        raise self._unexpected(life, delivery, got)

    def _unexpected(self, life: ModelEntity, delivery: Envelope, got: Mapping[int, Record]) -> Violation:
        expected = self._again.decide(life, delivery, 1)
        shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
        if isinstance(expected, Decision):
            wanted: object = list(self._again.outputs(delivery, expected))
        else:
            wanted = expected
        return self._wrong("every command has its outputs, once", delivery.offset, f"made {shown}, expected {wanted}")

    def _check_dead(
        self,
        delivery: Delivery,
        value: bytes | None,
        key: bytes | None,
        got: Mapping[int, Record],
        allowed: frozenset[str] | None,
    ) -> None:
        """Compare a dead letter with its command: the bytes, the error if it is known, and the reply to an ask."""
        expected = [ExpectedOutput(self._dead_letters, key, value)]
        if delivery.sender is not None:
            expected.append(reply_to(delivery.sender, None, rejected=True))
        if not matches(expected, got):
            shown = {index: (record.topic, record.key, record.value) for index, record in got.items()}
            raise self._wrong("a dead letter is complete", delivery.offset, f"made {shown}, expected {expected}")
        error = (got[0].header(ERROR_TYPE) or b"").decode()
        if allowed is not None and error not in allowed:
            raise self._wrong("nothing is given up without a reason", delivery.offset, f"is a dead letter for {error}")
        self._owed.ended(delivery)
        self.dead += 1

    def _wrong(self, rule: str, offset: int, detail: str) -> Violation:
        return Violation(rule, f"{self._prefix}{offset} {detail}")
