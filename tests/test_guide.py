"""The guide is true: its programs are written, its commands run in order, and they print what it shows."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from textwrap import dedent

import pytest
from mypy import api

from tests.support.kafka.broker import JARS, jars
from tests.support.paths import ROOT
from tests.support.processes import started

GUIDE = ROOT / "docs" / "guide.rst"
#: What only shows what is in the log is asked again until it shows what was sent.
SHOWS = tuple(
    f"repertory {command}"
    for command in ("state", "status", "tail", "parked list", "parked show", "sagas list", "sagas show")
)
#: For what takes seconds on a quiet machine.
TIMEOUT_S = 90.0

_BLOCK = re.compile(r"^\.\. code-block:: (python|java|console)\n\n((?:    .*\n|\n)+)", re.MULTILINE)
_NAME = re.compile(r"(?:#|//) ([\w.]+)(?:, continued)?\n")


def part(text: str, *, is_kafka: bool) -> str:
    """Return what the guide has between its comments ``kafka`` and ``/kafka``, or the rest."""
    before, rest = text.split(".. kafka\n")
    inside, after = rest.split(".. /kafka\n")
    return inside if is_kafka else before + after


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield the blocks of a text: the language, and the lines."""
    for language, body in _BLOCK.findall(text):
        yield language, dedent(body).strip("\n") + "\n"


def written(folder: Path, body: str) -> Path:
    """Write a block to the file that its first line names, at its end if it is continued there."""
    name = _NAME.match(body)
    assert name, f"the first line of a program names its file: {body[:60]!r}"
    file = folder / name[1]
    is_continued = ", continued" in name[0]
    assert file.exists() == is_continued, f"{name[1]} is {'not begun' if is_continued else 'begun twice'}"
    with file.open("a", encoding="utf-8") as out:
        out.write(f"\n\n{body[name.end() :]}" if is_continued else body)
    return file


def commands(body: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a block with what each prints; ``^C`` prints nothing."""
    for match in re.finditer(r"^(?:\$ (.*)|(\^C))\n((?:(?!\$ |\^C).*\n)*)", body, re.MULTILINE):
        yield match[1] or match[2], match[3]


def pattern(shown: str) -> re.Pattern[str]:
    """Return what a command prints: ``…`` is any text within a line and, alone, any lines; spaces are any number."""
    lines = (
        "(?:.*\n)*?" if line == "…" else ".*".join(_spaced(each) for each in line.split("…")) + " *\n"
        for line in shown.splitlines()
    )
    return re.compile("".join(lines))


def _spaced(text: str) -> str:
    return re.sub(r"(?:\\ )+", " +", re.escape(text))


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


class Terminal:
    """Runs the commands of the guide in one folder; a node and the HTTP front run in the background."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        #: What runs in the background, in the order in which it was started.
        self._background: list[subprocess.Popen[str]] = []
        self._logs = 0
        programs = folder / "bin"
        programs.mkdir()
        python = shlex.quote(sys.executable)
        for name, call in {
            "repertory": f"{python} -c 'from repertory.cli.app import main; main()'",
            "python": python,
            "pytest": f"{python} -m pytest",
        }.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
            (programs / name).chmod(0o755)
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("REPERTORY_", "PYTEST_"))},
            "PATH": os.pathsep.join([str(programs), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
            "COLUMNS": "140",
        }

    def run(self, body: str) -> None:
        """Run a block; AssertionError where a command prints something else."""
        for command, shown in commands(body):
            if command == "^C":
                self._stop()
            elif command.startswith(("repertory run ", "repertory serve ")):
                self._start(command, shown)
            else:
                self._call(command, shown)

    def _call(self, command: str, shown: str) -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            done = subprocess.run(
                ["bash", "-c", command], capture_output=True, text=True, cwd=self.folder, env=self._environment,
                timeout=TIMEOUT_S, check=False,
            )  # fmt: skip
            said = done.stdout.removesuffix("\n") + "\n"  # A body of HTTP ends no line.
            if pattern(shown).fullmatch(said) if shown else done.returncode == 0:
                return
            if not command.startswith(SHOWS) or time.monotonic() > deadline_s:
                raise AssertionError(f"$ {command}\n{done.stdout}{done.stderr}\nbut the guide has:\n{shown}")

    def _start(self, command: str, shown: str) -> None:
        self._logs += 1
        log = self.folder / f"background-{self._logs}.log"
        with log.open("w", encoding="utf-8") as out:
            program = self._stack.enter_context(
                started(["bash", "-c", f"exec {command}"], env=self._environment, cwd=self.folder, stderr=out.fileno())
            )
        self._background.append(program)
        deadline_s = time.monotonic() + TIMEOUT_S
        while not pattern(shown).match(said := log.read_text(encoding="utf-8")):
            assert program.poll() is None, said
            assert time.monotonic() < deadline_s, said
            time.sleep(0.1)

    def _stop(self) -> None:
        assert self._background, "nothing runs that Ctrl-C could stop"
        last = self._background.pop()
        last.send_signal(signal.SIGINT)
        assert last.wait(TIMEOUT_S) == 0

    def ended(self) -> None:
        """Check that the guide leaves nothing behind."""
        assert not self._background, "the guide does not stop what it starts"


@pytest.mark.processes
@pytest.mark.timeout(300)
def test_the_guide_works_in_order(tmp_path: Path) -> None:
    """Whoever copies each program and types each command sees what the guide shows, up to the section on Kafka."""
    with ExitStack() as stack:
        terminal = Terminal(tmp_path, stack)
        text = GUIDE.read_text(encoding="utf-8").replace("127.0.0.1:8080", f"127.0.0.1:{free_port()}")
        for language, body in blocks(part(text, is_kafka=False)):
            if language == "console":
                terminal.run(body)
            else:
                written(tmp_path, body)
        terminal.ended()


@pytest.mark.kafka
@pytest.mark.timeout(300)
def test_the_section_on_kafka_works_on_a_real_one(kafka_url: str, tmp_path: Path) -> None:
    """So do its commands, producers in Python and Java, and its consumer, with names of this test's own."""
    name = f"shop-{uuid.uuid4().hex[:8]}"
    replaced = {
        "localhost:9092": kafka_url.removeprefix("kafka://"),
        'ActorSystem("shop"': f'ActorSystem("{name}"',
        "shop.order.commands": f"{name}.order.commands",
        "order-events": f"{name}-events",
        '"mailer"': f'"{name}-mailer"',
    }
    text = GUIDE.read_text(encoding="utf-8")
    for before, after in replaced.items():
        text = text.replace(before, after)
    jars()
    (tmp_path / "kafka").symlink_to(JARS)
    with ExitStack() as stack:
        terminal = Terminal(tmp_path, stack)
        for language, body in blocks(part(text, is_kafka=False)):
            if language == "console":  # The programs as they are at the end of the part before, mended.
                terminal.run("".join(line for line in body.splitlines(keepends=True) if line.startswith("$ sed ")))
            else:
                written(tmp_path, body)
        for language, body in blocks(part(text, is_kafka=True)):
            if language == "console":
                terminal.run(body)
            else:
                written(tmp_path, body)
        terminal.ended()


def test_the_programs_are_well_typed(tmp_path: Path) -> None:
    """The programs of the guide are clean under mypy --strict, without a plugin."""
    files = {written(tmp_path, body) for name, body in blocks(GUIDE.read_text(encoding="utf-8")) if name == "python"}
    out, _, code = api.run(["--strict", "--no-incremental", *map(str, sorted(files))])
    assert code == 0, out
