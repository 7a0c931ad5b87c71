"""How a bug is planted for one named test, and the list of those that are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

Patch = pytest.MonkeyPatch


class Mutant(NamedTuple):
    """A planted bug: its docstring is its name. ``found_by`` gets its other arguments from ``given``, then fixtures."""

    plant: Callable[[Patch], None]
    where: str
    found_by: Callable[..., None]
    given: dict[str, Any]


MUTANTS: list[Mutant] = []


def mutant(
    where: str, found_by: Callable[..., None], **given: Any
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a mutant, with the test that finds it and the arguments of one of that test's cases."""

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        MUTANTS.append(Mutant(plant, where, found_by, given))
        return plant

    return register


def swap(patch: Patch, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by the result of ``make`` for it."""
    patch.setattr(owner, name, make(getattr(owner, name)))
