"""The messages that a saga sends to itself, and the ids by which the answers to its steps are known. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from repertory.actors.message import Command

#: What the ``about`` of a saga's asks and effects begins with.
STEP_MARK = "~"
_ID = re.compile(r"~([0-9]{1,18})/([0-9]{1,9})(?:/([0-9]{1,9}))?")


class StepAnswer(Command, name="repertory.step-answer"):
    """The answer to a step, as it came. It is made of a record that answers a saga, and never read as a message."""

    step: str
    value: bytes
    rejected: bool


class StepDue(Command, name="repertory.step-due"):
    """The time of a step is over: a timer sends it."""

    step: int


class ResultDue(Command, name="repertory.result-due"):
    """The result of a saga was kept long enough: a timer sends it."""


#: What must never become a dead letter: the saga would wait for ever.
OWED: tuple[type[Command], ...] = (StepAnswer, StepDue, ResultDue)


class StepId(NamedTuple):
    """A step of one life of a saga, or an attempt of its undo (0: the step itself)."""

    life: int
    n: int
    undo: int = 0

    @classmethod
    def parse(cls, about: str) -> StepId | None:
        """Return the step that the ``about`` of an answer names; None if it names no step."""
        if (found := _ID.fullmatch(about)) is None:
            return None
        return cls(int(found[1]), int(found[2]), int(found[3] or 0))


def step_id(life: int, n: int) -> str:
    """Return the ``about`` of a step."""
    return f"{STEP_MARK}{life}/{n}"


def revoke_id(life: int, n: int) -> str:
    """Return the ``about`` of the revoke of a step, whose answer nobody waits for."""
    return f"{step_id(life, n)}/revoke"


def undo_id(life: int, n: int, attempt: int) -> str:
    """Return the ``about`` of an attempt of the undo of a step."""
    return f"{STEP_MARK}{life}/{n}/{attempt}"
