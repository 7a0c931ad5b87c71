"""The source of all choices of a simulated run: seeded, or replayed from a tape. 0 is always the harmless choice.

A choice is identified by the step in which it is made and by its label, not by the number of choices before it. So the
rest of a tape keeps its meaning when choices are removed from it, and a schedule can be minimised.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

#: (step, label, number of earlier choices with that label in that step) -> the choice; choices of 0 are left out.
Place = tuple[int, str, int]
Tape = dict[Place, int]


class Source(Protocol):
    """A source of choices."""

    def below(self, limit: int, place: Place) -> int:
        """Choose from 0 to ``limit - 1``, with equal probability."""

    def rarely(self, limit: int, per_mille: int, place: Place) -> int:
        """Choose 1 to ``limit`` in ``per_mille`` of a thousand cases, else 0."""


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
    """The choices of a tape, and 0 for every other choice."""

    def __init__(self, tape: Mapping[Place, int]) -> None:
        self._tape = tape

    def below(self, limit: int, place: Place) -> int:
        """See ``Source``."""
        return min(self._tape.get(place, 0), limit - 1)

    def rarely(self, limit: int, _per_mille: int, place: Place) -> int:
        """See ``Source``."""
        return min(self._tape.get(place, 0), limit)


class Choices:
    """Takes choices from a source and records those that are not 0 on a tape. Mutable; owned by one run."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._step = 0
        self._counts: dict[str, int] = {}
        self.tape: Tape = {}

    def begin(self, step: int) -> None:
        """Begin a step; its number identifies the choices made in it."""
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
        """Choose 0 in most cases, else one of 1 to ``limit``."""
        place = self._step, label, self._counts.get(label, 0)
        self._counts[label] = place[2] + 1
        chosen = self._source.rarely(limit, per_mille, place)
        if chosen:
            self.tape[place] = chosen
        return chosen
