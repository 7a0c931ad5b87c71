"""Compares what one shard has sent later, and what it still has to send, with what follows from its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from repertory.actors.effect import registered
from repertory.actors.headers import ABOUT, BECAUSE, EFFECT, REJECTED, SOURCE_TOPIC, TIMER
from repertory.actors.message import Done, Rejection, wire_name
from repertory.actors.saga.inner import STEP_MARK
from repertory.actors.shard.changelog import EffectRecord, effect_key, tell_key
from repertory.actors.shard.shard import Shard
from repertory.actors.timer import FiredTimer
from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record
from repertory.bridge.topics import commands_topic, dead_letters_topic
from repertory.simulation.virtual import Violation
from repertory.verify.owed import Owed, without_last
from repertory.verify.performed import are_same, may_return_nothing


class LaterChecks:
    """Used once, when the model has handled all commands; ``wrong`` makes a violation by the command at an offset."""

    def __init__(self, owed: Owed, system: str, prefix: str, wrong: Callable[[str, int, str], Violation]) -> None:
        self._owed, self._system, self._prefix, self._wrong = owed, system, prefix, wrong
        self._dead_letters = dead_letters_topic(system)
        self._fired: set[tuple[str, FiredTimer]] = set()
        self._told: set[str] = set()
        self._settled: set[str] = set()

    def check(self, records: Iterable[Record]) -> None:
        """Check what the shard has sent: each timer, delayed message and result once, and as they were meant."""
        for record in records:
            offset, index = map(int, (record.header(BECAUSE) or b"").removeprefix(self._prefix.encode()).split(b"/"))
            if record.header(EFFECT) is not None:
                self._check_result(record, effect_key(offset, index), offset)
                continue
            header, key = record.header(TIMER), (record.key or b"").decode()
            if header is None:
                self._check_told(record, tell_key(offset, index), offset)
                continue
            timer = FiredTimer.parse(header)
            if (key, timer) in self._fired:
                raise self._wrong("a timer fires once", offset, f"has fired {header!r} of {key!r} twice")
            meant = self._owed.meant.get((key, timer))
            if meant is None or meant.value != record.value:
                raise self._wrong("a timer sends its command", offset, f"has fired {header!r} with {record.value!r}")
            self._fired.add((key, timer))
            if record.topic == self._dead_letters:
                self._owed.given_up(key, timer)

    def _check_told(self, record: Record, place: str, offset: int) -> None:
        due = self._owed.tells.get(place)
        if due is None or place in self._told:
            raise self._wrong("a delayed message is sent once", offset, f"has sent {place!r} too often")
        self._told.add(place)
        topic = record.header(SOURCE_TOPIC) if record.topic == self._dead_letters else record.topic.encode()
        got = (topic or b"").decode(), record.key, record.value
        if got != (commands_topic(self._system, due.entity), due.key.encode(), due.value):
            raise self._wrong("a delayed message is what was told", offset, f"has sent {got}, not {due}")

    def _check_result(self, record: Record, place: str, offset: int) -> None:
        meant = self._owed.effects.get(place)
        if meant is None or place in self._settled:
            raise self._wrong("an effect has one result", offset, f"has the result {record.value!r} of {place!r}")
        self._settled.add(place)
        got = (
            (record.header(EFFECT) or b"").decode(),
            (record.key or b"").decode(),
            (record.header(ABOUT) or b"").decode(),
        )
        effect = registered(meant.effect)
        assert effect is not None, meant.effect
        answers = {wire_name(each) for each in effect.signature.answers}
        if type(None) in effect.signature.results:
            answers.add(wire_name(Done))
        if got != (meant.effect, meant.key, meant.about) or written_name(record.value or b"") not in answers:
            raise self._wrong("a result is that of its effect", offset, f"has the result {got} {record.value!r}")
        rejections = {wire_name(each) for each in effect.signature.answers if issubclass(each, Rejection)}
        is_rejected = meant.about.startswith(STEP_MARK) and written_name(record.value or b"") in rejections
        if (record.header(REJECTED) is not None) != is_rejected:
            raise self._wrong("a saga knows what was applied", offset, f"has the result {record.headers}")

    def check_open(self, shard: Shard, where: str) -> None:
        """Compare what a shard has to send, and its effects, with what it must have."""
        should_be = self._owed.left(self._fired, self._told)
        has_open = {place: without_last(each, each.value) for place, each in shard.timers.records.items()}
        if has_open != should_be:
            differ = {place for place in {*has_open, *should_be} if has_open.get(place) != should_be.get(place)}
            shown = [(place, has_open.get(place), should_be.get(place)) for place in sorted(differ)]
            raise Violation("what is due later is kept", f"{shard.config.id} {where}, is and should be: {shown}")
        performed, records = self._owed.effects, shard.effects.records
        for place in sorted({*performed, *records}):
            found, meant = records.get(place), performed.get(place)
            if found is None and meant is not None and (place in self._settled or may_return_nothing(meant)):
                continue
            if found is None or meant is None or place in self._settled or not are_same(found, meant):
                raise Violation(
                    "an effect is open until it has a result", f"{shard.config.id} {where}: {found}, {meant}"
                )

    def check_tried(self, shard: Shard, now_ms: int) -> None:
        """Check that no effect waits, once the faults are over, except for its time, an operator, or one before it."""
        firsts: dict[tuple[str, str], EffectRecord] = {}
        for record in sorted(shard.effects.records.values(), key=lambda each: (each.offset, each.index)):
            if not record.parked:
                firsts.setdefault(shard.effects.queue_of(record), record)
        for record in firsts.values():
            if record.due_ms <= now_ms:
                raise Violation("an effect is tried until it has a result", f"{shard.config.id}: {record} waits")

    def check_begun(self, begun: Iterable[str]) -> None:
        """Check that what was begun in the world outside was performed by a command in the log."""
        for place in begun:
            if place not in self._owed.effects:
                raise Violation("no effect begins before its command is committed", f"{self._prefix} {place!r}")
