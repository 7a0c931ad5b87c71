"""The front through its ASGI interface: paths, bodies, ids, answers, and each problem."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.bridge.log.errors import LogUnavailable, LogUnusable, OutcomeUnknown, Refused
from repertory.gateway import Gateway, GatewayLimits, ids
from tests.apps.fronted import AlreadyPlaced, WebOrder, system
from tests.repertory.gateway.in_memory import InMemoryAsker

ORDER = {"lines": [{"item": "tea", "count": 2}]}
PLACE = "/web-order/o-1/place-order"


def new_key() -> str:
    return ids.new_id(time.time(), os.urandom(10)).id


def gateway(asker: InMemoryAsker, **options: Any) -> Gateway:
    return Gateway(system, client=asker, **options)


def run(front: Gateway, talk: Callable[[httpx.AsyncClient], Awaitable[Any]]) -> Any:
    """Talk to a gateway through ASGI."""

    async def talked() -> Any:
        transport = httpx.ASGITransport(app=front.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await talk(client)

    return asyncio.run(talked())


def sent(
    front: Gateway, method: str, path: str, headers: dict[str, str] | None = None, **options: Any
) -> httpx.Response:
    """Send one request; a command gets a new key unless ``headers`` are given."""
    chosen = {ids.KEY: new_key()} if headers is None else headers
    answer = run(front, lambda client: client.request(method, path, headers=chosen, **options))
    assert isinstance(answer, httpx.Response)
    assert "Traceback" not in answer.text
    return answer


def problem(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    """Assert that an answer is a problem, and return it."""
    found: dict[str, Any] = answer.json()
    assert (answer.status_code, found["type"]) == (status, name), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert found["status"] == status
    assert found["title"]
    return found


@pytest.fixture
def asker() -> InMemoryAsker:
    return InMemoryAsker()


def test_a_command_is_answered_with_its_event_and_position(asker: InMemoryAsker) -> None:
    """200 with the event's wire name in ``type``, and the position in a header."""
    answer = sent(gateway(asker), "POST", PLACE, json=ORDER)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"type": "OrderPlaced", "lines": [{"item": "tea", "count": 2}]}
    assert answer.headers["repertory-position"].startswith("weborder/")
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize(
    ("written", "key"),
    [("a/b", "a/b"), ("a%2Fb", "a/b"), ("a%20b%C3%A9", "a bé"), ("a//", "a//"), ("%E2%82%AC", "€"), ("a%25b", "a%b")],
)
def test_a_key_may_hold_anything_a_key_holds(asker: InMemoryAsker, written: str, key: str) -> None:
    """What stands between the first and the last "/" is the key, decoded once."""
    assert sent(gateway(asker), "POST", f"/web-order/{written}/place-order", json=ORDER).status_code == 200
    assert [found for _, found in asker._kits] == [key]


@pytest.mark.parametrize(
    "path",
    ["/", "/web-order", "/web-order/place-order", "/shop/o-1/place-order", "/web-order/o-1/place_order",
     "/web-order/o-1/placed", "/web-order//place-order", "/web-order/%00/place-order", "/web-order/%FF/place-order",
     f"/web-order/{'x' * 256}/place-order", "/WEB-ORDER/o-1/place-order"],
)  # fmt: skip
def test_a_path_that_leads_nowhere_is_404(asker: InMemoryAsker, path: str) -> None:
    """An unknown entity, an unknown handler, no key, and a key that no entity can have."""
    problem(sent(gateway(asker), "POST", path, json=ORDER), 404, "repertory.not-found")
    assert asker.asked == 0


def test_only_what_is_exposed_can_be_asked(asker: InMemoryAsker) -> None:
    """``expose`` names the handlers; what is no command or query of the system is refused with a sentence."""
    front = gateway(asker, expose=[WebOrder.cancel])
    assert sent(front, "POST", "/web-order/o-1/cancel", json={}).status_code == 200
    problem(sent(front, "POST", PLACE, json=ORDER), 404, "repertory.not-found")
    for wrong in (WebOrder.placed, "deposit"):
        with pytest.raises(ValueError, match=r"expose: .* is not a @command or @query"):
            gateway(asker, expose=[wrong])


