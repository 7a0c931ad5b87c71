"""An application's own logging in the workers of real nodes, on SQLite and on a real Kafka, as an operator sees it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from repertory.bridge.log.connect import connect
from repertory.bridge.system.client import Client
from repertory.operate.operator import Operator
from tests.apps import talking
from tests.support.paths import ROOT
from tests.support.processes import started

pytestmark = pytest.mark.processes

TARGET = "tests.apps.talking:system"
COMMAND = [sys.executable, "-c", "from repertory.cli.app import main; main()"]
DEADLINE_S = 90.0
#: TIME WORKER LEVEL LOGGER: MESSAGE [SYSTEM ENTITY/PARTITION@OFFSET key 'KEY']
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (node|worker-\d) (DEBUG|INFO|WARNING|ERROR) ([\w.]+): (.*)")


def environment(**extra: str) -> dict[str, str]:
    """Return the environment of a program that can import the application."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "COLUMNS": "200", **extra}


class Program:
    """``repertory run`` while it runs: its lines on stderr so far, and what its handlers print."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stderr)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for what the program logs."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, f"never: {what}\n" + "\n".join(self.lines)
            assert self.process.poll() is None or condition(), f"ended before: {what}\n" + "\n".join(self.lines)
            time.sleep(0.02)

    def has(self, words: str, count: int = 1) -> bool:
        """Tell whether so many lines contain certain words."""
        return sum(words in line for line in list(self.lines)) >= count

    def stop(self) -> None:
        """Stop it as a service manager does, and take in its last lines."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(DEADLINE_S) == 0
        self._reader.join(DEADLINE_S)


