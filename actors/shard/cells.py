"""``Cell``: one entity of a shard, in memory."""

from __future__ import annotations

from repertory.actors.entity import Entity


class Cell:
    """One entity in memory: its state, the same as bytes, and its place in the journal.

    ``version`` counts the records of this life, ``seq`` is the shard's number of the last one. A life that ended
    and is not forgotten yet has version 0 and a seq; one that never wrote has version 0 and seq -1.
    """

    __slots__ = ("data", "seq", "state", "version")

    def __init__(self, state: Entity, data: bytes, version: int = 0, seq: int = -1) -> None:
        self.state, self.data, self.version, self.seq = state, data, version, seq