def test_a_query_of_scalars_is_a_get(asker: InMemoryAsker) -> None:
    """Its fields are parameters, converted from text; HEAD is a GET; POST is refused."""
    front = gateway(asker)
    sent(front, "POST", PLACE, json=ORDER)
    answer = sent(front, "GET", "/web-order/o-1/status?detailed=true&since=5", {})
    assert answer.json() == {"type": "OrderStatus", "lines": 1, "detailed": True, "since": 5}
    assert sent(front, "HEAD", "/web-order/o-1/status", {}).status_code == 200
    refused = sent(front, "POST", "/web-order/o-1/status", {}, json={})
    problem(refused, 405, "repertory.method-not-allowed")
    assert refused.headers["allow"] == "GET, HEAD"


def test_other_queries_and_commands_are_posts(asker: InMemoryAsker) -> None:
    """A query with a list takes a body and no idempotency key; GET is refused for both."""
    front = gateway(asker)
    assert sent(front, "POST", "/web-order/o-1/find", {}, json={"items": ["tea"]}).json()["lines"] == 0
    for path in ("/web-order/o-1/find", PLACE):
        answer = sent(front, "GET", path)
        problem(answer, 405, "repertory.method-not-allowed")
        assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("detailed=maybe", "$.detailed"),
        ("since=x", "$.since"),
        ("strange=1", "$.strange"),
        ("since=1&since=2", "$.since"),
    ],
)
def test_a_wrong_parameter_is_400_with_its_name(asker: InMemoryAsker, query: str, field: str) -> None:
    """One that cannot be converted, is unknown, or is given twice."""
    answer = sent(gateway(asker), "GET", f"/web-order/o-1/status?{query}", {})
    assert problem(answer, 400, "repertory.bad-input")["field"] == field


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ('{"lines": "x"}', "$.lines"),
        ('{"lines": [{"item": "tea", "count": 0}]}', "$.lines[0].count"),
        ('{"lines": [{"item": "tea", "count": "2"}]}', "$.lines[0].count"),
        ('{"lines": [], "note": "X"}', "$.note"),
        ('{"lines": [], "nota": "x"}', "$.nota"),
        ('{"lines": [{"item": "tea", "count": 1, "price": 2}]}', "$.lines.price"),
        ('{"lines": [], "type": "Other"}', "$.type"),
        ('{"lines": [], "token": "?"}', "$.token"),
        ("{}", "$"),
        ("", "$"),
        ("[]", "$"),
        ("null", "$"),
        ('{"lines": [{"item": "tea", "count": 1180591620717411303424}]}', None),
        ('{"lines": [], "extra": 1180591620717411303424}', None),
        (r'{"lines": [], "note": "\ud800"}', None),
        ('{"lines": [], "lines": 1}', "$.lines"),
        ('{"lines": [', None),
        ("\udcff", None),
        ('{"lines": [], "extra": ' + "[" * 100_000, None),
        ('{"lines": [], "extra": ' + "[" * 500 + "]" * 500 + "}", None),
    ],
)  # fmt: skip
def test_a_wrong_body_is_400_with_the_path_of_the_field(asker: InMemoryAsker, body: str, field: str | None) -> None:
    """A wrong type, a limit, a pattern, a field too much, not an object, not JSON, not UTF-8, nested too deeply."""
    headers = {ids.KEY: new_key(), "content-type": "application/json"}
    answer = sent(gateway(asker), "POST", PLACE, headers, content=body.encode("utf-8", "surrogateescape"))
    assert problem(answer, 400, "repertory.bad-input").get("field") == field
    assert asker.asked == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(2**70),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["item", "count", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    st.binary(max_size=20)
    | st.dictionaries(st.sampled_from(["lines", "note", "token", "type", "x"]), JSON).map(
        lambda each: json.dumps(each).encode()
    )
    | st.integers(1, 3_000).map(lambda depth: b'{"lines": [], "x": ' + b"[" * depth + b"]" * depth + b"}")
)
def test_no_body_is_an_error_of_ours(body: bytes) -> None:
    """Whatever is sent is answered with what the message does, or with what is wrong with it."""
    headers = {ids.KEY: new_key(), "content-type": "application/json"}
    assert sent(gateway(InMemoryAsker()), "POST", PLACE, headers, content=body).status_code in (200, 400, 409)


