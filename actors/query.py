"""``@query``: the methods of an entity that answer a question from its state, and their contract.

A query goes through the log like a command, so it sees each command before it that is applied; but it has no context
and no result that is kept. ``actors.shard.query_runner`` answers it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar, get_origin

from repertory.actors.handler import DecidingHandler, E, members, name_of
from repertory.actors.message import Answer, Command, Event, Query, Rejection

Q = TypeVar("Q", bound=Query)
A = TypeVar("A", bound=Answer | Rejection)

_REMEDY = "return Answer classes or Rejection classes"


class QueryHandler(DecidingHandler[E, Q, A]):
    """A ``@query`` method. On the class it is an address (``Account.status``), on an instance a method."""

    kind = "@query"
    takes = (Query,)
    shape = "(self, ask)"
    parameters_max = 1

    def resolve(self, names: Mapping[str, Any]) -> None:
        """Read the annotations; see ``Handler.resolve``."""
        if inspect.isgeneratorfunction(self.function):
            raise self.refusal("is a generator; return one Answer instead of yielding it")
        if inspect.isfunction(self.function) and len(inspect.signature(self.function).parameters) > 2:
            raise self.refusal(
                "must take (self, ask); a query sends and stops nothing, so drop its context, or make it a @command"
            )
        super().resolve(names)

    def _check_kind(self, member: object, parameter: str) -> None:
        if isinstance(member, type) and issubclass(member, Command):
            raise self.refusal(
                f"takes {name_of(member)} as {parameter!r}, which is a Command; make it a @command method"
            )

    def _results(self, annotation: object) -> tuple[tuple[type, ...], bool]:
        return tuple(dict.fromkeys(self._answer(member) for member in members(annotation))), False

    def _answer(self, member: object) -> type:
        what = f"is annotated to return {name_of(member)}"
        if member is Self or member is self.owner:
            raise self.refusal(f"{what}; a query changes no state: {_REMEDY}, or make it a @command")
        if member is type(None):
            raise self.refusal(f"is annotated to return None; an asker waits for its answer: {_REMEDY}")
        if get_origin(member) is tuple or member is tuple:
            raise self.refusal(f"{what}; a query has one answer: put the values into the fields of an Answer")
        if isinstance(member, type) and issubclass(member, Event):
            raise self.refusal(f"{what}, an Event; a query writes nothing: {_REMEDY}, or make it a @command")
        if member in (Answer, Rejection):
            raise self.refusal(f"{what} itself, which has no fields; name the classes that it returns")
        if not isinstance(member, type) or not issubclass(member, Answer | Rejection):
            raise self.refusal(f"{what}, which is no Answer; {_REMEDY}")
        return member


def query(function: Callable[[E, Q], A]) -> QueryHandler[E, Q, A]:
    """Decorate the method that answers one Query: ``(self, ask) -> Answer``. It reads the state, and nothing else."""
    return QueryHandler(function)
