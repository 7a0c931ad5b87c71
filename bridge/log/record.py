"""What a log holds: records at offsets, and outputs on their way to become records. Bytes only, no meaning."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

#: Names and values, in order; names are UTF-8 without NUL (librdkafka takes them as C strings), and may repeat.
Headers = tuple[tuple[str, bytes], ...]


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One committed record: where it stands and its bytes."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def place(self) -> str:
        """Where it stands, for people: ``topic/partition@offset``."""
        return f"{self.topic}/{self.partition}@{self.offset}"

    def header(self, name: str) -> bytes | None:
        """Return the value of the last header of that name (Kafka's rule for repeated names), else None."""
        found = None
        for header, value in self.headers:
            if header == name:
                found = value
        return found


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to be appended; the log gives it an offset and a timestamp."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        """Key, value and headers, as a broker counts them against its limit (its own few bytes apart)."""
        size = len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name) + len(value) + 2 for name, value in self.headers)
