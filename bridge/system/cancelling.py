"""What a client does to cancel a saga: it asks its key, as it asks any command. Before it comes ``client_core``."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, cast

from repertory.actors.message import Done, Undelivered
from repertory.actors.saga.messages import CancelSaga, NoSuchSaga, TooLate
from repertory.actors.saga.saga import Saga
from repertory.bridge.system.ask import Ask
from repertory.bridge.system.client_core import ClientCore

if TYPE_CHECKING:
    from repertory.actors.handler import CommandHandler

#: What ``client.cancel`` returns.
CancelResult: TypeAlias = Done | TooLate | NoSuchSaga | Undelivered


def cancelling(core: ClientCore, saga: type[Saga], key: str, reason: str, timeout_s: float) -> Ask:
    """Return the request to cancel a saga, as an ask that is not sent yet. Raises ValueError and Refused."""
    if not isinstance(saga, type) or not issubclass(saga, Saga):
        raise ValueError(f"{saga!r:.100} is no saga class, such as Transfer; only sagas can be cancelled")  # noqa: TRY004
    if saga not in core.system.hosted:
        raise ValueError(f"{core.system.name} hosts no {saga.__name__}; add system.host({saga.__name__})")
    handler = core.system.hosted[saga].behaviour.handlers[CancelSaga]
    return core.ask(
        cast("CommandHandler[Saga, CancelSaga, None]", handler),
        key,
        CancelSaga(reason=reason),
        {"timeout_s": timeout_s},
    )
