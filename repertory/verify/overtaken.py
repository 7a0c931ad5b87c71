"""``OvertakenCommands``: the commands of one shard of sagas in the order in which they were applied.

A request to cancel a saga does not wait behind commands of its key that are stashed, see ``verify.overtaking``, or
that would be if there were room. A command that has changed nothing has no place in the journal: if it was ever
stashed, if such a request is behind it, or if it is one, it may have been decided on a later or an earlier state than
that of its place in the log, and any of them will do.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator
from typing import NamedTuple

from repertory.actors.message import Envelope
from repertory.actors.shard.decision import Decision
from repertory.bridge.log.record import Record, TopicPartition
from repertory.verify.again import Decider, Moment, Subject
from repertory.verify.compare import equal
from repertory.verify.overtaking import Overtaking
from repertory.verify.owed import Owed
from repertory.verify.produced import Made, Produced

#: As many states before the current one are tried; by default no more commands of a key can be stashed.
_PAST_MAX = 1_001


class HandledCommand(NamedTuple):
    """A command that was neither dead-lettered nor kept, with its records."""

    record: Record
    delivery: Envelope
    made: list[Made]


class OvertakenCommands:
    """Of one shard. It does nothing where no command overtakes another."""

    def __init__(self, subject: Subject, decider: Decider, owed: Owed, produced: Produced) -> None:
        self._subject, self._decider, self._owed = subject, decider, owed
        self._urgent = subject.hosted.behaviour.urgent
        events = TopicPartition(subject.hosted.codec.events, subject.source.partition)
        self._events = subject.gathered.targets.number(events)
        self._overtaking = Overtaking[HandledCommand]()
        self._past: dict[str, deque[bytes]] = {}
        self._unplaced: dict[str, list[HandledCommand]] = defaultdict(list)
        urgent = subject.gathered.urgent.of(subject.source)
        places = produced.first_places({offset for _, offset in urgent}, self._events)
        #: The last request of each key that does not wait.
        self._last = dict(urgent)
        for key, offset in urgent:
            if (place := places.get(offset)) is not None:
                self._overtaking.will_overtake(key, offset, place)

    def is_urgent(self, delivery: Envelope) -> bool:
        """Return whether a command does not wait for those of its key that are stashed."""
        return type(delivery.message) in self._urgent

    def has_place(self, made: list[Made]) -> bool:
        """Return whether the place of a command among those of its key is known."""
        return not self._urgent or (len(made) > 0 and made[0].nth == 0 and made[0].target == self._events)

    def in_order(self, command: HandledCommand) -> list[HandledCommand]:
        """Take the next command of the log; return those that were applied now, in order."""
        delivery = command.delivery
        if not self._urgent:
            return [command]
        if not self.has_place(command.made):
            if self.is_urgent(delivery) or self._may_be_overtaken(delivery.key, delivery.offset):
                return [command]
            return [*self._overtaking.all_of(delivery.key), command]
        return self._overtaking.next(
            delivery.key, delivery.offset, command.made[0].place, command, overtakes=self.is_urgent(delivery)
        )

    def left(self) -> list[HandledCommand]:
        """Return those that were overtaken and not returned yet."""
        return [*self._overtaking.left()]

    def may_fit_elsewhere(self, command: HandledCommand) -> bool:
        """Return whether another state may explain a command which the current one does not: an earlier, or a later."""
        delivery = command.delivery
        is_free = self.is_urgent(delivery) or self._may_be_overtaken(delivery.key, delivery.offset)
        if self.has_place(command.made) or not is_free:
            return False
        for data in self._past.get(delivery.key, ()) if self.is_urgent(delivery) else ():
            moment = Moment(self._subject.hosted.behaviour.state_decode(data), data)
            if self._fits(command, moment) is not None:
                return True
        self._unplaced[delivery.key].append(command)
        return True

    def changed(self, key: str, offset: int, before: bytes) -> Iterator[tuple[HandledCommand, Decision | None]]:
        """Note a new state of a key; yield the commands that it explains, without a decision if they were dropped."""
        if not self._urgent:
            return
        if self._may_be_overtaken(key, offset):
            self._past.setdefault(key, deque(maxlen=_PAST_MAX)).append(before)
        if key not in self._unplaced:
            return
        moment, left = self._decider.moments.get(key), list[HandledCommand]()
        for each in self._unplaced.pop(key):
            if not each.made and self._owed.is_stale(each.delivery):
                yield each, None
            elif (decision := self._fits(each, moment)) is not None:
                yield each, decision
            else:
                left.append(each)
        if left:
            self._unplaced[key] = left

    def unexplained(self) -> Iterator[HandledCommand]:
        """Yield the commands that no state explains."""
        for commands in self._unplaced.values():
            for each in commands:
                if each.made or not self._owed.is_stale(each.delivery):
                    yield each

    def _may_be_overtaken(self, key: str, offset: int) -> bool:
        changelog = self._subject.changelog
        was_stashed = changelog.digest_of(offset) is not None or not changelog.is_complete
        return was_stashed or offset < self._last.get(key, -1)

    def _fits(self, command: HandledCommand, moment: Moment | None) -> Decision | None:
        again = self._decider.answered(command.record, command.delivery, moment)
        return again.decision if again.decision is not None and equal(command.made, again.made) else None
