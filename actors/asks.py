"""The values of an ask from outside: the id that makes it safe to repeat, and the position that its answer names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from repertory.actors.message import Sender

#: An ask with this many bytes of id has a header that every broker takes.
ID_BYTES_MAX: Final = 255
#: Begins the header of an id that the client made: nobody can repeat it later.
AUTO: Final = "auto/"

_EPOCH = datetime.fromtimestamp(0, UTC)
_POSITION = re.compile(r"([a-z0-9-]{1,100})/([0-9]{1,9})/([0-9]{1,19})", re.ASCII)


class AskId(msgspec.Struct, frozen=True):
    """The id of one ask: its shard applies the command at most once, however often it is asked with the same id.

    ``id``: 1 to 255 bytes of UTF-8 without NUL, unique among the asks of one key. ``made_at``: when this ask was first
    tried, with a time zone. Store both before the first attempt, and use both again. Raises ValueError.
    """

    id: str
    made_at: datetime

    def __post_init__(self) -> None:
        """Refuse an invalid id, each mistake with its own sentence."""
        if not isinstance(self.id, str):
            raise ValueError(f"the id of an ask is text, not {type(self.id).__name__}")  # noqa: TRY004
        try:
            size_bytes = len(self.id.encode())
        except UnicodeEncodeError as error:
            raise ValueError(f"the id of an ask is UTF-8, not {self.id!r:.100}") from error
        if not size_bytes:
            raise ValueError("the id of an ask is empty; give it 1 to 255 bytes")
        if size_bytes > ID_BYTES_MAX:
            raise ValueError(f"the id of an ask has {size_bytes} bytes of UTF-8, over {ID_BYTES_MAX}")
        if "\0" in self.id:
            raise ValueError(f"the id of an ask contains no NUL: {self.id!r:.100}")
        if not isinstance(self.made_at, datetime):
            raise ValueError(f"made_at is the datetime of the first attempt, not {type(self.made_at).__name__}")  # noqa: TRY004
        if self.made_at.utcoffset() is None:
            raise ValueError(f"made_at needs a time zone, as in datetime.now(UTC): {self.made_at!r}")
        if self.made_at < _EPOCH:
            raise ValueError(f"made_at is before 1970: {self.made_at!r}; give it the time of the first attempt")

    @property
    def made_at_ms(self) -> int:
        """When the ask was first tried, in milliseconds since 1970 (UTC), rounded down."""
        return (self.made_at - _EPOCH) // timedelta(milliseconds=1)

    @property
    def header(self) -> bytes:
        """The value of the header ``ask-id``."""
        return f"{self.made_at_ms}/{self.id}".encode()


class Position(msgspec.Struct, frozen=True):
    """Up to where a shard had come with a command: ``seq`` journal records, that of the command included.

    Positions of one shard have an order; comparing those of two is a TypeError. ``str()`` and ``parse`` carry one
    through a URL or a cookie.
    """

    entity: str
    partition: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position in ``entity/partition/seq``; ValueError for any other text."""
        found = _POSITION.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r:.200} is not a position: entity/partition/seq")
        return cls(found[1], int(found[2]), int(found[3]))

    def __str__(self) -> str:
        return f"{self.entity}/{self.partition}/{self.seq}"

    def __lt__(self, other: Position) -> bool:
        return self.seq < self._same_shard(other)

    def __le__(self, other: Position) -> bool:
        return self.seq <= self._same_shard(other)

    def __gt__(self, other: Position) -> bool:
        return self.seq > self._same_shard(other)

    def __ge__(self, other: Position) -> bool:
        return self.seq >= self._same_shard(other)

    def _same_shard(self, other: Position) -> int:
        if not isinstance(other, Position) or (other.entity, other.partition) != (self.entity, self.partition):
            raise TypeError(f"{self} and {other} have no order: positions are compared within one shard")
        return other.seq


def holds(value: object, sender: Sender) -> bool:
    """Return whether a value is a sender, or contains it."""
    if value == sender:
        return True
    if isinstance(value, tuple | frozenset | list | set):
        return any(holds(item, sender) for item in value)
    if isinstance(value, dict):
        return any(holds(item, sender) for item in value.values())
    if isinstance(value, msgspec.Struct):
        return any(holds(getattr(value, name), sender) for name in value.__struct_fields__)
    return False
