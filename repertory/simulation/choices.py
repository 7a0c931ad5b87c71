"""One source of every choice of a simulated run: seeded, or replayed from a tape. 0 is always the harmless choice.

A choice is known by the step in which it is made and by its label, not by how many were made before it. So a tape
from which choices were taken away still means the same for those that are left, and a schedule can be minimised.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

#: (step, label, how many of that label came before it in that step) -> what was chosen; choices of 0 are left out.
Place = tuple[int, str, int]
Tape = dict[Place, int]


class Source(Protocol):
    """Where choices come from."""

    def below(self, limit: int, place: Place) -> int:
        """Choose from 0 to ``limit - 1``, all alike."""

    def rarely(self, limit: int, per_mille: int, place: Place) -> int:
        """Choose 0, or in ``per_mille`` of a thousand cases one of 1 to ``limit``."""


class Seeded:
    """Random choices, the same for the same seed in every process and version of Python that we support."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  reproducible on purpose

    def below(self, limit: int, _place: Place) -> int:
        """See ``Source``."""
        return int(self._random.random() * limit)

    def rarely(self, limit: int, per_mille: int, _place: Place) -> int:
        """See ``Source``."""
        drawn = self._random.random() * 1000
        return 0 if drawn >= per_mille else 1 + int(drawn * limit / per_mille)


class FromTape:
    """The choices of a tape, and 0 wherever it says nothing."""

    def __init__(self, tape: Mapping[Place, int]) -> None:
        self._tape = tape

    def below(self, limit: int, place: Place) -> int:
        """See ``Source``."""
        return min(self._tape.get(place, 0), limit - 1)

    def rarely(self, limit: int, _per_mille: int, place: Place) -> int:
        """See ``Source``."""
        return min(self._tape.get(place, 0), limit)


class Choices:
    """Asks a source, and keeps what was not 0 as a tape. Mutable; owned by one run."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._step = 0
        self._counts: dict[str, int] = {}
        self.tape: Tape = {}

    def begin(self, step: int) -> None:
        """Begin a step; its number is part of the name of each choice."""
        self._step = step
        self._counts.clear()

    def below(self, limit: int, label: str) -> int:
        """Choose from 0 to ``limit - 1``."""
        place = self._step, label, self._counts.get(label, 0)
        self._counts[label] = place[2] + 1
        chosen = self._source.below(limit, place)
        if chosen:
            self.tape[place] = chosen
        return chosen

    def rarely(self, limit: int, per_mille: int, label: str) -> int:
        """Choose 0 mostly, else one of 1 to ``limit``."""
        place = self._step, label, self._counts.get(label, 0)
        self._counts[label] = place[2] + 1
        chosen = self._source.rarely(limit, per_mille, place)
        if chosen:
            self.tape[place] = chosen
        return chosen
