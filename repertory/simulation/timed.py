"""Compares what one shard has sent later, and what it still has to send, with what follows from its commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from repertory.actors.headers import BECAUSE, SOURCE_TOPIC, TIMER
from repertory.actors.shard.changelog import TellRecord, TimerRecord, tell_key
from repertory.actors.timer import FiredTimer
from repertory.bridge.log.record import Record
from repertory.bridge.topics import commands_topic, dead_letters_topic
from repertory.simulation.virtual import Violation
from repertory.verify.owed import Owed


class LaterChecks:
    """Used once, when the model has handled all commands; ``wrong`` makes a violation by the command at an offset."""

    def __init__(self, owed: Owed, system: str, prefix: str, wrong: Callable[[str, int, str], Violation]) -> None:
        self._owed, self._system, self._prefix, self._wrong = owed, system, prefix, wrong
        self._dead_letters = dead_letters_topic(system)
        self._fired: set[tuple[str, FiredTimer]] = set()
        self._told: set[str] = set()

    def check(self, records: Iterable[Record]) -> None:
        """Check what the shard has sent: each timer once, each delayed message once, and both as they were meant."""
        for record in records:
            offset, index = map(int, (record.header(BECAUSE) or b"").removeprefix(self._prefix.encode()).split(b"/"))
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

    def left(self) -> dict[str, TimerRecord | TellRecord]:
        """Return what must be in the changelog, by its keys."""
        return self._owed.left(self._fired, self._told)
