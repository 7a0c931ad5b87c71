"""Handlers with a hook that runs before them: the simulator makes handlers fail, a test kills a process within one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec

from repertory.actors.context import Context
from repertory.actors.entity import Behaviour
from repertory.actors.handler import Handler
from repertory.bridge.hosted_entity import HostedEntity

#: Is called with the cause and the attempt of each command before its handler; what it raises, the handler raises.
Hook = Callable[[str, int], None]


def hooked(hosted: HostedEntity, hook: Hook) -> HostedEntity:
    """Return a hosted entity whose handlers call a hook first and are otherwise unchanged."""
    behaviour: Behaviour = copy.copy(hosted.behaviour)
    behaviour.handlers = {message: _hooked(handler, hook) for message, handler in hosted.behaviour.handlers.items()}
    behaviour.queries = {message: _hooked(handler, hook) for message, handler in hosted.behaviour.queries.items()}
    return msgspec.structs.replace(hosted, behaviour=behaviour)


def _hooked(handler: Handler, hook: Hook) -> Handler:
    function, takes_context = handler.function, handler.takes_context

    def handle(entity: Any, message: Any, context: Context) -> object:
        hook(context.cause, context.attempt)
        return function(entity, message, context) if takes_context else function(entity, message)

    made = copy.copy(handler)
    made.function, made.takes_context = handle, True
    return made
