"""What a client does about an ask that it made before, by the ask's id: fetch the answer, revoke the ask.

Both are requests to the shard (``actors.control``), sent and answered as an ask is. Before it comes ``client_core``.
"""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from repertory.actors.asks import AskId
from repertory.actors.control import FetchAnswer, NotAsked, Revoke, Revoked, StillOpen
from repertory.actors.handler import CommandHandler
from repertory.actors.message import Event, Message, Rejection
from repertory.bridge.system.ask import Ask, AskResult, Doubt
from repertory.bridge.system.client_core import ClientCore

#: What ``client.answer`` returns: the answer, or why there is none.
Found: TypeAlias = AskResult[Event | Rejection] | StillOpen | NotAsked
#: What ``client.revoke`` returns: that the ask is revoked, or why it is not.
RevokeResult: TypeAlias = Revoked | AskResult[Event | Rejection] | StillOpen | NotAsked


def fetching(
    core: ClientCore, handler: CommandHandler[Any, Any, Any], key: str, ask_id: AskId, timeout_s: float
) -> Ask:
    """Return the request for the answer to an id. Raises ValueError."""
    named = _checked(ask_id)
    doubt = Doubt("was not asked for its answer", "fetch it again", named)
    return core.by_id(handler, key, FetchAnswer(id=named.id, made_at_ms=named.made_at_ms), timeout_s, doubt)


def revoking(
    core: ClientCore, handler: CommandHandler[Any, Any, Any], key: str, ask_id: AskId, timeout_s: float
) -> Ask:
    """Return the request to revoke an ask. Raises ValueError."""
    named = _checked(ask_id)
    doubt = Doubt("may be revoked, now or later", "revoke it again: that does no harm", named)
    return core.by_id(handler, key, Revoke(id=named.id, made_at_ms=named.made_at_ms), timeout_s, doubt)


def found(ask: Ask, result: AskResult[Message]) -> Found:
    """Return what a shard has said to ``fetching``. Raises OutcomeUnknown if it does not know such requests."""
    if not result.again and not isinstance(result.value, StillOpen | NotAsked):
        raise ask.misunderstood(result.value)
    return cast(Found, result if result.again else result.value)


def revoked(ask: Ask, result: AskResult[Message]) -> RevokeResult:
    """Return what a shard has said to ``revoking``. Raises OutcomeUnknown if it does not know such requests."""
    if not result.again and isinstance(result.value, Revoked):
        return result.value
    return found(ask, result)


def _checked(ask_id: AskId) -> AskId:
    if not isinstance(ask_id, AskId):
        raise ValueError(f"id is an AskId(id, made_at=…), not {type(ask_id).__name__}")  # noqa: TRY004
    return ask_id
