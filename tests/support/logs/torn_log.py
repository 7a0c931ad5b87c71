"""A log of the worst kind that the port allows for ``append``: record by record, without a fence, and late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from repertory.bridge import kill_points
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.port import Append, Appender, Committed, Log, LogEvent, Member
from repertory.bridge.log.record import Output, TopicPartition


class TornBackend(EmbeddedBackend):
    """A log in memory whose appends can be cut at every record: the kill point ``appending`` is reached before each.

    ``late``: what was cut off. A worker that was replaced and wakes up may append it, whoever has the shard by then.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.late: list[Output] = []
        self.torn = 0

    def log(self, member: Member, subscriptions: Sequence[str]) -> Any:
        """Return a member whose appends go record by record."""
        return TornLog(super().log(member, subscriptions), self)

    def arrive(self) -> None:
        """Let what was cut off arrive now."""
        late, self.late = self.late, []
        if late:
            self.appender().append(late)


class TornLog:
    """Passes everything on, and takes an append apart."""

    def __init__(self, inner: Log, backend: TornBackend) -> None:
        self._inner, self._backend = inner, backend
        self._appender: Appender = backend.appender()
        self._firsts: dict[TopicPartition, dict[str, int]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def append(self, append: Append) -> None:
        """Append one by one; then move the offset, at which the worker may have died too."""
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
        """Tell of an append where its records stand."""
        return [
            Committed(event.shard, self._firsts.pop(event.shard))
            if isinstance(event, Committed) and event.shard in self._firsts
            else event
            for event in self._inner.poll(timeout_s)
        ]
