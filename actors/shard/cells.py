"""``Cells``: the entities of a shard. All are in memory; another store with the same methods could replace it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from repertory.actors.entity import Entity


class Cell:
    """One entity: its state, the encoded state, and its position in the journal.

    ``version`` counts the records of this life, ``seq`` is the shard's number of the last one. A life that has ended
    and is not forgotten yet has version 0 and a seq; a life without any record has version 0 and seq -1.
    """

    __slots__ = ("data", "seq", "state", "version")

    def __init__(self, state: Entity, data: bytes, version: int = 0, seq: int = -1) -> None:
        self.state, self.data, self.version, self.seq = state, data, version, seq


class Cells:
    """The cells of one shard by entity key. Owned by the recovery, then by the shard."""

    __slots__ = ("_cells", "get")

    def __init__(self) -> None:
        self._cells: dict[str, Cell] = {}
        #: Return the cell of a key, None if there is none. The dict's own method, since every command calls it.
        self.get: Callable[[str], Cell | None] = self._cells.get

    def put(self, key: str, cell: Cell) -> None:
        """Set the cell of a key, and replace the one before."""
        self._cells[key] = cell

    def remove(self, key: str) -> Cell:
        """Remove the cell of a key and return it; KeyError if there is none."""
        return self._cells.pop(key)

    def keys(self) -> Iterator[str]:
        """Yield the keys that have a cell."""
        return iter(self._cells)

    def items(self) -> Iterator[tuple[str, Cell]]:
        """Yield the keys with their cells."""
        return iter(self._cells.items())

    def __iter__(self) -> Iterator[str]:
        return iter(self._cells)

    def __len__(self) -> int:
        return len(self._cells)
