"""Each failure names the command that reproduces it, and from a fresh shell that command does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repertory.simulation.again import SEED, call_again, only_seed
from tests.support.paths import ROOT

pytestmark = [pytest.mark.simulation, pytest.mark.processes]

APP = """
import itertools, os
from typing import Self
from repertory import ActorSystem, Command, Entity, Event, command, event

class Add(Command):
    n: int

class Added(Event):
    n: int

COUNTER = itertools.count()

class Sum(Entity):
    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        {handler}
        return Added(n=cmd.n)

    @event
    def added(self, evt: Added) -> Self:
        return self.replace(total=self.total + evt.n)

system = ActorSystem("sums")
system.host(Sum, partitions=2)
"""
SCENARIO = """
from app import Add, Sum

def commands(random):
    {workload}
    for _ in range(10):
        yield Sum.add, f"k{{random.randrange(3)}}", Add(n=random.randrange(10))

def invariant(outcome):
    {invariant}
"""
#: What is wrong: with the handler, the workload, or the invariant; and how the failure begins.
KINDS = {
    "unclean": ("if cmd.n == 7: raise ValueError('seven')", "", "", "seed 3 is no clean run"),
    "promise": ("return Added(n=next(COUNTER))", "", "", "breaks a promise: every command has its outputs, once"),
    "error": ("", "", "raise KeyError('of the invariant')", "the invariant raises KeyError"),
    "answer": ("", "", "return True", "TypeError: the invariant invariant returned True"),
    "workload": ("", "raise LookupError('no commands')", "", "LookupError: no commands"),
    "hash": ("return Added(n=hash('x') % 1000)", "", "", "did not do the same in another process"),
    "death": ("os._exit(3)", "", "", "died (exit code 3) while it ran seed 3"),
}


def make(folder: Path, kind: str) -> str:
    """Write an application that is broken in one way; return how its failure begins."""
    handler, workload, invariant, begins = KINDS[kind]
    (folder / "app.py").write_text(APP.format(handler=handler or "pass"), encoding="utf-8")
    made = SCENARIO.format(workload=workload or "pass", invariant=invariant or "pass")
    (folder / "parts.py").write_text(made, encoding="utf-8")
    return begins


def shell(command: str, folder: Path) -> tuple[int, str]:
    """Run a command in a shell of its own; return its exit code and what it printed."""
    environment = {
        "PATH": os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def again(printed: str) -> str:
    """Return the command that a failure names."""
    found = re.findall("run it again: (.*)", printed) or re.findall("run that seed alone: (.*)", printed)
    assert found, printed
    command: str = found[-1]
    return command


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "error"])
def test_the_command_line_fails_as_before(kind: str, tmp_path: Path) -> None:
    """``repertory simulate`` prints a command that ends with the same code, and the same failure."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    (folder / "repertory").write_text(
        f"#!{sys.executable}\nfrom repertory.cli.app import main\nmain()\n", encoding="utf-8"
    )
    (folder / "repertory").chmod(0o755)
    begins = make(folder, kind)
    command = "repertory simulate app:system --scenario parts --first-seed 3 --seeds 3 --jobs 2 --twice-every 1"
    code, printed = shell(command, folder)
    assert code not in (0, 64), printed
    assert begins in printed
    code_again, printed_again = shell(again(printed), folder)
    assert code_again == code, printed_again
    assert _of_the_seed(printed_again) == _of_the_seed(printed)


@pytest.mark.parametrize("kind", ["error", "answer", "death"])
def test_a_test_fails_as_before(kind: str, tmp_path: Path) -> None:
    """``simulate`` in a test names a command that runs this test, with this seed alone."""
    begins = make(tmp_path, kind)
    (tmp_path / "test_app.py").write_text(
        "import pytest, app, parts\nfrom repertory.simulation import simulate\n\n"
        "@pytest.mark.parametrize('name', ['a b'])\ndef test_sums(name):\n"
        "    simulate(app.system, commands=parts.commands, invariant=parts.invariant, seeds=range(3, 9), jobs=2)\n\n"
        "def test_other():\n    assert False, 'not this one'\n",
        encoding="utf-8",
    )
    code, printed = shell("python -m pytest -q -p no:cacheprovider test_app.py", tmp_path)
    assert code == 1, printed
    assert begins in printed
    command = again(printed)
    assert command == f"{SEED}=3 python -m pytest 'test_app.py::test_sums[a b]'"
    code_again, printed_again = shell(command, tmp_path)
    if kind == "death":
        assert code_again == 3, "the process dies with the handler"
        return
    assert code_again == 1, printed_again
    assert begins in printed_again
    assert "not this one" not in printed_again


def test_a_program_fails_as_before(tmp_path: Path) -> None:
    """``simulate`` in a program names the command that started it, with this seed alone."""
    begins = make(tmp_path, "unclean")
    (tmp_path / "some program.py").write_text(
        "import app, parts\nfrom repertory.simulation import simulate\n"
        "simulate(app.system, commands=parts.commands, seeds=range(3, 9))\n",
        encoding="utf-8",
    )
    code, printed = shell("python -X utf8 'some program.py' --option 'of its own'", tmp_path)
    assert begins in printed
    command = again(printed)
    assert command == f"{SEED}=3 python -X utf8 'some program.py' --option 'of its own'"
    code_again, printed_again = shell(command, tmp_path)
    assert (code_again, printed_again) == (code, printed)


def test_a_notebook_is_told_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no command started the program, the call is named."""
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert call_again(5) == "simulate(..., seeds=[5], twice_every=1)"


def test_a_seed_of_the_environment_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong value is named."""
    monkeypatch.setenv(SEED, "-1")
    with pytest.raises(ValueError, match=f"{SEED} is the number of a seed, 0 or more, not '-1'"):
        only_seed()


def test_a_handler_that_prints_does_not_disturb(tmp_path: Path) -> None:
    """What handlers and modules print is no part of the traces of another process."""
    make(tmp_path, "unclean")
    shutil.copy(tmp_path / "app.py", tmp_path / "quiet.py")
    text = (
        (tmp_path / "app.py")
        .read_text(encoding="utf-8")
        .replace("if cmd.n == 7: raise ValueError('seven')", "print('x')")
    )
    (tmp_path / "app.py").write_text(
        f"print('imported')\n{text}\nimport atexit\natexit.register(print, 'end')\n", encoding="utf-8"
    )
    command = f"{sys.executable} -c 'from repertory.cli.app import main; main()' simulate app:system"
    code, printed = shell(f"{command} --seeds 2 --twice-every 1", tmp_path)
    assert code == 0, printed
    assert "2 seeds did the same in another process" in printed


def _of_the_seed(printed: str) -> list[str]:
    """Return what does not depend on the process: the lines up to a table or a traceback, without process ids."""
    text = re.sub(r"process \d+", "process N", printed)
    return [line for line in text.splitlines() if "seed 3" in line]