def test_what_a_message_class_raises_is_not_told(asker: InMemoryAsker) -> None:
    """An error of user code in a decoder is a 400 without its text, unless it is a ValueError, which msgspec shows."""
    answer = sent(gateway(asker), "POST", "/web-order/o-1/be-careful", json={"secret": "s3cr3t"})
    problem(answer, 400, "repertory.bad-input")
    assert "s3cr3t" not in answer.text


@pytest.mark.parametrize(
    "kind",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", "application/jsonp",
     "application/problem+json"],
)  # fmt: skip
def test_a_body_that_is_not_json_by_name_is_415(asker: InMemoryAsker, kind: str | None) -> None:
    """A page of another origin can send text/plain without a preflight."""
    headers = {ids.KEY: new_key()} | ({} if kind is None else {"content-type": kind})
    answer = sent(gateway(asker), "POST", PLACE, headers, content=msgspec.json.encode(ORDER))
    problem(answer, 415, "repertory.unsupported-media-type")
    assert asker.asked == 0


def test_json_in_utf8_is_json(asker: InMemoryAsker) -> None:
    """The charset may be named; a compressed body is refused."""
    headers = {ids.KEY: new_key(), "content-type": "Application/JSON; charset=UTF-8"}
    front = gateway(asker)
    assert sent(front, "POST", PLACE, headers, content=msgspec.json.encode(ORDER)).status_code == 200
    answer = sent(front, "POST", PLACE, {**headers, "content-encoding": "gzip"}, content=b"x")
    problem(answer, 415, "repertory.unsupported-media-type")


def test_a_body_over_the_limit_is_413_however_it_is_sent(asker: InMemoryAsker) -> None:
    """By its declared length, and where that is missing while it streams: the rest is not read."""
    front = gateway(asker, limits=GatewayLimits(body_bytes_max=1_000))
    taken = 0

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(1_000):
            taken += 1
            yield b" " * 100

    problem(sent(front, "POST", PLACE, json={"lines": [], "note": "x" * 2_000}), 413, "repertory.too-large")
    headers = {ids.KEY: new_key(), "content-type": "application/json"}
    answer = sent(front, "POST", PLACE, headers, content=chunks())
    problem(answer, 413, "repertory.too-large")
    assert answer.headers["connection"] == "close"
    assert taken <= 12
    assert asker.asked == 0


def test_a_message_that_a_shard_would_not_read_is_413(asker: InMemoryAsker) -> None:
    """The system's own limit holds too, whatever the gateway's is."""
    front = gateway(asker, limits=GatewayLimits(body_bytes_max=10_000_000))
    body = {"lines": [{"item": "x" * 1_100_000, "count": 1}]}
    problem(sent(front, "POST", PLACE, json=body), 413, "repertory.too-large")


def test_a_late_body_is_408(asker: InMemoryAsker) -> None:
    """A body that does not come holds a request no longer than the limit."""

    async def talk() -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            await asyncio.Event().wait()
            return {}

        async def send(message: dict[str, Any]) -> None:
            answer.append(message)

        headers = [(b"content-type", b"application/json"), (ids.KEY.lower().encode(), new_key().encode())]
        scope = {"type": "http", "method": "POST", "path": PLACE, "headers": headers, "query_string": b""}
        front = gateway(asker, limits=GatewayLimits(body_timeout_s=0.01))
        await front.app(scope, receive, send)  # type: ignore[arg-type]
        return answer

    start, body = asyncio.run(talk())
    assert start["status"] == 408
    assert msgspec.json.decode(body["body"])["type"] == "repertory.timeout"


