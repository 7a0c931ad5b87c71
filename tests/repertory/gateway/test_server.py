"""The gateway in a real uvicorn, asked by a real client: its end, its limits, and the page in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from repertory.gateway import ids
from repertory.gateway.server import HttpAddress, bound
from tests.repertory.gateway.test_endpoint import ORDER, PLACE, new_key
from tests.support.browser import page_of
from tests.support.paths import ROOT
from tests.support.processes import started

pytestmark = [pytest.mark.processes]

END_S = 30.0


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve ``tests.apps.fronted`` from memory; give the process and its URL."""
    command = [sys.executable, "-m", "tests.repertory.gateway.in_memory", *arguments]
    with started(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, process.stderr and process.stderr.read()
        yield process, f"http://127.0.0.1:{port}"


def errors(process: subprocess.Popen[str]) -> str:
    """Return what a process that has ended wrote to stderr."""
    assert process.stderr is not None
    return process.stderr.read()


def test_requests_are_answered_and_sigterm_ends_with_0() -> None:
    """A connection that is kept alive does not hold the server up."""
    with serving() as (process, url), httpx.Client(base_url=url) as client:
        answer = client.post("/web-order/a%2Fb/place-order", json=ORDER, headers={ids.KEY: new_key()})
        assert answer.status_code == 200, answer.text
        assert client.post("/web-order/a/b/place-order", json=ORDER, headers={ids.KEY: new_key()}).status_code == 409
        assert "server" not in answer.headers
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0
        assert errors(process) == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_that_is_open_does_not_hold_the_end_up(number: signal.Signals) -> None:
    """It has two seconds, then the process ends with 0: the outcome is unknown to whoever asked."""
    with serving("hold") as (process, url):
        failed: list[Exception] = []

        def ask() -> None:
            try:
                httpx.post(f"{url}{PLACE}", json=ORDER, headers={ids.KEY: new_key()}, timeout=END_S)
            except httpx.HTTPError as error:
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        with httpx.Client(base_url=url) as client:
            while client.get("/web-order/waiting/status").json()["lines"] == 0:
                pass  # The stand-in tells here how many commands wait.
        began_s = time.monotonic()
        process.send_signal(number)
        assert process.wait(END_S) == 0
        assert time.monotonic() - began_s < 10
        thread.join(END_S)
        assert not thread.is_alive()


def test_a_body_over_the_limit_is_not_read_to_its_end() -> None:
    """The answer comes while the client still sends, and the connection ends, however much is still to come."""
    with serving() as (_, url), socket.create_connection((httpx.URL(url).host, httpx.URL(url).port or 0)) as raw:
        head = (
            f"POST {PLACE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"{ids.KEY}: {new_key()}\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        raw.settimeout(END_S)
        raw.sendall(head.encode())
        chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
        sent = 0
        try:
            while sent < 64 << 20:
                raw.sendall(chunk)
                sent += 65_536
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert sent < 64 << 20
        with httpx.Client(base_url=url) as client:
            declared = client.post(
                PLACE, content=b" " * (2 << 20), headers={ids.KEY: new_key(), "content-type": "application/json"}
            )
            assert declared.status_code == 413
            assert declared.headers["connection"] == "close"


def test_a_request_that_names_another_host_is_refused() -> None:
    """A page whose name leads to 127.0.0.1 is of its own origin there, and could ask anything."""
    with serving() as (_, url), httpx.Client(base_url=url) as client:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", ""):
            answer = client.get("/web-order/o-1/status", headers={"host": host})
            assert (answer.status_code, answer.json()["type"]) == (421, "repertory.wrong-host"), host
        for host in ("localhost", "localhost:8080", "127.0.0.1", "[::1]:8080", "[::1]"):
            assert client.get("/web-order/o-1/status", headers={"host": host}).status_code == 200, host


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:80", ("::1", 80)), ("localhost:0", ("localhost", 0))],
)
def test_an_address_is_a_host_and_a_port(text: str, address: tuple[str, int]) -> None:
    """IPv6 is in brackets, as in URLs."""
    assert tuple(HttpAddress.parse(text)) == address
    assert str(HttpAddress.parse(text)) == text
    assert HttpAddress.parse(text).is_loopback


@pytest.mark.parametrize("text", ["", ":80", "8080", "::1:80", "127.0.0.1:", "127.0.0.1:65536", "a:-1", "a:x", "a:٣"])
def test_anything_else_is_refused_with_a_sentence(text: str) -> None:
    """No port, no host, a number that is no port."""
    with pytest.raises(ValueError, match="is not an address to listen on"):
        HttpAddress.parse(text)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::", "example.org", "localhost.example.org"])  # noqa: S104
def test_other_addresses_are_not_loopback(host: str) -> None:
    """They need a token, or ``--public``."""
    assert not HttpAddress(host, 80).is_loopback


def test_a_port_in_use_is_one_sentence() -> None:
    """And so is a name that leads nowhere."""
    with bound(HttpAddress("127.0.0.1", 0)) as first:
        first.listen()
        taken = HttpAddress("127.0.0.1", first.getsockname()[1])
        with pytest.raises(ValueError, match=r"cannot listen on .*: address already in use"), bound(taken):
            pass
    with pytest.raises(ValueError, match="cannot listen on nowhere"), bound(HttpAddress("nowhere.invalid", 1)):
        pass


def test_the_page_shows_the_operations_without_a_network(tmp_path: Path) -> None:
    """A browser lists what can be asked, from one request; nothing else is loaded, not even from its own server."""
    with counting() as (url, paths):
        shown = page_of(f"{url}/docs", tmp_path)
    assert paths == ["/docs"]
    assert re.findall(r'<details id="([^"]*)">', shown) == [
        "web-order.place-order", "web-order.cancel", "web-order.break-it", "web-order.be-careful", "web-order.status",
        "web-order.find",
    ]  # fmt: skip
    assert '<section aria-labelledby="entity-web-order">' in shown
    labels = re.findall(r'<label for="(field-\d+)">', shown)
    assert len(labels) == len(set(labels)) == len(re.findall(r"<(?:input|textarea) id=\"field-\d+\"", shown))
    # A docstring's markup is shown, not run.
    assert "Cancel it, for &lt;b&gt;any&lt;/b&gt; reason &lt;/script&gt;." in shown


def test_the_page_asks_what_is_typed(tmp_path: Path) -> None:
    """A person fills in a form and sends it: the request, its key and its answer are as they should be."""
    with counting(driven=True) as (url, paths):
        shown = page_of(f"{url}/driven", tmp_path)
    assert paths == ["/driven", "/web-order/a/%C3%A9/place-order", "/web-order/a/%C3%A9/status?detailed=true"]
    answers = re.findall(r'<div class="answer" role="status"><p class="">(.*?)</p><pre>(.*?)</pre>', shown, re.DOTALL)
    assert [status for status, _ in answers] == ["200 OK", "200 OK"]
    assert "Repertory-Position: weborder/" in answers[0][1]
    assert '"type": "OrderPlaced"' in answers[0][1]
    assert '"lines": 1' in answers[1][1]


@contextmanager
def counting(*, driven: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve in a thread; give the URL, and the list of the paths that are asked for.

    ``driven``: ``/driven`` is the page with a script behind it that types and clicks.
    """
    import uvicorn  # noqa: PLC0415
    from starlette.responses import HTMLResponse  # noqa: PLC0415

    from repertory.gateway import Gateway, openapi, page  # noqa: PLC0415
    from tests.apps.fronted import system  # noqa: PLC0415
    from tests.repertory.gateway.in_memory import InMemoryAsker  # noqa: PLC0415

    front = Gateway(system, client=InMemoryAsker())
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            query = scope["query_string"].decode()
            paths.append(scope["raw_path"].decode() + (f"?{query}" if query else ""))
            if driven and scope["path"] == "/driven":
                html = page.html("shop", openapi.encoded(front.document))
                await HTMLResponse(html.replace("</body>", f"<script>{DRIVE}</script></body>"))(scope, receive, send)
                return
        await front.app(scope, receive, send)

    with bound(HttpAddress("127.0.0.1", 0)) as taken:
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, ws="none", http="h11", timeout_graceful_shutdown=2)
        )
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{taken.getsockname()[1]}", paths
        finally:
            server.should_exit = True
            thread.join(END_S)
            assert not thread.is_alive()


DRIVE = """
async function fill(id, values) {
  const form = document.getElementById(id).querySelector("form");
  for (const label of form.querySelectorAll("label")) {
    const name = label.firstChild.textContent;
    if (name in values) document.getElementById(label.htmlFor).value = values[name];
  }
  form.querySelector("button[type=submit]").click();
  const output = form.querySelector(".answer");
  while (!output.querySelector("pre, .fault")) await new Promise((done) => setTimeout(done, 5));
}
fill("web-order.place-order", { key: "a/é", Body: '{"lines": [{"item": "tea", "count": 1}]}' })
  .then(() => fill("web-order.status", { key: "a/é", detailed: "true" }));
"""
