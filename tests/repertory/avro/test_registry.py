"""Avro with a schema registry's framing, against a real HTTP server: what is decoded, dead, or waits."""

from __future__ import annotations

import json
import struct
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import fastavro
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import ActorSystem, Route, Running, SourceRecord, route
from repertory.avro import RegistryUnavailable, SchemaRegistry
from tests.apps.fed import Book, Note

PAYMENT = {
    "type": "record",
    "name": "Payment",
    "namespace": "shop",
    "fields": [
        {"name": "account", "type": "string"},
        {"name": "cents", "type": "long"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "rate", "type": {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}},
        {"name": "note", "type": ["null", "string"], "default": None},
    ],
}
ORDER = {"type": "record", "name": "Order", "fields": [{"name": "payment", "type": "shop.Payment"}]}
AT = datetime(2026, 11, 27, 9, 0, tzinfo=UTC)
VALUE = {"account": "a-1", "cents": 5, "at": AT, "rate": Decimal("1.25"), "note": None}


class Payment(msgspec.Struct):
    """What of a payment is needed."""

    account: str
    cents: int
    at: datetime
    rate: Decimal


class Registry:
    """A registry that serves schemas; it may be slow to learn, down, or no registry at all."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        #: Paths that are redirected, and where to.
        self.moved: dict[str, str] = {}
        self.speaks_http = True
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                registry.asked.append((self.path, self.headers.get("Authorization")))
                if not registry.speaks_http:
                    self.wfile.write(b"220 mail\r\n")
                    return
                missing = 404, json.dumps({"error_code": 40403, "message": "Schema not found"})
                status, body = registry.answers.get(self.path, missing)
                if self.path in registry.moved:
                    status, body = 302, ""
                    registry_url = registry.moved[self.path]
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", registry_url)
                self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def serve(self, path: str, schema: object, **more: object) -> None:
        """Serve a schema."""
        self.answers[path] = 200, json.dumps({"schema": json.dumps(schema), **more})


@contextmanager
def serving() -> Iterator[Registry]:
    """Serve an empty registry."""
    registry = Registry()
    thread = threading.Thread(target=registry.server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        registry.server.shutdown()
        registry.server.server_close()
        thread.join()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Serve a registry with the schema of payments."""
    with serving() as registry:
        registry.serve("/schemas/ids/7", PAYMENT)
        yield registry


def framed(value: object, schema: Any = PAYMENT, schema_id: int = 7) -> bytes:
    """Return framed Avro."""
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(schema), value)
    return struct.pack(">bI", 0, schema_id) + buffer.getvalue()


def test_a_record_is_read_by_the_schema_that_wrote_it(registry: Registry) -> None:
    """Logical types become Python's; the schema is asked for once; headers go along."""
    schemas = SchemaRegistry(registry.url + "/", headers={"Authorization": "Basic eA=="})
    assert schemas.decode(framed(VALUE)) == VALUE
    assert schemas.decode(framed(VALUE), Payment) == Payment("a-1", 5, AT, Decimal("1.25"))
    assert registry.asked == [("/schemas/ids/7", "Basic eA==")]


