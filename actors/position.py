"""``Position``: how far a shard has come, as a value that a client keeps and a reader waits for."""

from __future__ import annotations

import re
from typing import Self

import msgspec

_POSITION = re.compile(r"([a-z0-9]+(?:-[a-z0-9]+)*)/([0-9]{1,9})/([0-9]{1,18})", re.ASCII)


class Position(msgspec.Struct, frozen=True, order=True):
    """A position in the history of one shard: its entity (as in topic names), its partition, and a ``seq``.

    ``seq`` is the number of journal records of the shard up to there, inclusive: that of the next record. For a
    stateful entity it counts states, and the end of a life is none. It never goes back.

    Its text is ``entity/partition/seq``.
    """

    entity: str
    partition: int
    seq: int

    def __str__(self) -> str:
        return f"{self.entity}/{self.partition}/{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position that a text names; ValueError for another text."""
        if (found := _POSITION.fullmatch(text)) is None:
            raise ValueError(f"{text!r:.200} is not a position: it is entity/partition/seq, as in account/3/128")
        return cls(found[1], int(found[2]), int(found[3]))
