"""``OpenStep``: what a saga waits for, as `SagaKit` shows it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from repertory.actors.effect import Effect
from repertory.actors.handler import CommandHandler, Handler
from repertory.actors.message import Done, Message, Undelivered


class OpenStep(msgspec.Struct, frozen=True):
    """What a saga waits for: a step, or the undo of one (``kind`` "undo"), by the number ``n`` of the step.

    ``receiver``: the handler or the effect that has the ``message``, the class of a signal, None for a sleep.
    ``due_s``: seconds until its time-out or the end of a sleep. ``is_abandoned``: its answer is not for the code.
    ``answers``: the types that `SagaKit.answer` takes for it.
    """

    n: int
    kind: Literal["ask", "require", "perform", "sleep", "signal", "undo"]
    receiver: Handler | Effect[Any, Any] | type[Message] | None = None
    key: str = ""
    message: Message | None = None
    due_s: float | None = None
    is_abandoned: bool = False
    answers: tuple[type[Message], ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.n}"


def answers_of(receiver: Handler | Effect[Any, Any] | None) -> tuple[type[Message], ...]:
    """Return what a receiver may answer."""
    if isinstance(receiver, CommandHandler):
        return receiver.answers
    if not isinstance(receiver, Effect):
        return ()
    signature = receiver.signature
    nothing: Collection[type[Message]] = (Done,) if type(None) in signature.results else ()
    return tuple(dict.fromkeys((*signature.answers, *nothing, Undelivered)))
