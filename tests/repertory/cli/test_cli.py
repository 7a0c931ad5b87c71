"""The command line: what it shows, and one clear sentence with a non-zero exit for each bad input."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import msgspec
import psutil
import pytest
from typer.testing import CliRunner

from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.cli.app import app
from repertory.cli.shared import EX_USAGE
from repertory.supervision.process.node import SAME_REQUEST_S
from tests.apps import counting
from tests.support.paths import ROOT
from tests.support.processes import started, wait_until_ended

TARGET = "tests.apps.counting:system"
COMMAND = [sys.executable, "-c", "from repertory.cli.app import main; main()"]
#: What a background job of a shell without job control ignores, under ``nohup``.
IN_THE_BACKGROUND = [signal.SIGINT, signal.SIGQUIT, signal.SIGHUP]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a child that can import the test applications."""
    path = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", **extra}


@pytest.fixture
def repertory(tmp_path: Path) -> Run:
    """Run the command in an empty folder."""

    def run(*arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
            env=environment(extra),
        )

    return run


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert one sentence that says certain words, no traceback, and a non-zero exit."""
    assert done.returncode not in (0, 1), (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("repertory: ")]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_the_version_is_that_of_the_distribution(repertory: Run) -> None:
    """``--version`` prints one line and needs neither a command nor a system."""
    done = repertory("--version")
    assert (done.returncode, done.stdout) == (0, f"repertory {version('repertory')}\n"), done.stderr


def test_check_shows_what_a_system_hosts(repertory: Run) -> None:
    """``check`` needs no log."""
    done = repertory("check", TARGET)
    assert done.returncode == 0, done.stderr
    assert "counter" in done.stdout
    assert "journaled" in done.stdout


def test_what_anybody_wrote_is_shown_as_it_is(repertory: Run, tmp_path: Path) -> None:
    """A type's name with markup and an escape sequence in it: no traceback, nothing that the terminal would obey."""
    log = f"sqlite:{tmp_path / 'strange.db'}"
    topic = "counting.counter.commands"
    value = msgspec.msgpack.encode({"type": "[/b] \x1b[2J\nsecond line"})
    backend = connect(log)
    counting.system.prepare(backend)
    with closing(backend.appender()) as appender:
        appender.append([Output(topic, 0, b"[/key]\x07", value, ())])
    backend.close()
    with counting.system.start(log) as running:
        running.settle()
    listed = repertory("dead-letters", "list", TARGET, "--log", log, COLUMNS="80")
    assert listed.returncode == 0, listed.stderr
    assert "\x1b" not in listed.stdout
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in listed.stdout.splitlines() if "│" in line]
    address, key, source, _, _, _, error, reason = ("".join(column) for column in zip(*lines, strict=True))
    assert (address, key, source, error) == ("0@0", r"[/key]\x07", f"{topic}/0@0", "DecodeError")
    assert "[/b]" in reason


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("tests.apps.counting", ["module:system, as in tests.apps.counting:system"]),
        ("tests.apps.nowhere:system", ["tests.apps.nowhere"]),
        ("tests.apps.counting:nothing", ["nothing", "system"]),
        ("tests.apps.counting:Counter", ["Counter", "not an ActorSystem"]),
        ("json:system", ["json", "no ActorSystem"]),
        ("./missing.py:system", ["missing.py"]),
    ],
)
def test_a_target_that_names_no_system(repertory: Run, target: str, words: list[str]) -> None:
    """A module that has no system is named, with what it has instead."""
    refused(repertory("check", target), *words)


@pytest.mark.parametrize(
    "url", ["redis://x", "kafka://", "kafka:localhost:9092", "kafka://host", "sqlite:", "memory:x"]
)
def test_an_unknown_log_url_shows_the_three_forms(repertory: Run, url: str) -> None:
    """An unknown log URL is named with the forms that there are."""
    refused(repertory("run", TARGET, "--log", url), url, "memory:", "sqlite:PATH", "kafka://")


def test_an_unreachable_broker_is_said_within_ten_seconds(repertory: Run) -> None:
    """The sentence says which broker was tried; the call itself is bounded by ``connect_timeout_s``, 8 s."""
    refused(repertory("run", TARGET, "--log", "kafka://127.0.0.1:1"), "127.0.0.1:1", "refused")


