"""Handlers that fail when they are told to: the entities of a system, each handler wrapped."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from actors.context import Context
from actors.entity import Behaviour
from actors.handler import Handler
from bridge.region import Role

#: Is called with the cause and the attempt of each command before its handler; raises what the handler is to raise.
Hook = Callable[[str, int], None]

#: More often than any run lets a command be tried.
ALWAYS = 1_000_000


class Curses:
    """Commands whose handlers fail: by cause, what they raise and how often. Owned by one run.

    ``steady``: none fails that did not fail when it was first decided. At least once, what it sent may have left.
    """

    def __init__(self, *, steady: bool = False) -> None:
        self._steady = steady
        #: Armed for the next commands that are handled.
        self.armed: list[tuple[type[BaseException], int]] = []
        self._left: dict[str, tuple[type[BaseException], int]] = {}
        #: How often a handler was made to fail, by cause; whether that was committed is another question.
        self.raised: Counter[str] = Counter()
        #: How many processes died within the handler, by cause.
        self.deaths: Counter[str] = Counter()

    def strike(self, cause: str, _attempt: int) -> None:
        """Raise what is due for a command."""
        if self.armed and cause not in self._left:
            self._left[cause] = self.armed.pop()
        elif self._steady:
            self._left.setdefault(cause, (Exception, 0))
        kind, left = self._left.get(cause, (Exception, 0))
        if left:
            self._left[cause] = kind, left - 1
            self.raised[cause] += 1
            raise kind(f"simulated failure of {cause}")

    def lift(self) -> None:
        """Raise no more. What kills goes on killing: it has to be quarantined."""
        self.armed.clear()
        self._left = {cause: (kind, left if kind is MemoryError else 0) for cause, (kind, left) in self._left.items()}


def wrapped(role: Role, hook: Hook) -> Role:
    """Return a role whose handlers call a hook first. What they do else is not changed by it."""
    behaviour: Behaviour = copy.copy(role.behaviour)
    behaviour.handlers = {message: _wrapped(handler, hook) for message, handler in role.behaviour.handlers.items()}
    return msgspec.structs.replace(role, behaviour=behaviour)


def _wrapped(handler: Handler, hook: Hook) -> Handler:
    function, takes_context = handler.function, handler.takes_context

    def hooked(entity: Any, message: Any, context: Context) -> object:
        hook(context.cause, context.attempt)
        return function(entity, message, context) if takes_context else function(entity, message)

    made = copy.copy(handler)
    made.function, made.takes_context = hooked, True
    return made
