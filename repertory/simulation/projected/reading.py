"""How a simulated projector reads the log: in pieces, and with its own faults between any two records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Record
from repertory.simulation.projected.database import Reached


class PiecewiseReader:
    """Implements ``Reader``. ``piece``: the most records of one ``follow``, 0 for any number."""

    def __init__(self, inner: Reader, reached: Reached, piece: int) -> None:
        self._inner, self._reached, self._piece = inner, reached, piece

    def partition_count(self, topic: str) -> int | None:
        """See ``Reader``."""
        return self._inner.partition_count(topic)

    def topic_ids(self, topics: Sequence[str]) -> Mapping[str, str]:
        """See ``Reader``."""
        self._reached("read")
        return self._inner.topic_ids(topics)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """See ``Reader``."""
        self._reached("read")
        return self._inner.bounds(topic, partition)

    def read(self, topic: str, partition: int, from_offset: int = 0) -> Iterator[Record]:
        """See ``Reader``."""
        self._reached("read")
        return self._each(self._inner.read(topic, partition, from_offset))

    def follow(self, topic: str, positions: Mapping[int, int], timeout_s: float) -> Iterator[Record]:
        """See ``Reader``."""
        self._reached("read")
        return self._each(islice(self._inner.follow(topic, positions, timeout_s), self._piece or None))

    def _each(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self._reached("read")
            yield record

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """See ``Reader``."""
        return self._inner.committed(group, topic, partition)

    def close(self) -> None:
        """See ``Reader``. The store of a run belongs to the run."""


class _ReadingBackend:
    """A backend whose readers are piecewise, and which is the run's in all else."""

    def __init__(self, inner: Backend, reached: Reached, piece: int) -> None:
        self._inner, self._reached, self._piece = inner, reached, piece

    def reader(self) -> Reader:
        """See ``Backend``."""
        return PiecewiseReader(self._inner.reader(), self._reached, self._piece)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def reading(backend: Backend, reached: Reached, piece: int) -> Backend:
    """Return a backend for one projector."""
    return cast("Backend", _ReadingBackend(backend, reached, piece))
