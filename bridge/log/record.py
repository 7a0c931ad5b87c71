"""What a log holds: records at offsets, and outputs that are to be appended. Only bytes; the codec interprets them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from repertory.actors.headers import SEQ, VERSION, Headers, value
from repertory.actors.wire import DecodeError


class TopicPartition(NamedTuple):
    """One partition of one topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One committed record: its place and its bytes."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def place(self) -> str:
        """The record's place in messages: ``topic/partition@offset``."""
        return f"{self.topic}/{self.partition}@{self.offset}"

    def header(self, name: str) -> bytes | None:
        """Return the value of the last header of that name (Kafka's rule for repeated names), else None."""
        return value(self.headers, name)

    @property
    def position(self) -> tuple[int, int]:
        """The seq and the version of a journal or state record; DecodeError if it has none."""
        try:
            _, (second, seq), (third, version) = self.headers  # As a shard writes them; looking for each takes longer.
            if second == SEQ and third == VERSION:
                return int(seq), int(version)
        except ValueError:
            pass
        return self.number(SEQ), self.number(VERSION)

    def number(self, name: str) -> int:
        """Return the number in a header; DecodeError if the header is missing or is not a number."""
        found = value(self.headers, name)
        try:
            return int(found or b"")
        except ValueError:
            raise DecodeError(f"its header {name!r} is {found!r:.100}") from None


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to be appended; the log gives it an offset and a timestamp."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    @property
    def size_bytes(self) -> int:
        """Size of key, value and headers as a broker counts it for its limit, except for a few bytes of its own."""
        size = len(self.key or b"") + len(self.value or b"")
        return size + sum(len(name) + len(data) + 2 for name, data in self.headers)
