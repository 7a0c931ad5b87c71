"""From the path of a request to its operation and key: ``/{entity}/{key}/{handler}``, where a key may contain "/"."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from repertory.actors.placement import checked_key
from repertory.gateway.operations import Operation, Operations
from repertory.gateway.problems import ProblemError, not_found


def routed(scope: Scope, known: Operations) -> tuple[Operation, str]:
    """Return the operation and the key of a request's path; ProblemError (404) if it has none.

    The first segment is the entity and the last the handler; all between is the key. Percent-encoded or not, a "/"
    there is the same.
    """
    entity, _, rest = _path(scope).partition("/")
    key, slash, name = rest.rpartition("/")
    if not slash:
        raise not_found("A path is /{entity}/{key}/{handler}.")
    operation = known.get((entity, name))
    if operation is None:
        raise not_found(_unknown(entity, known))
    _check_utf8(scope)
    try:
        return operation, checked_key(key)
    except ValueError as error:
        raise not_found(f"{str(error)[0].upper()}{str(error)[1:]}.") from None


def check_method(method: str, operation: Operation) -> None:
    """Raise ProblemError (405) unless an operation has a method."""
    if method not in operation.methods:
        allowed = ", ".join(operation.methods)
        raise ProblemError(
            405, "method-not-allowed", "The operation has another method.", f"Use {operation.methods[0]}.",
            headers={"Allow": allowed},
        )  # fmt: skip


def _path(scope: Scope) -> str:
    """Return the path below the one at which the gateway is mounted, without its first "/"."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")).removeprefix("/")


def _unknown(entity: str, known: Operations) -> str:
    """Say which part of a path is unknown, and what there is. A caller's own text is not repeated."""
    names = sorted(handler for owner, handler in known if owner == entity)
    if names:
        return f"The entity {entity} has the handlers {', '.join(names)}."
    entities = sorted({owner for owner, _ in known})
    return f"The entities are {', '.join(entities)}."


def _check_utf8(scope: Scope) -> None:
    """Refuse a path that is not UTF-8: servers replace its bytes, and two keys would become one."""
    try:
        unquote_to_bytes(scope.get("raw_path") or b"").decode()
    except UnicodeDecodeError:
        raise not_found("The key is not UTF-8.") from None
