"""The worst ``append`` that the port allows: record by record, without fencing, and late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from repertory.bridge import kill_points
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.port import (
    Append,
    Appender,
    Committed,
    Log,
    LogEvent,
    Member,
)
from repertory.bridge.log.record import Output, TopicPartition


class TornBackend(EmbeddedBackend):
    """A log in memory whose appends can be torn at every record: the kill point ``appending`` is reached before each.

    ``late``: the records that were not appended. A worker that was replaced may still append them, whoever owns the
    shard by then.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.late: list[Output] = []
        self.torn = 0

    def log(self, member: Member, subscriptions: Sequence[str]) -> Any:
        """Return a member that appends record by record."""
        return TornLog(super().log(member, subscriptions), self)

    def arrive(self) -> None:
        """Append the late records now."""
        late, self.late = self.late, []
        if late:
            self.appender().append(late)


class TornLog:
    """Delegates all calls, but splits each append into single records."""

    def __init__(self, inner: Log, backend: TornBackend) -> None:
        self._inner, self._backend = inner, backend
        self._appender: Appender = backend.appender()
        self._firsts: dict[TopicPartition, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, append: Append) -> None:
        """Append one by one, then commit the offset; the worker can crash before each step."""
        outputs = [*append.outputs, *append.journal]
        firsts: dict[str, int] = {}
        for index, output in enumerate(outputs):
            try:
                kill_points.reached("appending")
            except BaseException:
                self._backend.late += outputs[index:]
                self._backend.torn += index > 0
                raise
            (offset,) = self._appender.append([output])
            firsts.setdefault(output.topic, offset)
        kill_points.reached("appended")
        self._firsts[append.shard] = firsts
        self._inner.append(msgspec.structs.replace(append, outputs=(), journal=()))

    def poll(self, timeout_s: float) -> Sequence[LogEvent]:
        """Replace the answer to an append by one with the offsets of its records."""
        return [
            Committed(event.shard, self._firsts.pop(event.shard))
            if isinstance(event, Committed) and event.shard in self._firsts
            else event
            for event in self._inner.poll(timeout_s)
        ]
