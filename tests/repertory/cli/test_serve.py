"""``repertory serve``: where it listens and who may ask, one sentence for each mistake, and its end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from repertory.cli.shared import EX_USAGE
from tests.repertory.cli.test_cli import COMMAND, TARGET, environment, refused
from tests.support.processes import started

pytestmark = [pytest.mark.processes]

END_S = 30.0
ANYWHERE = "0.0.0.0:0"
STATUS = "/counter/c-1/count"


def served(tmp_path: Path, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run ``repertory serve`` to its end."""
    return subprocess.run(
        [*COMMAND, "serve", TARGET, *arguments],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment(extra),
    )  # fmt: skip


@contextmanager
def serving(tmp_path: Path, *arguments: str, **extra: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start ``repertory serve`` on ``memory:``; give its process and its URL."""
    command = [*COMMAND, "serve", TARGET, "--log", "memory:", *arguments]
    with started(command, cwd=tmp_path, env=environment(extra), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while (found := re.search(r"is served at http://\S+:(\d+)/docs", seen)) is None:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        yield process, f"http://127.0.0.1:{found[1]}"


def test_on_memory_it_serves_until_sigterm(tmp_path: Path) -> None:
    """The pages are there, nothing else answers without its key, and the exit code is 0."""
    with serving(tmp_path, "--http", "127.0.0.1:0") as (process, url), httpx.Client(base_url=url) as client:
        assert client.get("/openapi.json").json()["info"]["title"] == "counting"
        assert client.get("/docs").status_code == 200
        assert client.post(STATUS, json={}).status_code in (400, 404)
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_S) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_port_in_use_is_one_sentence_and_starts_nothing(tmp_path: Path) -> None:
    """The address is taken first: the log is not even opened."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = served(tmp_path, "--log", "sqlite:new.db", "--http", address)
    refused(done, "cannot listen on", address, "in use", "--http")
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("address", ["8080", "127.0.0.1:http", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_one_sentence(tmp_path: Path, address: str) -> None:
    """With the form that it should have."""
    refused(served(tmp_path, "--log", "memory:", "--http", address), address, "HOST:PORT")


def test_beyond_this_machine_it_wants_a_token_or_public(tmp_path: Path) -> None:
    """Nobody opens a bank to a network by leaving something out."""
    done = served(tmp_path, "--log", "memory:", "--http", ANYWHERE)
    refused(done, "0.0.0.0", "REPERTORY_HTTP_TOKEN", "--public")  # noqa: S104
    assert done.returncode == EX_USAGE
    refused(served(tmp_path, "--log", "memory:", REPERTORY_HTTP_TOKEN=" "), "REPERTORY_HTTP_TOKEN is empty")  # noqa: S106
    with serving(tmp_path, "--http", ANYWHERE, "--public") as (_, url):
        assert httpx.get(f"{url}/docs", headers={"host": "bank.example"}).status_code == 200


def test_a_token_is_asked_for(tmp_path: Path) -> None:
    """Without it 401, with another one 403; with it any host's name may be asked for."""
    with serving(tmp_path, "--http", ANYWHERE, REPERTORY_HTTP_TOKEN="s3cr3t") as (_, url):  # noqa: S106
        operation = next(iter(httpx.get(f"{url}/openapi.json").json()["paths"])).format(key="c-1")
        for token, status in ((None, 401), ("s3cr3", 403), ("s3cr3t\u00e9", 403), ("s3cr3t", 400)):
            headers = {"host": "bank.example"} | ({} if token is None else {"authorization": f"Bearer {token}"})
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            assert httpx.post(f"{url}{operation}", json={}, headers=raw).status_code == status, token


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    """The command line works without Starlette; only this command needs it."""
    hidden = (
        "import sys, importlib.util as util; found = util.find_spec; "
        "util.find_spec = lambda name, *more: None if name == 'uvicorn' else found(name, *more); "
        "from repertory.cli.app import main; main(); "
    )
    done = subprocess.run(
        [sys.executable, "-c", hidden, "serve", TARGET, "--log", "memory:"],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path, env=environment({}),
    )  # fmt: skip
    refused(done, "uvicorn is not installed", "repertory[http]")
