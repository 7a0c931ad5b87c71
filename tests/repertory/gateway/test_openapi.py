"""The OpenAPI document: valid, and true about bodies, answers and headers."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from examples import banking
from repertory import ActorSystem
from repertory.gateway import Gateway
from repertory.gateway.ids import KEY, MADE_AT
from tests.apps import fronted
from tests.repertory.gateway.in_memory import InMemoryAsker


def document(system: ActorSystem = fronted.system, **options: Any) -> dict[str, Any]:
    """Return the document as clients get it."""
    front = Gateway(system, client=InMemoryAsker(), **options)

    async def got() -> httpx.Response:
        transport = httpx.ASGITransport(app=front.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/openapi.json")

    answer = asyncio.run(got())
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("system", [fronted.system, banking.system], ids=["fronted", "banking"])
def test_the_document_is_valid(system: ActorSystem) -> None:
    """The schema of OpenAPI 3.1, and JSON Schema 2020-12 in it."""
    for options in ({}, {"authorize": lambda *_: True}, {"requires_key": False}):
        OpenAPIV31SpecValidator(document(system, **options)).validate()


def test_every_operation_is_described_and_nothing_else() -> None:
    """``@reply`` and ``@event`` methods are not asked from outside."""
    assert set(document()["paths"]) == {
        f"/web-order/{{key}}/{name}" for name in ("place-order", "cancel", "break-it", "be-careful", "status", "find")
    }
    one = document(expose=[fronted.WebOrder.cancel])
    assert list(one["paths"]) == ["/web-order/{key}/cancel"]
    assert set(one["components"]["schemas"]) == {"ClockAhead", "IdConflict", "OrderCancelled", "Problem", "Undelivered"}


def test_a_body_has_no_type_and_no_other_fields() -> None:
    """The path says which message it is; patterns are anchored as ECMAScript does."""
    body = document()["paths"]["/web-order/{key}/place-order"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {"lines", "note", "token"}
    assert schema["required"] == ["lines"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["note"]["pattern"] == "^[a-z ]{0,20}$"


def test_answers_are_told_apart_by_their_type() -> None:
    """200 has the events, 409 and overridden statuses the rejections, 503 what is undelivered."""
    found = document(status={fronted.AlreadyPlaced: 422})
    responses = found["paths"]["/web-order/{key}/place-order"]["post"]["responses"]
    schema = responses["200"]["content"]["application/json"]["schema"]
    assert schema["discriminator"]["mapping"] == {"OrderPlaced": "#/components/schemas/OrderPlaced"}
    assert found["components"]["schemas"]["OrderPlaced"]["properties"]["type"] == {"enum": ["OrderPlaced"]}

    def rejections(status: str) -> list[str]:
        members = responses[status]["content"]["application/problem+json"]["schema"]["allOf"][1]
        return list(members["properties"]["rejection"]["discriminator"]["mapping"])

    assert rejections("409") == ["EmptyOrder"]
    assert rejections("422") == ["AlreadyPlaced", "IdConflict"]
    assert rejections("503") == ["Undelivered"]
    assert "Done" in str(found["paths"]["/web-order/{key}/break-it"]["post"]["responses"]["200"])


def test_commands_take_keys_and_queries_parameters() -> None:
    """A query has no idempotency key; its scalars are parameters."""
    paths = document()["paths"]
    named = {each["name"]: each["required"] for each in paths["/web-order/{key}/cancel"]["post"]["parameters"]}
    assert named == {"key": True, KEY: True, MADE_AT: False}
    optional = document(requires_key=False)["paths"]["/web-order/{key}/cancel"]["post"]["parameters"]
    assert {each["name"]: each["required"] for each in optional}[KEY] is False
    query = paths["/web-order/{key}/status"]["get"]
    assert [each["name"] for each in query["parameters"]] == ["key", "detailed", "since"]
    assert "requestBody" not in query
    assert [each["name"] for each in paths["/web-order/{key}/find"]["post"]["parameters"]] == ["key"]


def test_a_token_is_a_scheme() -> None:
    """Where a bearer token is asked for, the document says so."""
    assert "security" not in document()
    found = document(authorize=lambda *_: True)
    assert found["security"] == [{"bearer": []}]
    assert "401" in found["paths"]["/web-order/{key}/cancel"]["post"]["responses"]


def test_the_document_is_that_of_the_gateway() -> None:
    """An application may take it from there, for a document of its own."""
    front = Gateway(fronted.system, client=InMemoryAsker())
    assert document() == msgspec.json.decode(msgspec.json.encode(front.document))
