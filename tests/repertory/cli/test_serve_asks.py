"""``repertory serve`` asks: on ``memory:`` by itself, on a log beside its nodes, and not where there is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from repertory.cli.shared import EX_UNAVAILABLE
from repertory.gateway import ids
from tests.repertory.cli.test_cli import COMMAND, environment, refused
from tests.repertory.cli.test_serve import END_S, served
from tests.support.processes import started

pytestmark = [pytest.mark.processes]

BANK = "examples.banking:system"


def new_key() -> dict[str, str]:
    return {ids.KEY: ids.new_id(time.time(), os.urandom(10)).id}


def asked(process: subprocess.Popen[str]) -> None:
    """Ask a bank over HTTP, and stop it."""
    assert process.stderr is not None
    seen = ""
    while (found := re.search(r"is served at http://\S+:(\d+)/docs", seen)) is None:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    with httpx.Client(base_url=f"http://127.0.0.1:{found[1]}", timeout=END_S) as client:
        opened = client.post("/account/a%2F1/open", json={"initial": 7}, headers=new_key())
        assert (opened.status_code, opened.json()) == (200, {"type": "Opened", "initial": 7}), opened.text
        refused = client.post("/account/a/1/withdraw", json={"amount": 8}, headers=new_key())
        assert (refused.status_code, refused.json()["rejection"]) == (409, {"type": "InsufficientFunds", "balance": 7})
    process.send_signal(signal.SIGTERM)
    assert process.wait(END_S) == 0
    assert "Traceback" not in process.stderr.read()


def test_on_memory_it_asks_its_own_system(tmp_path: Path) -> None:
    """One process does all."""
    command = [*COMMAND, "serve", BANK, "--log", "memory:", "--http", "127.0.0.1:0"]
    with started(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE) as process:
        asked(process)


def test_on_a_log_it_asks_the_nodes(tmp_path: Path) -> None:
    """A node works, and the front beside it asks."""
    log = f"sqlite:{tmp_path / 'bank.db'}"
    node = [*COMMAND, "run", BANK, "--log", log]
    with started(node, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE) as working:
        assert working.stderr is not None
        seen = ""
        while "worker-running" not in seen:
            line = working.stderr.readline()
            assert line, seen
            seen += line
        command = [*COMMAND, "serve", BANK, "--log", log, "--http", "127.0.0.1:0"]
        with started(command, cwd=tmp_path, env=environment({}), stderr=subprocess.PIPE) as process:
            asked(process)


def test_a_log_that_no_node_has_used_is_one_sentence(tmp_path: Path) -> None:
    """Nothing could answer there."""
    refused(served(tmp_path, "--log", "sqlite:new.db", "--http", "127.0.0.1:0"), "no node of counting has run on it")


def test_a_log_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    """It does not listen to tell everybody so."""
    done = served(tmp_path, "--log", "kafka://127.0.0.1:1", "--http", "127.0.0.1:0")
    refused(done, "127.0.0.1:1")
    assert done.returncode == EX_UNAVAILABLE