def test_a_foreign_sqlite_file_is_refused_and_left_as_it_was(repertory: Run, tmp_path: Path) -> None:
    """Another program's database is named and not changed."""
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = path.read_bytes()
    refused(repertory("run", TARGET, "--log", "sqlite:other.db"), "other.db")
    assert path.read_bytes() == before


def test_a_corrupt_sqlite_file_is_refused(repertory: Run, tmp_path: Path) -> None:
    """Bytes that are no database are named and not changed."""
    path = tmp_path / "corrupt.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(range(256)) * 40)
    before = path.read_bytes()
    refused(repertory("run", TARGET, "--log", "sqlite:corrupt.db"), "corrupt.db")
    assert path.read_bytes() == before


def test_another_partition_count_is_refused(repertory: Run) -> None:
    """A topic whose partition count differs from the code's is named with both counts."""
    assert repertory("topics", TARGET, "--log", "sqlite:count.db", "--create").returncode == 0
    done = repertory("run", TARGET, "--log", "sqlite:count.db", COUNTING_PARTITIONS="5")
    refused(done, "counting.counter", "4", "5")


def test_what_cannot_be_adopted(repertory: Run) -> None:
    """An adoption needs a log, a shard that exists, a reason, and topics that were created again."""
    assert repertory("topics", TARGET, "--log", "sqlite:adopt.db", "--create").returncode == 0
    adopt = ("topics", TARGET, "--log", "sqlite:adopt.db", "--adopt")
    refused(repertory("topics", TARGET, "--adopt", "counter/0", "--reason", "restored"), "--log")
    refused(repertory(*adopt, "nobody/0", "--reason", "restored"), "nobody", "counter")
    refused(repertory(*adopt, "counter/400", "--reason", "restored"), "counter/400", "0 to")
    refused(repertory(*adopt, "counter/0"), "give a reason")
    refused(repertory(*adopt, "counter/0", "--reason", "restored"), "no topic of counter/0 was created again")


def test_memory_cannot_be_shared_by_workers(repertory: Run) -> None:
    """``memory:`` has one process."""
    refused(repertory("run", TARGET, "--log", "memory:", "--workers", "2"), "memory:")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("enable.auto.commit=true", ["enable.auto.commit"]),
        ("isolation.level=read_uncommitted", ["isolation.level"]),
        ("no.such.setting=1", ["no.such.setting"]),
        ("just words", ["just words"]),
    ],
)
def test_settings_that_break_a_promise(repertory: Run, tmp_path: Path, setting: str, words: list[str]) -> None:
    """A Kafka setting that is unknown or would break a promise is refused with its name."""
    (tmp_path / "kafka.properties").write_text(f"# mine\n{setting}\n", encoding="utf-8")
    done = repertory("run", TARGET, "--log", "kafka://127.0.0.1:1", "--kafka-config", "kafka.properties")
    refused(done, *words)


def test_a_settings_file_that_is_missing(repertory: Run) -> None:
    """The file is named."""
    refused(
        repertory("run", TARGET, "--log", "kafka://127.0.0.1:1", "--kafka-config", "none.properties"),
        "none.properties",
    )