def test_a_request_over_the_number_is_503(asker: InMemoryAsker) -> None:
    """Those under way are answered; one more is told when to come again."""
    front = gateway(asker, limits=GatewayLimits(requests_max=1))
    asker.released.clear()

    async def talk(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        first = asyncio.create_task(client.post(PLACE, json=ORDER, headers={ids.KEY: new_key()}))
        await asker.arrivals.acquire()
        second = await client.get("/web-order/o-1/status")
        asker.released.set()
        return await first, second

    first, second = run(front, talk)
    assert first.status_code == 200
    problem(second, 503, "repertory.busy")
    assert second.headers["retry-after"] == "1"


def test_a_rejection_is_409_or_as_its_type_says(asker: InMemoryAsker) -> None:
    """The problem's type is the wire name, and the rejection's fields are in it."""
    front = gateway(asker, status={AlreadyPlaced: 422})
    found = problem(sent(front, "POST", PLACE, json={"lines": []}), 409, "EmptyOrder")
    assert found["title"] == "An order needs a line."
    assert found["rejection"] == {"type": "EmptyOrder"}
    sent(front, "POST", PLACE, json=ORDER)
    answer = sent(front, "POST", PLACE, json=ORDER)
    assert problem(answer, 422, "AlreadyPlaced")["rejection"] == {"type": "AlreadyPlaced", "lines": 1}
    assert answer.headers["repertory-position"]


def test_statuses_are_checked(asker: InMemoryAsker) -> None:
    """Only rejections have one, and only of an error."""
    for wrong in ({AlreadyPlaced: 200}, {AlreadyPlaced: True}, {WebOrder: 422}):
        with pytest.raises(ValueError, match="status: "):
            gateway(asker, status=wrong)


def test_what_cannot_be_delivered_is_503(asker: InMemoryAsker) -> None:
    """A dead letter's reason is told; to ask again at once would not help, so no time is named."""
    answer = sent(gateway(asker), "POST", "/web-order/o-1/break-it", json={})
    assert problem(answer, 503, "Undelivered")["detail"] == "it broke"
    assert "retry-after" not in answer.headers


def test_a_log_that_is_away_is_503_with_a_time(asker: InMemoryAsker) -> None:
    """The log's own text may name hosts, and is not told."""
    asker.failure = LogUnavailable("kafka-7.internal:9092 is away")
    answer = sent(gateway(asker), "POST", PLACE, json=ORDER)
    problem(answer, 503, "repertory.log-unavailable")
    assert answer.headers["retry-after"] == "1"
    assert "kafka-7" not in answer.text


def test_other_errors_of_the_log_are_for_an_operator(asker: InMemoryAsker, caplog: pytest.LogCaptureFixture) -> None:
    """What the log refuses for good is 503 without a time, and the reason is in the log lines."""
    for error in (Refused("may not write"), LogUnusable("damaged")):
        asker.failure = error
        answer = sent(gateway(asker), "POST", PLACE, json=ORDER)
        problem(answer, 503, "repertory.log-refuses")
        assert "retry-after" not in answer.headers
        assert str(error) in caplog.text
        assert str(error) not in answer.text


def test_an_unknown_outcome_is_504_with_the_key_to_ask_again(asker: InMemoryAsker) -> None:
    """Whoever repeats the request with these headers gets the answer, marked as given before where it was."""
    front = gateway(asker, limits=GatewayLimits(ask_timeout_s=0.02), requires_key=False)
    patient = gateway(asker)
    asker.released.clear()

    async def talk(client: httpx.AsyncClient) -> tuple[httpx.Response, httpx.Response]:
        late = await client.post(PLACE, json=ORDER)
        asker.released.set()
        headers = {name: late.headers[name] for name in (ids.KEY, ids.MADE_AT)}
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=patient.app), base_url="http://x") as other:
            return late, await other.post(PLACE, json=ORDER, headers=headers)

    late, again = run(front, talk)
    found = problem(late, 504, "repertory.outcome-unknown")
    assert late.headers[ids.KEY] == f'"{found["idempotency_key"]}"'
    assert again.status_code == 200
    assert again.headers["idempotency-replayed"] == "true"