def test_schemas_may_refer_to_others(registry: Registry) -> None:
    """Those are asked for by subject and version."""
    references = [{"name": "shop.Payment", "subject": "a/b", "version": 3}]
    registry.serve("/schemas/ids/8", ORDER, references=references)
    registry.serve("/subjects/a%2Fb/versions/3", PAYMENT)
    named: dict[str, Any] = {}
    fastavro.parse_schema(PAYMENT, named_schemas=named)
    buffer = BytesIO()
    fastavro.schemaless_writer(buffer, fastavro.parse_schema(ORDER, named_schemas=named), {"payment": VALUE})
    data = struct.pack(">bI", 0, 8) + buffer.getvalue()
    assert SchemaRegistry(registry.url).decode(data) == {"payment": VALUE}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "not null"),
        (b"", "begins with a zero byte"),
        (b'{"account": "a"}', "begins with a zero byte"),
        (struct.pack(">bI", 0, 99), "has no schema 99"),
        (framed(VALUE)[:-3], "does not fit schema 7"),
        (framed(VALUE) + b"x", "1 bytes are left"),
        (struct.pack(">bI", 0, 9), "schema 9 .* is PROTOBUF, not Avro"),
        (struct.pack(">bI", 0, 10), "schema 10 .* is no valid Avro schema"),
        (struct.pack(">bI", 0, 11), "which .* does not have"),
        (struct.pack(">bI", 0, 12), "refers to others without end"),
        (struct.pack(">bI", 0, 13), "schema 13 .* is no valid Avro schema"),
    ],
)
def test_what_is_wrong_with_a_record_is_a_value_error(registry: Registry, data: bytes | None, words: str) -> None:
    """It becomes a dead letter."""
    registry.serve("/schemas/ids/9", "x", schemaType="PROTOBUF")
    registry.serve("/schemas/ids/10", {"type": "nonsense"})
    registry.serve("/schemas/ids/11", ORDER, references=[{"name": "n", "subject": "gone", "version": 1}])
    registry.serve("/schemas/ids/12", ORDER, references=[{"name": "n", "subject": "self", "version": 1}])
    registry.serve("/subjects/self/versions/1", ORDER, references=[{"name": "n", "subject": "self", "version": 1}])
    registry.answers["/schemas/ids/13"] = 200, json.dumps({"schema": "[" * 100_000})
    with pytest.raises(ValueError, match=words):
        SchemaRegistry(registry.url).decode(data)


def test_a_value_that_does_not_fit_the_type_is_a_value_error(registry: Registry) -> None:
    """Its schema is not what the function takes it for."""

    class Other(msgspec.Struct):
        account: int

    with pytest.raises(ValueError, match="Expected `int`"):
        SchemaRegistry(registry.url).decode(framed(VALUE), Other)


class Node(msgspec.Struct):
    """A list, as Avro's specification has it."""

    next: Node | None = None


