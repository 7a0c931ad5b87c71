"""Example 3, numbers at a desk, over HTTP: ``repertory serve examples.front:system --log memory:``.

``http://127.0.0.1:8080/docs`` shows what can be asked, and lets you try it. On a log that lasts, nodes do the work:
``repertory run examples.front:system --log sqlite:front.db``, and beside it ``repertory serve`` on the same log, or
your own gateway in any ASGI server: ``REPERTORY_LOG=sqlite:front.db uvicorn --factory examples.front:app``.
"""

import os
from typing import Self

from repertory import ActorSystem, Answer, Command, Entity, Event, Query, Rejection, command, event, query
from repertory.gateway import Gateway


class Draw(Command):
    """Draw the next number."""

    name: str


class Drawn(Event):
    """A number was drawn."""

    number: int


class Closed(Rejection):
    """There are no more numbers today."""


class GetLast(Query):
    """Which number was drawn last."""


class Last(Answer):
    """This one."""

    number: int


class Desk(Entity):
    """A desk; its key is its name."""

    number: int = 0

    @command
    def draw(self, _cmd: Draw) -> Drawn | Closed:
        """``POST /desk/{key}/draw``, with an ``Idempotency-Key``: whoever sends a request twice draws one number."""
        return Drawn(number=self.number + 1) if self.number < 99 else Closed()

    @query
    def last(self, _ask: GetLast) -> Last:
        """``GET /desk/{key}/last``."""
        return Last(number=self.number)

    @event
    def drawn(self, evt: Drawn) -> Self:
        return self.replace(number=evt.number)


system = ActorSystem("desks")
system.host(Desk, partitions=2)


def app() -> object:
    """Return the ASGI application: mount it in yours, or run it. It connects at the start."""
    return Gateway(system, log=os.environ["REPERTORY_LOG"], expose=[Desk.draw, Desk.last], status={Closed: 422}).app