class Till:
    """The application on one log."""

    def __init__(self, url: str, folder: Path, environment: dict[str, str]) -> None:
        self.url, self._folder, self._environment = url, folder, environment
        self._backend = connect(url, talking.system.settings)
        talking.system.prepare(self._backend)
        self._client = Client(talking.system, self._backend)

    def charge(self, *amounts: int, key: str = "t-1") -> None:
        """Send commands that are logged and printed."""
        for amount in amounts:
            self._client.tell(talking.Till.charge, key, talking.Charge(amount=amount))

    def fail(self, how: str, key: str = "t-2") -> None:
        """Send a command that fails."""
        self._client.tell(talking.Till.fail, key, talking.Fail(how=how))

    def has_parked(self) -> bool:
        """Tell whether a key is parked."""
        with closing(Operator(talking.system, self._backend)) as operator:
            return any(True for _ in operator.parked())

    @contextmanager
    def running(self, *options: str, workers: int = 2) -> Iterator[Program]:
        """Run the application, in an empty folder."""
        command = [*COMMAND, "run", TARGET, "--log", self.url, "--workers", str(workers), "--node", "a", *options]
        with (
            (self._folder / "stdout").open("w") as stdout,
            started(
                command, env=self._environment, cwd=self._folder, stdout=stdout.fileno(), stderr=subprocess.PIPE
            ) as process,
        ):
            yield Program(process)

    def do(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another command of the command line to its end."""
        command = [*COMMAND, *arguments, "--log", self.url]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=120, check=False, cwd=self._folder, env=self._environment
        )

    def close(self) -> None:
        """Close the log."""
        self._client.close()
        self._backend.close()


@pytest.fixture(params=["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def till(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """Give the application on each log that processes can share, under a name of its own."""
    url = f"sqlite:{tmp_path / 'till.db'}" if request.param == "sqlite" else str(request.getfixturevalue("kafka_url"))
    name = f"talking-{uuid4().hex[:8]}"
    monkeypatch.setattr(talking.system, "name", name)
    made = Till(url, tmp_path, environment(TALKING_NAME=name))
    yield made
    made.close()


def parsed(program: Program) -> list[re.Match[str]]:
    """Return the entries of a log of text; AssertionError for a line that is neither one nor part of one."""
    found = []
    for line in program.lines:
        assert line.isprintable(), line
        if line.startswith("    "):
            continue
        entry = LINE.fullmatch(line)
        assert entry is not None, line
        found.append(entry)
    return found


def test_a_handlers_lines_name_their_command(till: Till) -> None:
    """``logging.getLogger("shop")`` works in workers: one format, one stream, with the command that was handled.

    A normal start and stop has no warnings, and a line says when the node is ready.
    """
    with till.running() as program:
        program.until(lambda: program.has("node a is ready: 2 shards in 2 workers"), "it is ready")
        till.charge(3)
        program.until(lambda: program.has("shop.till: charging 3"), "the line")
        program.stop()
    entries = parsed(program)
    (line,) = (entry for entry in entries if entry[4].startswith("charging 3"))
    assert line[1].startswith("worker-")
    assert re.fullmatch(rf"charging 3 \[{talking.system.name} till/[01]@0 key 't-1'\]", line[4])
    assert not program.has("carefully"), "DEBUG lines were not asked for"
    assert [entry[0] for entry in entries if entry[2] not in ("DEBUG", "INFO")] == []


def test_json_lines_can_be_parsed_in_each_process_and_after_a_crash(till: Till) -> None:
    """Each line on stderr is an object; a worker that is started again logs as the first one did."""
    with till.running("--log-format", "json", "--verbose", workers=1) as program:
        till.charge(3)
        program.until(lambda: program.has('"charging 3"'), "the line")
        till.fail("log")
        program.until(lambda: program.has("it was refused"), "the traceback")
        till.fail("exit", key="t-3")
        program.until(lambda: program.has("worker-exited", count=3), "the worker died of it three times")
        till.charge(4)
        program.until(lambda: program.has('"charging 4"'), "the line of the next worker")
        program.stop()
    entries: list[dict[str, Any]] = [json.loads(line) for line in program.lines]
    charged = [entry for entry in entries if str(entry["message"]).startswith("charging")]
    # A turn whose commit a death has undone is decided again, and its handlers log again.
    assert list(dict.fromkeys(entry["message"] for entry in charged)) == ["charging 3", "charging 4"]
    for entry in charged:
        assert entry["logger"] == "shop.till"
        assert (entry["node"], entry["worker"]) == ("a", "worker-0")
        assert (entry["system"], entry["entity"], entry["key"]) == (talking.system.name, "till", "t-1")
        assert entry["offset"] == 0 or entry["message"] == "charging 4"
    assert any(entry["message"] == "carefully" and entry["level"] == "DEBUG" for entry in entries)
    refused = [entry for entry in entries if "it was refused" in entry["message"]]
    assert refused
    for entry in refused:
        assert entry["extra"] == {"key": "mine", "card": 7}
        assert "in refuse" in entry["traceback"]


def test_a_configuration_of_the_user_reaches_the_workers(till: Till, tmp_path: Path) -> None:
    """Handlers, levels and formats of ``--log-config`` hold in each process, also after a crash."""
    target = tmp_path / "out.log"
    (tmp_path / "log.ini").write_text(f"""
[loggers]
keys=root
[handlers]
keys=file
[formatters]
keys=mine
[logger_root]
level=INFO
handlers=file
[handler_file]
class=FileHandler
formatter=mine
args=({str(target)!r},)
[formatter_mine]
format=%(worker)s|%(name)s|%(entity)s|%(offset)s|%(key)s|%(message)s
""")
    with till.running("--log-config", "log.ini", workers=1) as program:
        till.fail("exit", key="t-3")
        till.charge(3)
        program.until(lambda: target.exists() and "charging 3" in target.read_text(), "the line")
        program.stop()
    lines = target.read_text().splitlines()
    assert [line for line in lines if re.fullmatch(r"worker-0\|shop\.till\|till\|\d+\|t-1\|charging 3", line)]
    assert [line for line in lines if line.startswith("node|repertory|") and "is ready" in line]
    assert program.lines == []


def test_a_configuration_that_cannot_be_used_is_a_sentence(till: Till, tmp_path: Path) -> None:
    """Nothing is started with half of a configuration."""
    (tmp_path / "log.json").write_text('{"version": 1, "handlers": {"x": {"class": "shop.Missing"}}}')
    done = till.do("run", TARGET, "--log-config", "log.json")
    assert done.returncode == 64
    assert done.stderr.startswith("repertory: the logging configuration log.json cannot be used: ")
    assert done.stderr.count("\n") == 1
    both = till.do("run", TARGET, "--log-config", "log.json", "--log-format", "json")
    assert "leave out --verbose and --log-format" in both.stderr


def test_operators_see_where_a_handler_failed_and_nothing_seems_to_happen_again(till: Till) -> None:
    """The log, ``parked show`` and ``status --json`` have the traceback; ``verify`` and ``state`` repeat no line."""
    with till.running() as program:
        till.charge(3, 4, 5)
        till.fail("escape")
        program.until(lambda: program.has("its key is parked"), "it is parked")
        program.until(lambda: program.has("charging 5"), "all are charged")
        program.until(till.has_parked, "the record of it is there")
        program.stop()
    parsed(program)
    assert program.has('      File "tests/apps/talking.py", line', count=2)
    assert sum("in refuse" in line for line in program.lines) == 1, "once for each command"
    parked = json.loads(till.do("parked", "show", TARGET, "till", "t-2").stdout)
    assert "    raise ValueError(" in "\n".join(parked["traceback"])
    (node,) = json.loads(till.do("status", TARGET, "--json").stdout)["nodes"]
    assert any("in refuse" in "\n".join(incident["traceback"]) for incident in node["incidents"])

    verified = till.do("verify", TARGET)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "charging" not in verified.stdout + verified.stderr
    assert "printing" not in verified.stdout
    assert "lines that handlers logged or printed are not shown" in verified.stderr
    aloud = till.do("verify", TARGET, "--handler-output")
    assert "charging 5" in aloud.stderr
    assert "printing 5" in aloud.stdout
    state = till.do("state", TARGET, "till", "t-1")
    assert json.loads(state.stdout)["state"] == {"type": "Till", "total": 12}
    assert "charged" not in state.stderr
    with till.running() as program:  # Its workers apply all events again.
        program.until(lambda: program.has("is ready"), "it is ready")
        program.stop()
    assert not program.has("charged")


def test_a_simulation_is_silent(tmp_path: Path) -> None:
    """Nothing is charged in a simulation, and its output is its own; the invariant is heard."""
    (tmp_path / "only_charges.py").write_text(
        "from tests.apps.talking import Charge, Till\n"
        "def commands(random):\n"
        "    return [(Till.charge, f't-{number % 5}', Charge(amount=1)) for number in range(50)]\n"
        "def invariant(outcome):\n"
        "    print('checked')\n"
    )
    arguments = ["simulate", TARGET, "--scenario", "only_charges", "--seeds", "2", "--twice-every", "1", "--jobs", "1"]
    command = [*COMMAND, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, env=environment(), cwd=tmp_path
    )
    assert "charging" not in done.stdout + done.stderr
    assert "printing" not in done.stdout
    assert done.stdout.count("checked") == 2
    assert "did the same in another process" in done.stdout, done.stdout + done.stderr