@pytest.fixture
def recursion_limit() -> Iterator[None]:
    """Have Python's own limit, which Hypothesis raises."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield
    sys.setrecursionlimit(limit)


@pytest.mark.usefixtures("recursion_limit")
def test_a_value_that_is_nested_too_deeply_for_the_type_is_a_value_error(registry: Registry) -> None:
    """Any producer can write one: it is the record that is wrong."""
    schema = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
    registry.serve("/schemas/ids/8", schema)
    data = struct.pack(">bI", 0, 8) + b"\2" * 2_000 + b"\0"
    with pytest.raises(ValueError, match="the data, of schema 8, is nested too deeply"):
        SchemaRegistry(registry.url).decode(data, Node)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_error_or_a_value(data: bytes) -> None:
    """Nothing else comes out of a schema that is known."""
    schemas = SchemaRegistry("http://127.0.0.1:1")
    schemas._schemas[7] = fastavro.parse_schema(PAYMENT)
    with suppress(ValueError):
        schemas.decode(struct.pack(">bI", 0, 7) + data)


@pytest.mark.parametrize(
    "answer",
    [
        (500, "{}"), (401, "{}"), (200, "no json"), (200, "[]"), (200, "{}"), (404, "<html>not here</html>"),
        (404, json.dumps({"error_code": 404, "message": "HTTP 404 Not Found"})), (404, '{"error_code": {}}'),
        (200, "[" * 100_000), (404, "[" * 100_000), (200, '{"schema": "{}", "references": 5}'),
        (200, '{"schema": "{}", "references": [{"subject": "a", "version": "latest"}]}'),
    ],
)  # fmt: skip
def test_a_registry_that_does_not_answer_is_no_fault_of_a_record(registry: Registry, answer: tuple[int, str]) -> None:
    """RegistryUnavailable, at once for a while, and then it is asked again."""
    now_s = [0.0]
    schemas = SchemaRegistry(registry.url, clock=lambda: now_s[0])
    registry.answers["/schemas/ids/7"], right = answer, registry.answers["/schemas/ids/7"]
    for _ in range(3):
        with pytest.raises(RegistryUnavailable, match=r"cannot be asked for /schemas/ids/7"):
            schemas.decode(framed(VALUE))
    assert len(registry.asked) == 1
    registry.answers["/schemas/ids/7"] = right
    now_s[0] = 5.1
    assert schemas.decode(framed(VALUE)) == VALUE


def test_a_server_that_speaks_something_else_is_no_fault_of_a_record(registry: Registry) -> None:
    """As any other registry that does not answer."""
    registry.speaks_http = False
    with pytest.raises(RegistryUnavailable, match=r"cannot be asked for /schemas/ids/7"):
        SchemaRegistry(registry.url).decode(framed(VALUE))


def test_a_user_in_the_url_is_an_authorization(registry: Registry) -> None:
    """It is sent to that registry alone, and no sentence has it."""
    url = registry.url.replace("//", "//ann:s%40cret@")
    schemas = SchemaRegistry(f"{url}/")
    assert schemas.decode(framed(VALUE)) == VALUE
    assert registry.asked == [("/schemas/ids/7", f"Basic {b64encode(b'ann:s@cret').decode()}")]
    with pytest.raises(ValueError, match="has no schema 8") as caught:
        schemas.decode(framed(VALUE, schema_id=8))
    assert "cret" not in str(caught.value)
    with serving() as other:
        other.serve("/there", PAYMENT)
        registry.moved["/schemas/ids/9"] = f"{other.url}/there"
        assert schemas.decode(framed(VALUE, schema_id=9)) == VALUE
        assert other.asked == [("/there", None)]


def test_few_schemas_are_kept(registry: Registry) -> None:
    """The one that was asked for first goes."""
    registry.serve("/schemas/ids/8", PAYMENT)
    schemas = SchemaRegistry(registry.url, schemas_max=1)
    for schema_id in (7, 8, 8, 7):
        schemas.decode(framed(VALUE, schema_id=schema_id))
    assert len(registry.asked) == 3


@pytest.mark.parametrize(
    "url", ["registry:8081", "ftp://registry", "http://", "", "http://ann:secret@host:port", "ftp://ann:secret@host"]
)
def test_a_wrong_url_is_refused(url: str) -> None:
    """When the registry is named, not at the first record; without what it may have of a password."""
    with pytest.raises(ValueError, match="is no URL of a schema registry") as caught:
        SchemaRegistry(url)
    assert "secret" not in str(caught.value)


def test_a_source_waits_for_its_registry(registry: Registry) -> None:
    """Its partition stops while the registry is out of reach, and loses nothing."""
    now_s = [0.0]
    schemas = SchemaRegistry(registry.url, clock=lambda: now_s[0])

    def from_payment(record: SourceRecord) -> Route:
        paid = schemas.decode(record.value, Payment)
        return route(Book.note, paid.account, Note(partition=record.partition, offset=record.offset, index=0))

    system = ActorSystem("avro")
    system.host(Book, partitions=1)
    system.source("payments", "payments", from_payment)
    right = registry.answers.pop("/schemas/ids/7")
    registry.answers["/schemas/ids/7"] = 503, "down"
    with system.start("memory:") as running:
        running.produce("payments", framed(VALUE), partition=0)
        running.produce("payments", b"no avro", partition=1)
        running.settle()
        assert reasons(running) == {0: "failed"}
        assert [letter.source for letter in running.dead_letters()] == ["payments/1@0"]
        registry.answers["/schemas/ids/7"] = right
        now_s[0] = 60
        running.advance(60)
        running.settle()
        assert reasons(running) == {}
        book = running.state(Book, "a-1")
        assert book is not None
        assert book.pages == ((0, 0, 0),)


def reasons(running: Running) -> dict[int, str]:
    """Return why partitions have stopped."""
    return {each.partition: each.stopped.what for each in running.sources() if each.stopped is not None}
