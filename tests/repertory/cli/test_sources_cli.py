"""``repertory sources``, and what other commands show of sources: each stop has its sentence and its remedy."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from repertory import Running
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.cli.app import app
from repertory.cli.shared import EX_UNAVAILABLE, EX_USAGE
from repertory.verify import verify
from tests.apps import fed
from tests.apps.fed import Book, line

TARGET = "tests.apps.fed:system"
DEADLINE_S = 60.0


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a log that has the foreign topic."""
    monkeypatch.setenv(fed.MENDED, str(tmp_path / "mended"))
    path = tmp_path / "fed.db"
    with closing(connect(f"sqlite:{path}")) as backend:
        backend.ensure([TopicSpec(fed.TOPIC, 2, {})])
    return path


@pytest.fixture
def running(path: Path) -> Iterator[Running]:
    """Run the system."""
    with fed.system.start(f"sqlite:{path}") as running:
        running.settle()
        yield running


def until(running: Running, is_so: Callable[[], bool]) -> None:
    """Work until something is so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s
        running.tick(0.01)


def run(running: Running | None, path: Path, *arguments: str) -> Result:
    """Run a command on another thread, while the system works."""
    command = [*arguments, "--log", f"sqlite:{path}"]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(CliRunner().invoke, app, command)
        if running is not None:
            until(running, future.done)
        return future.result()


def refused(done: Result, *words: str) -> None:
    """Assert one sentence that says certain words."""
    assert done.exit_code == EX_USAGE, done.output
    (sentence,) = [each for each in done.stderr.splitlines() if each.startswith("repertory: ")]
    for word in words:
        assert word in sentence, sentence


def told(running: Running, key: str) -> list[int]:
    """Return the offsets that a book was told of."""
    book = running.state(Book, key)
    return [] if book is None else [offset for _, offset, _ in book.pages]


def test_a_stop_is_shown_and_skipped(running: Running, path: Path) -> None:
    """``list``, ``status`` and its check name it with its reason; only the record that fails can be skipped."""
    for how in ("", "boom", ""):
        running.produce(fed.TOPIC, line("a", how), partition=1)
    running.settle()
    done = run(running, path, "sources", "list", TARGET)
    assert "failed at 1 " in done.output
    assert "RuntimeError: out of order" in done.output
    (first, second) = json.loads(run(running, path, "sources", "list", TARGET, "--json").stdout)
    assert (first["next"], first["lag"], first["stopped"]) == (0, 0, None)
    assert (second["next"], second["lag"], second["stopped"]["offset"]) == (1, 2, 1)
    assert second["stopped"]["traceback"][-1] == "RuntimeError: out of order"
    assert "failed at 1 " in run(running, path, "status", TARGET).output
    done = run(running, path, "status", TARGET, "--check")
    assert (done.exit_code, "1 partition of a source has stopped: lines fed-lines/1" in done.output) == (1, True), (
        done.output
    )
    refused(run(running, path, "sources", "skip", TARGET, "lines", "1@2", "--reason", "x"), "it has stopped at 1")
    refused(run(running, path, "sources", "skip", TARGET, "lines", "0@0", "--reason", "x"), "it has not stopped")
    refused(run(running, path, "sources", "skip", TARGET, "lines", "1-1", "--reason", "x"), "write PARTITION@OFFSET")
    refused(run(running, path, "sources", "skip", TARGET, "lines", "1@1", "--reason", " "), "give a reason")
    refused(
        run(running, path, "sources", "skip", TARGET, "lines", "7@1", "--reason", "x"), "no position in partition 7"
    )
    refused(
        run(running, path, "sources", "skip", TARGET, "nobody", "1@1", "--reason", "x"), "no source 'nobody'", "lines"
    )
    done = run(running, path, "sources", "skip", TARGET, "lines", "1@1", "--reason", "it is wrong")
    assert (done.exit_code, done.output) == (0, "source lines fed-lines/1@1 is skipped\n")
    running.settle()
    assert told(running, "a") == [0, 2]
    assert "record 1 was skipped by" in run(running, path, "sources", "list", TARGET).output
    report = verify(running.reader, fed.system)
    assert report.ok, report.checks
    assert "it is wrong" in report.accepted[0]


def test_a_retry_is_at_once(running: Running, path: Path, tmp_path: Path) -> None:
    """Of all partitions that have stopped, or of one; nothing that runs is retried."""
    for partition in range(2):
        running.produce(fed.TOPIC, line("a", "boom"), partition=partition)
    running.settle()
    assert run(running, path, "sources", "retry", TARGET, "lines").output.startswith(
        "lines: fed-lines/0, fed-lines/1 is"
    )
    assert run(running, path, "sources", "retry", TARGET, "lines", "--partition", "1").exit_code == 0
    (tmp_path / "mended").touch()
    done = run(running, path, "sources", "retry", TARGET, "lines", "--partition", "1")
    if done.exit_code:
        refused(done, "has not stopped")  # It was tried again before that: by itself, or for the request above.
    until(running, lambda: all(each.stopped is None for each in running.sources() if each.partition == 1))
    running.settle()
    assert told(running, "a") in ([0], [0, 0])
    refused(run(running, path, "sources", "retry", TARGET, "lines", "--partition", "1"), "has not stopped")


def test_lost_records_stop_it_until_that_is_accepted(path: Path) -> None:
    """Retention took records that were not relayed: the range is named, and kept with the position."""
    with fed.system.start(f"sqlite:{path}") as running:
        for _ in range(2):
            running.produce(fed.TOPIC, line("a"), partition=0)
        running.settle()
    with closing(connect(f"sqlite:{path}")) as backend, closing(backend.appender()) as appender:
        appender.append([Output(fed.TOPIC, 0, None, line("a"))] * 4)
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DELETE FROM record WHERE topic = ? AND partition = 0 AND offset < 4", (fed.TOPIC,))
    with fed.system.start(f"sqlite:{path}") as running:
        until(running, lambda: [each.stopped.what for each in running.sources() if each.stopped] == ["lost"])
        done = run(running, path, "sources", "list", TARGET)
        assert "records 2 to 3 of fed-lines/0 were taken by retention" in done.output
        assert "repertory sources skip-lost … lines --partition 0" in done.output
        wrong = ("sources", "adopt", TARGET, "lines", "--partition", "0", "--reason", "x")
        refused(run(running, path, *wrong), "its topic was not created again")
        right = ("sources", "skip-lost", TARGET, "lines", "--partition", "0", "--reason", "no backup")
        assert run(running, path, *right).exit_code == 0
        running.settle()
        assert told(running, "a") == [0, 1, 4, 5]
        assert "records 2 to 3 are lost and were skipped" in run(running, path, "sources", "list", TARGET).output
        assert verify(running.reader, fed.system).ok


def test_a_topic_that_is_created_again_stops_it_until_it_is_adopted(running: Running, path: Path) -> None:
    """Its offsets mean other records; the other remedy is another name. Also while it runs."""
    running.produce(fed.TOPIC, line("a"), partition=0)
    running.settle()
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("UPDATE topic SET id = 'restored' WHERE topic = ?", (fed.TOPIC,))
    running.produce(fed.TOPIC, line("a"), partition=0)
    until(running, lambda: not running.tick(0.01))
    assert told(running, "a") == [0]
    done = run(running, path, "sources", "list", TARGET)
    assert "give the source another name" in done.output
    lost = ("sources", "skip-lost", TARGET, "lines", "--partition", "0", "--reason", "x")
    refused(run(running, path, *lost), "no record is lost")
    for partition in range(2):
        adopt = ("sources", "adopt", TARGET, "lines", "--partition", str(partition), "--reason", "from the backup")
        done = run(running, path, *adopt)
        assert done.exit_code == 0, done.output
    running.settle()
    assert told(running, "a") == [0, 1]
    assert verify(running.reader, fed.system).ok


def test_a_dead_letter_is_relayed_again_by_code_that_knows_it(running: Running, path: Path, tmp_path: Path) -> None:
    """``dead-letters`` shows it with its place in the foreign topic; its retry appends commands, nothing foreign."""
    running.produce(fed.TOPIC, line("ab", "value"), partition=0)
    running.settle()
    (letter,) = json.loads(run(running, path, "dead-letters", "list", TARGET, "--json").stdout)
    assert (letter["source"], letter["retried"]) == ("fed-lines/0@0", [])
    retry = ("dead-letters", "retry", TARGET, "0@0")
    refused(run(running, path, *retry), "cannot be relayed by this code either: line 0 means nothing")
    (tmp_path / "mended").touch()
    done = run(running, path, *retry)
    assert (done.exit_code, "was applied" in done.output) == (0, True), done.output
    assert (told(running, "a"), told(running, "b")) == ([0], [0])
    (letter,) = json.loads(run(running, path, "dead-letters", "list", TARGET, "--json").stdout)
    assert len(letter["retried"]) == 2
    refused(run(running, path, *retry), "was retried before")
    (tmp_path / "mended").unlink()
    report = verify(running.reader, fed.system)
    assert report.ok, [each for each in report.checks if not each.ok]


def test_a_request_waits_for_a_node(path: Path) -> None:
    """Without one, the command says so; the request is done when one runs."""
    with fed.system.start(f"sqlite:{path}") as running:
        running.produce(fed.TOPIC, line("a", "boom"), partition=0)
        running.settle()
    done = run(None, path, "sources", "skip", TARGET, "lines", "0@0", "--reason", "x", "--wait", "0.2")
    assert done.exit_code == EX_UNAVAILABLE
    assert "no node of fed has done it within 0.2 s; the request is in the log" in done.stderr
    with fed.system.start(f"sqlite:{path}") as running:
        running.settle()
        until(running, lambda: running.sources()[0].next == 1)


def test_topics_lists_what_sources_read(path: Path) -> None:
    """A topic of somebody else is looked for, and never made; those of the system are."""
    done = run(None, path, "topics", TARGET, "--create")
    assert done.exit_code == 0, done.output
    for topic in (fed.TOPIC, "fed.sources", "fed.sources.control"):
        assert any(each.split("│")[1].strip() == topic for each in done.output.splitlines() if "│" in each), done.output
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("DELETE FROM partition WHERE topic = ?", (fed.TOPIC,))
    done = run(None, path, "topics", TARGET)
    assert (done.exit_code, "missing" in done.output) == (1, True), done.output
    refused(run(None, path, "topics", TARGET, "--create"), "the source lines of fed reads fed-lines", "create it")