def test_tail_and_state_name_what_is_missing(repertory: Run) -> None:
    """A topic or entity that does not exist is named, with those there are."""
    assert repertory("topics", TARGET, "--log", "sqlite:x.db", "--create").returncode == 0
    refused(repertory("tail", "nope", "--log", "sqlite:x.db"), "nope")
    refused(repertory("state", TARGET, "nobody", "k", "--log", "sqlite:x.db"), "nobody", "counter")
    refused(repertory("state", TARGET, "counter", "x" * 300, "--log", "sqlite:x.db"), "255")
    refused(repertory("status", TARGET, "--log", "sqlite:never.db"), "never.db")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGTERM, []), (signal.SIGINT, []), (signal.SIGTERM, IN_THE_BACKGROUND)],
    ids=["SIGTERM", "SIGINT", "SIGTERM-in-the-background"],
)
def test_a_signal_drains_and_stops_in_order(
    tmp_path: Path, number: signal.Signals, ignored: Collection[signal.Signals]
) -> None:
    """One signal drains, commits, stops in reverse order, exits 0 and leaves no process behind."""
    command = [*COMMAND, "run", TARGET, "--log", f"sqlite:{tmp_path / 'run.db'}", "--workers", "2"]
    with started(command, env=environment({}), stderr=subprocess.PIPE, ignored=ignored) as process:
        assert process.stderr is not None
        seen = ""
        restored = 0
        while restored < 4:
            line = process.stderr.readline()
            assert line, seen
            seen += line
            restored += "shard-restored" in line
        node = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        rest = process.stderr.read()
        assert process.wait(timeout=60) == 0, seen + rest
        wait_until_ended(node)
    assert rest.count("worker-drained") == 2, rest
    assert "node-stopped" in rest


@pytest.mark.processes
def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    """The second signal kills; the exit code says so."""
    command = [*COMMAND, "run", TARGET, "--log", f"sqlite:{tmp_path / 'run.db'}"]
    with started(command, env=environment({}), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while "worker-running" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        worker = psutil.Process(int(seen.split("pid=")[-1].split()[0]))
        worker.suspend()  # It cannot drain, so the first signal is still being obeyed.
        process.send_signal(signal.SIGTERM)
        while "node-stopping" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        time.sleep(SAME_REQUEST_S)  # time passes: that is what tells a second request from the first
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
        assert process.wait(timeout=60) == 128 + signal.SIGTERM
        wait_until_ended([worker])


def test_simulate_says_what_it_did(repertory: Run) -> None:
    """``simulate`` runs seeds, again in another process, and shows its figures; no log is needed."""
    done = repertory("simulate", "examples.banking:system", "--seeds", "4", "--twice-every", "3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs without a broken promise" in done.stdout
    assert "fault: unknown-written" in done.stdout
    assert "2 seeds did the same in another process" in done.stdout


def test_simulate_shows_a_small_schedule_and_how_to_see_it_again(repertory: Run, tmp_path: Path) -> None:
    """A promise that breaks ends with exit code 1, the seed, what is left of the run, and the command."""
    (tmp_path / "never.py").write_text(
        "def invariant(outcome):\n"
        "    assert outcome.reader.bounds('counting.counter.events', 0)[1] == 0, 'something happened'\n",
        encoding="utf-8",
    )
    more = ("--scenario", "never", "--allow-error", "RuntimeError")
    done = repertory("simulate", TARGET, *more, "--seeds", "9", "--first-seed", "3")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "seed 3 breaks the invariant of the application" in done.stdout
    assert "something happened" in done.stdout
    again = f"repertory simulate {TARGET} {' '.join(more)} --seeds 1 --twice-every 1 --first-seed 3"
    assert f"run it again: {again}\n" in done.stdout


@pytest.mark.processes
@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGTERM, IN_THE_BACKGROUND)],
    ids=["SIGINT", "SIGTERM", "SIGTERM-in-the-background"],
)
def test_simulate_leaves_no_process_behind(
    tmp_path: Path, number: signal.Signals, ignored: Collection[signal.Signals]
) -> None:
    """Each job is a process; a signal that ends the command ends them all."""
    command = [*COMMAND, "simulate", TARGET, "--seeds", "1000000", "--jobs", "2", "--allow-error", "RuntimeError"]
    with started(command, cwd=tmp_path, env=environment({}), stderr=subprocess.DEVNULL, ignored=ignored) as process:
        jobs: list[psutil.Process] = []
        while len(jobs) < 2:
            assert process.poll() is None
            jobs = psutil.Process(process.pid).children()
        process.send_signal(number)
        assert process.wait(timeout=60) != 0
        wait_until_ended(jobs)


def test_simulate_refuses_a_scenario_that_is_none(repertory: Run) -> None:
    """A scenario that cannot be imported is one sentence."""
    refused(repertory("simulate", TARGET, "--scenario", "no.such.module"), "no.such.module", "cannot be imported")


