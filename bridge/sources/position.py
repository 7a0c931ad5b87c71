"""The records of ``{system}.sources``: how far each partition of a source is relayed, and what operators ask for. Pure.

Key of a position: ``name/topic/partition``; of a request, the same behind ``\\0request/``. The position is written in
the transaction of the commands that it counts, and is the only truth: offsets that a group keeps expire.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from repertory.actors.shard.changelog import Accepted, Count
from repertory.actors.wire import DecodeError
from repertory.bridge.topics import RELAYS

#: What an operator can ask for: see ``repertory sources``.
RETRY, SKIP, SKIP_LOST, ADOPT = REQUESTS = ("retry", "skip", "skip-lost", "adopt")
#: What an operator has accepted about a source: a record that was passed without a dead letter. Beside those of shards.
SKIPPED: Final = "skipped-record"
#: A stop that only an operator ends: each new try would be another death.
DEADLY: Final = "deadly"

_REQUEST = "\0request/"


class SourcePlace(NamedTuple):
    """One partition of one source."""

    name: str
    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.name}/{self.topic}/{self.partition}"

    def at(self, offset: int) -> str:
        """Return the place of a record in messages, or its own for -1."""
        record = f"{self.topic}/{self.partition}" + (f"@{offset}" if offset >= 0 else "")
        return f"source {self.name} {record}"

    @property
    def key(self) -> bytes:
        """The key of its position."""
        return str(self).encode()

    @property
    def request_key(self) -> bytes:
        """The key of an operator's request about it."""
        return f"{_REQUEST}{self}".encode()

    @property
    def relay(self) -> int:
        """The partition of ``{system}.sources`` that has its position: those of one source are spread evenly."""
        return (zlib.crc32(f"{self.name}/{self.topic}".encode()) + self.partition) % RELAYS

    @classmethod
    def of(cls, key: bytes | None) -> tuple[SourcePlace, bool]:
        """Return the partition that a record's key names, and whether it is a request; DecodeError for other keys."""
        try:
            text = (key or b"").decode()
            name, topic, partition = text.removeprefix(_REQUEST).split("/")
            return cls(name, topic, int(partition)), text.startswith(_REQUEST)
        except ValueError:
            raise DecodeError(f"its key {key!r:.200} names no partition of a source") from None


class SourceStop(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a partition of a source is not relayed further, since when, and at which record (-1: at none).

    ``what``: "failed" (the function raised), "dead-letters" (too many in a row), "refused" (the log refuses even the
    dead letter of a record), "deadly" (too many processes died at it), "gone" (no such topic or partition),
    "recreated", "lost" (to retention), "tail-lost", "unreachable" (its log does not answer), "unreadable" (its log
    refuses to give the partition).
    """

    what: str
    reason: str
    error: str = ""
    offset: int = -1
    traceback: str = ""
    since_ms: Count = 0

    def is_like(self, other: SourceStop | None) -> bool:
        """Return whether another stop has the same cause."""
        return other is not None and (self.what, self.reason, self.offset) == (other.what, other.reason, other.offset)


class SourcePosition(
    msgspec.Struct, frozen=True, tag_field="type", tag="SourcePosition", forbid_unknown_fields=True, omit_defaults=True
):
    """How far a partition of a source is relayed: all records below ``next`` are, none from there on.

    ``topic_id``: of the topic that the offsets are of. ``partitions``: how many that topic had when the source first
    read it; partitions that were added later are read from their beginning. ``first``: where this one began.
    ``dead_letters``: how many records up to here became dead letters in a row. ``accepted``: what operators have
    accepted.
    """

    next: Count
    topic_id: str
    partitions: Count
    first: Count = 0
    dead_letters: Count = 0
    stopped: SourceStop | None = None
    accepted: tuple[Accepted, ...] = ()


class SourceRequest(
    msgspec.Struct, frozen=True, tag_field="type", tag="SourceRequest", forbid_unknown_fields=True, omit_defaults=True
):
    """What an operator asks of a partition of a source: one of `REQUESTS`; ``offset``: the record to skip."""

    what: str
    reason: str = ""
    who: str = ""
    at_ms: Count = 0
    offset: int = -1


_encode = msgspec.msgpack.Encoder().encode
_decode: Callable[[bytes], SourcePosition | SourceRequest]
_decode = msgspec.msgpack.Decoder(SourcePosition | SourceRequest).decode


def encode_source(record: SourcePosition | SourceRequest) -> bytes:
    """Encode a record of ``{system}.sources``."""
    return _encode(record)


def decode_source(data: bytes) -> SourcePosition | SourceRequest:
    """Decode a record of ``{system}.sources``; DecodeError for anything else."""
    try:
        return _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise DecodeError(str(error)) from error


class Positions:
    """The positions of one relay, and the requests that are open, folded from the records of its partition."""

    def __init__(self) -> None:
        self.known: dict[SourcePlace, SourcePosition] = {}
        self.requests: dict[SourcePlace, SourceRequest] = {}
        #: The records that cannot be read, in a sentence; those places are not relayed.
        self.unreadable: dict[SourcePlace, str] = {}

    def take(self, key: bytes | None, value: bytes | None, where: str) -> None:
        """Take one record; the last of a key counts. ``where``: its place, for a message."""
        try:
            place, is_request = SourcePlace.of(key)
        except DecodeError:
            return  # Not ours: nobody relays for it.
        if is_request:
            self._request(place, value)
            return
        self.known.pop(place, None)
        self.unreadable.pop(place, None)
        if value is None:
            return
        try:
            found = decode_source(value)
        except DecodeError as error:
            self.unreadable[place] = f"the position {where} cannot be read: {error}; run the code that wrote it"
            return
        if isinstance(found, SourcePosition):
            self.known[place] = found

    def _request(self, place: SourcePlace, value: bytes | None) -> None:
        self.requests.pop(place, None)
        if value is None:
            return
        try:
            found = decode_source(value)
        except DecodeError:
            return
        if isinstance(found, SourceRequest):
            self.requests[place] = found
