"""The OpenAPI 3.1 document of a gateway, from the schemas that msgspec makes of messages. Pure."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from repertory.actors.message import TYPE_FIELD, ClockAhead, IdConflict, Message, Rejection, wire_name
from repertory.gateway import problems
from repertory.gateway.operations import Operation
from repertory.gateway.parameters import (
    ANSWER_HEADERS,
    KEY_PARAMETER,
    PREFER_PARAMETER,
    id_parameters,
    parameters_of,
)

#: Where a schema stands.
_TEMPLATE: Final = "#/components/schemas/{name}"

_PROBLEM: Final[Mapping[str, Any]] = {
    "title": "Problem",
    "description": "What went wrong (RFC 9457).",
    "type": "object",
    "properties": {
        "type": {
            "type": "string",
            "format": "uri-reference",
            "description": "The wire name of a rejection, or repertory.…",
        },
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string", "description": "The path of the field that is wrong, as in $.amount"},
    },
    "required": ["type", "title", "status"],
}
#: What every operation may answer, and what only commands do.
_ALWAYS: Final = {
    400: "The input, or its idempotency key, is invalid.",
    404: "There is no such operation, or the key is invalid.",
    405: "The operation has another method.",
    500: "The server failed.",
    503: "Nothing was done: the log cannot be reached, the server is busy, or the message is undeliverable.",
}
_OF_SECURED: Final = {401: "The request says not who sends it.", 403: "The request is not allowed."}
_OF_BODIES: Final = {
    408: "The body is late.",
    413: "The message is too large.",
    415: "The body is not application/json.",
}
_OF_COMMANDS: Final = {
    410: "The idempotency key is too old: the command may have been applied, or not.",
    422: "The idempotency key was used for another message.",
    504: "The outcome is unknown: send the same request again, with the same key.",
}
_OF_QUERIES: Final = {504: "There was no answer in time."}

#: Of a saga's start, or a signal, that is answered later.
_STILL_OPEN: Final[Mapping[str, Any]] = {
    "description": "There is no answer yet: GET the same path with the same key later.",
    "headers": {"Location": {"schema": {"type": "string"}}, "Retry-After": {"schema": {"type": "integer"}}},
}

Document = dict[str, Any]


def document(
    name: str,
    operations: Iterable[Operation],
    statuses: Mapping[type[Rejection], int],
    *,
    requires_key: bool,
    is_secured: bool,
) -> Document:
    """Return the document. ``name`` is the system's; ``is_secured``: a bearer token is asked for."""
    chosen = list(operations)
    schemas = _Schemas(chosen)
    paths: dict[str, Any] = {}
    for operation in chosen:
        method = "get" if operation.has_parameters else "post"
        path = f"/{operation.entity_name}/{{key}}/{operation.name}"
        described = _Description(operation, schemas, {**problems.STATUSES, **statuses})
        paths[path] = {method: described.made(requires_key=requires_key, is_secured=is_secured)}
        if operation.is_long:
            paths[path]["get"] = described.fetched(is_secured=is_secured)
    components: dict[str, Any] = {"schemas": schemas.used(paths)}
    made: Document = {
        "openapi": "3.1.0",
        "info": {"title": name, "version": "1", "description": "Commands and queries of a Repertory system."},
        "servers": [{"url": ".", "description": "Where this document is."}],
        "paths": paths,
        "components": components,
    }
    if is_secured:
        components["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"bearer": []}]
    return made


def encoded(made: Document) -> bytes:
    """Return a document as JSON."""
    return msgspec.json.encode(made)


class _Schemas:
    """The schemas of all messages of the operations. ``of`` refers to an answer's, ``body`` returns a command's."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        types: dict[type[Message], None] = {}
        for operation in operations:
            types |= dict.fromkeys((operation.message_type, *operation.handler.answers, IdConflict, ClockAhead))
        references, found = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
        self._references = dict(zip(types, references, strict=True))
        self._found: dict[str, Any] = {name: _portable(schema) for name, schema in found.items()}

    def of(self, message_type: type[Message]) -> dict[str, Any]:
        return self._references[message_type]

    def body(self, message_type: type[Message]) -> dict[str, Any]:
        """Return the schema of a message without ``type``, which the path says already."""
        made = dict(self._found[self.of(message_type)["$ref"].rpartition("/")[2]])
        made["properties"] = {name: each for name, each in made["properties"].items() if name != TYPE_FIELD}
        made["required"] = [name for name in made["required"] if name != TYPE_FIELD]
        return {**made, "additionalProperties": False}

    def used(self, paths: object) -> dict[str, Any]:
        """Return the schemas to which the paths refer, and those to which these refer."""
        used: dict[str, Any] = {"Problem": _PROBLEM}
        waiting: list[object] = [paths]
        while waiting:
            for name in _referred(waiting.pop()):
                if name in self._found and name not in used:
                    used[name] = self._found[name]
                    waiting.append(used[name])
        return dict(sorted(used.items()))


class _Description:
    """Describes one operation."""

    def __init__(self, operation: Operation, schemas: _Schemas, statuses: Mapping[type[Rejection], int]) -> None:
        self._operation, self._schemas, self._statuses = operation, schemas, statuses

    def made(self, *, requires_key: bool, is_secured: bool) -> dict[str, Any]:
        operation = self._operation
        text = inspect.cleandoc(operation.handler.function.__doc__ or operation.message_type.__doc__ or "")
        described: dict[str, Any] = {
            "operationId": f"{operation.entity_name}.{operation.name}",
            "tags": [operation.entity_name],
            "summary": text.split("\n", maxsplit=1)[0] or wire_name(operation.message_type),
            "description": text,
            "parameters": [KEY_PARAMETER],
        }
        body = self._schemas.body(operation.message_type)
        if operation.has_parameters:
            described["parameters"] += parameters_of(body)
        else:
            described["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
        if not operation.is_query:
            described["parameters"] += id_parameters(is_required=requires_key)
        described["responses"] = self._responses(is_secured=is_secured)
        if operation.is_long:
            described["parameters"].append(PREFER_PARAMETER)
        return described

    def fetched(self, *, is_secured: bool) -> dict[str, Any]:
        """Describe how the answer to an earlier request is fetched."""
        name = f"{self._operation.entity_name}.{self._operation.name}"
        return {
            "operationId": f"{name}.answer",
            "tags": [self._operation.entity_name],
            "summary": f"The answer to an earlier {self._operation.name}, by its idempotency key.",
            "parameters": [KEY_PARAMETER, *id_parameters(is_required=True)],
            "responses": self._responses(is_secured=is_secured, has_body=False),
        }

    def _responses(self, *, is_secured: bool, has_body: bool = True) -> dict[str, Any]:
        operation = self._operation
        texts = {**_ALWAYS, **(_OF_SECURED if is_secured else {})}
        texts |= _OF_QUERIES if operation.is_query else _OF_COMMANDS
        texts |= {} if operation.has_parameters or not has_body else _OF_BODIES
        rejections: dict[int, list[type[Message]]] = {}
        own = () if operation.is_query else (IdConflict, ClockAhead)
        for answer in (*operation.handler.answers, *own):
            if issubclass(answer, Rejection):
                rejections.setdefault(self._statuses.get(answer, problems.REJECTED), []).append(answer)
        for status, answers in rejections.items():
            if status not in texts:
                texts[status] = f"Rejected: {', '.join(wire_name(answer) for answer in answers)}."
        responses = {"200": self._answered(), **({"202": _STILL_OPEN} if operation.is_long else {})}
        for status in sorted(texts):
            responses[str(status)] = self._problem(status, texts[status], rejections.get(status, []))
        return responses

    def _answered(self) -> dict[str, Any]:
        answers = [answer for answer in self._operation.handler.answers if not issubclass(answer, Rejection)]
        headers = {} if self._operation.is_query else ANSWER_HEADERS
        return {
            "description": f"Answered: {', '.join(map(wire_name, answers))}.",
            "content": {"application/json": {"schema": self._one_of(answers)}},
            **({"headers": headers} if headers else {}),
        }

    def _problem(self, status: int, text: str, rejections: list[type[Message]]) -> dict[str, Any]:
        schema: dict[str, Any] = {"$ref": _TEMPLATE.format(name="Problem")}
        if rejections:
            member = {"type": "object", "properties": {"rejection": self._one_of(rejections)}}
            schema = {"allOf": [schema, member]}
        response: dict[str, Any] = {"description": text, "content": {problems.MEDIA_TYPE: {"schema": schema}}}
        if status == 503:
            response["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}
        return response

    def _one_of(self, types: list[type[Message]]) -> dict[str, Any]:
        references = {wire_name(each): self._schemas.of(each) for each in types}
        mapping = {name: reference["$ref"] for name, reference in references.items()}
        return {
            "oneOf": list(references.values()),
            "discriminator": {"propertyName": TYPE_FIELD, "mapping": mapping},
        }


def _referred(node: object) -> Iterable[str]:
    """Yield the names of the schemas to which a part of a document refers."""
    if isinstance(node, dict):
        for name, part in node.items():
            if name == "$ref" and isinstance(part, str):
                yield part.rpartition("/")[2]
            else:
                yield from _referred(part)
    elif isinstance(node, list):
        for part in node:
            yield from _referred(part)


def _portable(node: Any) -> Any:
    """Return a schema with patterns of ECMAScript, where Python's anchors of a whole text are not known."""
    if isinstance(node, dict):
        made = {name: _portable(part) for name, part in node.items()}
        if isinstance(pattern := made.get("pattern"), str):
            made["pattern"] = re.sub(r"\\Z\Z", "$", re.sub(r"\A\\A", "^", pattern))
        return made
    return [_portable(part) for part in node] if isinstance(node, list) else node