def test_a_query_without_an_answer_is_504(asker: InMemoryAsker) -> None:
    """It has no key: it is asked again."""
    asker.failure = OutcomeUnknown("no answer")
    answer = sent(gateway(asker), "GET", "/web-order/o-1/status", {})
    problem(answer, 504, "repertory.no-answer")
    assert ids.KEY not in answer.headers


def test_an_error_of_ours_is_500_and_says_nothing(asker: InMemoryAsker, caplog: pytest.LogCaptureFixture) -> None:
    """The log lines have the traceback, the answer has not."""
    asker.failure = RuntimeError("s3cr3t")
    answer = sent(gateway(asker), "POST", PLACE, json=ORDER)
    problem(answer, 500, "repertory.internal-error")
    assert "s3cr3t" not in answer.text
    assert "s3cr3t" in caplog.text


def test_what_the_client_calls_wrong_is_400(asker: InMemoryAsker) -> None:
    """The client checks too what a gateway does not know."""
    asker.failure = ValueError("PlaceOrder cannot be encoded")
    problem(sent(gateway(asker), "POST", PLACE, json=ORDER), 400, "repertory.bad-input")


def test_a_repetition_gets_the_same_answer_marked(asker: InMemoryAsker) -> None:
    """The same key gives the first decision again, a rejection too; other payload is 422."""
    front = gateway(asker)
    headers = {ids.KEY: new_key()}
    first, again = (sent(front, "POST", PLACE, headers, json=ORDER) for _ in range(2))
    assert again.json() == first.json()
    assert again.headers["repertory-position"] == first.headers["repertory-position"]
    assert again.headers["idempotency-replayed"] == "true"
    problem(sent(front, "POST", PLACE, headers, json={"lines": []}), 422, "IdConflict")
    rejected = {ids.KEY: new_key()}
    first, again = (sent(front, "POST", PLACE, rejected, json=ORDER) for _ in range(2))
    assert (again.status_code, again.json()) == (409, first.json())
    assert again.headers["idempotency-replayed"] == "true"


def test_a_repetition_in_flight_waits(asker: InMemoryAsker) -> None:
    """Both get the one answer."""
    asker.released.clear()

    async def talk(client: httpx.AsyncClient) -> list[httpx.Response]:
        headers = {ids.KEY: new_key()}
        both = [asyncio.create_task(client.post(PLACE, json=ORDER, headers=headers)) for _ in range(2)]
        await asker.arrivals.acquire()
        await asker.arrivals.acquire()
        asker.released.set()
        return [await each for each in both]

    first, second = run(gateway(asker), talk)
    assert first.json() == second.json() == {"type": "OrderPlaced", **ORDER}