@pytest.mark.parametrize("target", ["app:system", "app.py:system", "./app:system", "shop.app:system", "shop:system"])
def test_simulate_finds_the_scenario_in_the_folder_of_the_system(repertory: Run, tmp_path: Path, target: str) -> None:
    """A module, a path, a module of a package and a package: each has its ``scenario`` beside it, and no other one."""
    folder = tmp_path / "shop" if target.startswith("shop") else tmp_path
    folder.mkdir(exist_ok=True)
    (folder / ("__init__.py" if target == "shop:system" else "app.py")).write_text(
        "from tests.apps.counting import system\n", encoding="utf-8"
    )
    elsewhere = tmp_path if folder != tmp_path else tmp_path / "other"
    elsewhere.mkdir(exist_ok=True)
    for place, word in ((folder, "beside"), (elsewhere, "elsewhere")):
        (place / "scenario.py").write_text(
            f"def invariant(outcome):\n    raise AssertionError('the one {word} it')\n", encoding="utf-8"
        )
    done = repertory("simulate", target, "--seeds", "1", "--no-minimise", "--allow-error", "RuntimeError")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the one beside it" in done.stdout


def test_simulate_says_which_field_no_command_can_be_drawn_for(repertory: Run, tmp_path: Path) -> None:
    """A pattern, say: the sentence names the field and its type, and the way on."""
    (tmp_path / "shop.py").write_text(
        """
from typing import Annotated
from msgspec import Meta
from repertory import ActorSystem, Command, Entity, command

class Place(Command):
    item: Annotated[str, Meta(pattern="^tea$")]

class Order(Entity):
    @command
    def place(self, cmd: Place) -> None:
        pass

system = ActorSystem("shop")
system.host(Order, partitions=1)
""",
        encoding="utf-8",
    )
    refused(repertory("simulate", "shop:system"), "no valid Place", "$.item", "^tea$", "`scenario`")


#: What reads a log, with what it is called for.
READING = [
    ["status", TARGET], ["status", TARGET, "--check"], ["state", TARGET, "counter", "k"], ["parked", "list", TARGET],
    ["parked", "show", TARGET, "counter", "k"], ["parked", "retry", TARGET, "counter", "k"],
    ["parked", "drop", TARGET, "counter", "k", "--reason", "x"], ["dead-letters", "list", TARGET],
    ["dead-letters", "show", TARGET, "0@0"], ["dead-letters", "retry", TARGET, "0@0"], ["verify", TARGET],
    ["timers", "list", TARGET], ["timers", "cancel", TARGET, "counter", "k", "name"],
    ["effects", "list", TARGET], ["effects", "retry", TARGET, "counter", "0@0/0"],
]  # fmt: skip
#: What accepts something of a log that is there.
ACCEPTING = [
    ["skip-lost", TARGET, "--shard", "counter/0", "--reason", "x"],
    ["topics", TARGET, "--adopt", "counter/0", "--reason", "x"],
]


@pytest.mark.parametrize(
    "arguments", [*READING, *ACCEPTING, ["tail", "counting.control"]], ids=lambda each: " ".join(each[:2])
)
def test_a_misspelt_file_is_no_empty_log(tmp_path: Path, arguments: list[str]) -> None:
    """What only reads a log makes none: in a new one no command was ever lost, and nothing says that it is new."""
    done = CliRunner().invoke(app, [*arguments, "--log", f"sqlite:{tmp_path}/bnak.db"])
    assert done.exit_code == EX_USAGE, done.output
    assert f"there is no log sqlite:{tmp_path}/bnak.db" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", READING, ids=lambda each: " ".join(each[:2]))
def test_a_log_on_which_the_system_never_ran_is_said_so(tmp_path: Path, arguments: list[str]) -> None:
    """The log of another system is none of this one, whatever reads it."""
    url = f"sqlite:{tmp_path}/other.db"
    with closing(connect(url)) as backend:
        backend.ensure([TopicSpec("other.control", 1, {})])
    done = CliRunner().invoke(app, [*arguments, "--log", url])
    assert done.exit_code == EX_USAGE, done.output
    assert "has no topic 'counting.c" in done.stderr
    assert "repertory topics" in done.stderr
