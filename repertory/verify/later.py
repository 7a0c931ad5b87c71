"""Check the timers, delayed messages and effects of one shard: each is open, was taken back, or has sent what it must.

What they have sent is recognised by its headers: its own cause is that of a changelog record, and ``because`` names the
command that scheduled it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from repertory.actors.headers import BECAUSE, SOURCE_TOPIC, TIMER, value
from repertory.actors.shard.changelog import EffectRecord, TellRecord, TimerRecord, tell_key, timer_of
from repertory.actors.timer import FiredTimer
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.topics import commands_topic
from repertory.verify.findings import Finding, Place
from repertory.verify.owed import Owed, without_last
from repertory.verify.performed import EffectResult, Performed, result_of
from repertory.verify.values import Receivers, as_read

_BECAUSE = re.compile(rb"([0-9]{1,18})/([0-9]{1,9})")


class SentLater(NamedTuple):
    """A command of a timer (``timer``), or a delayed message: its changelog number, what scheduled it, what it is.

    Or a ``result`` of an effect. ``given_up``: the log refused it, and it is a dead letter.
    """

    nth: int
    offset: int
    position: int
    timer: FiredTimer | None
    topic: str
    key: str
    data: bytes
    place: Place
    given_up: bool = False
    result: EffectResult | None = None


def sent_later(record: Record, nth: int, source: TopicPartition) -> SentLater | None:
    """Return what a shard has sent later; None if its headers are not those that a shard writes."""
    prefix = f"{source.topic}/{source.partition}/".encode()
    because, header = value(record.headers, BECAUSE) or b"", value(record.headers, TIMER)
    found = _BECAUSE.fullmatch(because.removeprefix(prefix))
    if found is None or not because.startswith(prefix) or record.value is None:
        return None
    try:
        timer, key = None if header is None else FiredTimer.parse(header), (record.key or b"").decode()
    except ValueError:
        return None
    place, topic = Place(record.topic, record.partition, record.offset), record.header(SOURCE_TOPIC)
    meant = record.topic if topic is None else topic.decode("utf-8", "backslashreplace")
    offset, position = int(found[1]), int(found[2])
    result = result_of(record, key, offset, position)
    return SentLater(nth, offset, position, timer, meant, key, record.value, place, topic is not None, result)


class Later:
    """Used once, after all commands of the shard are decided again."""

    def __init__(
        self,
        owed: Owed,
        system: str,
        commands: str,
        receivers: Receivers,
        finding: Finding,
        is_known: Callable[[str | None, int], bool],
    ) -> None:
        """``commands``: the shard's own topic.

        ``is_known``: whether it is known what an entity did at an offset, by its key; None: what all of them did.
        """
        self._owed, self._system, self._commands, self._receivers = owed, system, commands, receivers
        self._finding, self._is_known = finding, is_known
        self._performed = Performed(owed.effects, receivers.of(commands, commands), finding, is_known)
        self._fired: set[tuple[str, FiredTimer]] = set()
        self._told: set[str] = set()

    def check_sent(self, sent: list[SentLater]) -> None:
        """Check what the shard has sent."""
        for each in sent:
            self._finding.looked_at += 1
            if each.result is not None:
                self._performed.check_result(each.result, each.place)
                continue
            if each.timer is None:
                self._check_told(each)
                continue
            if (each.key, each.timer) in self._fired:
                self._finding.wrong(each.place, "is the command of a timer that has fired before")
            self._fired.add((each.key, each.timer))
            if each.given_up:
                self._owed.given_up(each.key, each.timer)
            if each.topic != self._commands or (each.timer.offset, each.timer.index) != (each.offset, each.position):
                self._finding.wrong(
                    each.place, "names a timer of another command than the one because of which it was sent"
                )
            elif not self._is_known(each.key, each.offset):
                self._finding.unverifiable += 1
            elif (meant := self._owed.meant.get((each.key, each.timer))) is None:
                self._finding.wrong(each.place, f"is of a timer that command {each.offset} has not scheduled for then")
            elif not self._are_same(each.topic, meant.value, each.data):
                self._finding.wrong(each.place, f"is not what command {each.offset} has scheduled")

    def _check_told(self, each: SentLater) -> None:
        place = tell_key(each.offset, each.position)
        if place in self._told:
            self._finding.wrong(each.place, "is a delayed message that was sent before")
        self._told.add(place)
        due = self._owed.tells.get(place)
        if not self._is_known(self._owed.teller.get(place), each.offset):
            self._finding.unverifiable += 1
        elif due is None or (commands_topic(self._system, due.entity), due.key) != (each.topic, each.key):
            self._finding.wrong(each.place, f"is not what command {each.offset} has told")
        elif not self._are_same(each.topic, due.value, each.data):
            self._finding.wrong(each.place, f"differs from what command {each.offset} has told")

    def check_open(
        self, recorded: dict[str, TimerRecord | TellRecord], effects: dict[str, EffectRecord], where: Place
    ) -> None:
        """Compare what the changelog says is open with what must be."""
        self._performed.check_open(effects, where)
        expected = self._owed.left(self._fired, self._told)
        for place in sorted({*recorded, *expected}):
            self._finding.looked_at += 1
            found, due = recorded.get(place), expected.get(place)
            record = found or due
            assert record is not None
            key = timer_of(place)[0] if isinstance(record, TimerRecord) else self._owed.teller.get(place)
            if not self._is_known(key, record.offset):
                self._finding.unverifiable += 1
            elif found is None:
                self._finding.wrong(
                    where._replace(key=place), "is missing: it is due later, or its command has no fate"
                )
            elif due is None:
                self._finding.wrong(where._replace(key=place), "is not open: it was sent, settled or taken back")
            elif not self._is_record(found, due):
                self._finding.wrong(where._replace(key=place), f"is {found!r:.300}, and should be {due!r:.300}")

    def _is_record(self, found: TimerRecord | TellRecord, due: TimerRecord | TellRecord) -> bool:
        topic = self._commands if isinstance(due, TimerRecord) else commands_topic(self._system, due.entity)
        is_same = self._are_same(topic, found.value, due.value)
        return is_same and without_last(found, b"") == without_last(due, b"")

    def _are_same(self, topic: str, one: bytes, other: bytes) -> bool:
        decode = self._receivers.of(topic, self._commands)
        return one == other or as_read(decode, one) == as_read(decode, other)