def test_an_old_key_is_410_and_one_of_the_future_400(asker: InMemoryAsker) -> None:
    """A key older than what is kept is refused rather than applied twice."""
    front = gateway(asker)
    times = {"2019-05-01T00:00:00Z": (410, "repertory.id-too-old")}
    ahead = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for made_at, expected in {**times, ahead: (400, "ClockAhead")}.items():
        answer = sent(front, "POST", PLACE, {ids.KEY: "order-17", ids.MADE_AT: made_at}, json=ORDER)
        problem(answer, *expected)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {ids.KEY: "order-17"},
        {ids.KEY: "8e03978e-40d5-43dd-bc93-6894a57f9324"},  # A UUIDv4 has no time.
        {ids.KEY: ""},
        {ids.KEY: '"'},
        {ids.KEY: '""', ids.MADE_AT: "2026-01-01T00:00:00Z"},
        {ids.KEY: "x" * 256, ids.MADE_AT: "2026-01-01T00:00:00Z"},
        {ids.KEY: "order-17", ids.MADE_AT: "yesterday"},
        {ids.KEY: "order-17", ids.MADE_AT: "2026-01-01T00:00:00"},
        {ids.KEY: "order-17", ids.MADE_AT: "2026-01-01"},
        {ids.MADE_AT: "2026-01-01T00:00:00Z"},
    ],
)
def test_a_key_without_a_time_or_none_is_400_with_the_remedy(asker: InMemoryAsker, headers: dict[str, str]) -> None:
    """The sentence names the header."""
    answer = sent(gateway(asker), "POST", PLACE, headers, json=ORDER)
    assert ids.KEY in problem(answer, 400, "repertory.bad-idempotency-key")["detail"]
    assert asker.asked == 0


def test_who_asks_is_asked_before_the_body_is_read(asker: InMemoryAsker) -> None:
    """``authorize`` sees principal, entity, key and handler; a refusal reads no body."""
    seen: list[Any] = []
    read = False

    async def authorize(*who: Any) -> bool:
        seen.append(who)
        return bool(who[0] == "teller")

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        read = True
        yield msgspec.json.encode(ORDER)

    front = gateway(asker, authorize=authorize)
    headers = {"content-type": "application/json"}
    nobody = sent(front, "POST", PLACE, headers, content=body())
    problem(nobody, 401, "repertory.unauthorized")
    assert nobody.headers["www-authenticate"] == "Bearer"
    other = sent(front, "POST", PLACE, {**headers, "authorization": "Bearer guest"}, content=body())
    problem(other, 403, "repertory.forbidden")
    assert not read
    allowed = {**headers, "authorization": "bearer teller", ids.KEY: new_key()}
    assert sent(front, "POST", PLACE, allowed, content=body()).status_code == 200
    assert seen == [(who, WebOrder, "o-1", WebOrder.place_order) for who in (None, "guest", "teller")]


def test_an_application_says_who_asks(asker: InMemoryAsker) -> None:
    """``principal`` takes the request; its errors are a 500, not an admission."""
    front = gateway(
        asker, principal=lambda request: request.headers.get("x-user"), authorize=lambda who, *_: who == "ada"
    )
    assert sent(front, "GET", "/web-order/o-1/status", {"x-user": "ada"}).status_code == 200
    assert sent(front, "GET", "/web-order/o-1/status", {"x-user": "eve"}).status_code == 403

    def failing(*_: Any) -> bool:
        raise KeyError("s3cr3t")

    problem(
        sent(gateway(asker, authorize=failing), "GET", "/web-order/o-1/status", {}), 500, "repertory.internal-error"
    )


def test_cors_is_off_until_origins_are_named(asker: InMemoryAsker) -> None:
    """A listed origin may send POST and the idempotency key; another one, and any without ``cors``, may not."""
    preflight = {
        "origin": "https://shop.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type,idempotency-key,idempotency-key-made-at",
    }
    assert "access-control-allow-origin" not in sent(gateway(asker), "OPTIONS", PLACE, preflight).headers
    front = gateway(asker, cors=["https://shop.example"])
    answer = sent(front, "OPTIONS", PLACE, preflight)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["access-control-allow-methods"] == "GET, POST"
    assert "idempotency-key" in answer.headers["access-control-allow-headers"].lower()
    stranger = sent(front, "OPTIONS", PLACE, {**preflight, "origin": "https://other.example"})
    assert "access-control-allow-origin" not in stranger.headers


def test_a_gateway_needs_a_log_or_a_client() -> None:
    """One of the two."""
    with pytest.raises(ValueError, match="needs a log or a client"):
        Gateway(system)
