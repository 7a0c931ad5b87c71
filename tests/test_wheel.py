"""What is published: the sdist, the wheel that is built from it, and an installation beside other people's names."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT
from tests.support.processes import started

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

#: What no build needs, or may be in use while it is copied.
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "target", "build", "dist", "*.egg-info", "*.db*")
BUILD_TIMEOUT_S = 120.0
#: The folders of a checkout that are installed as ``repertory.…``, and only as that.
LINKED = {"actors", "bridge", "supervision"}
APPLICATION = """
import bridge
import supervision
from repertory import ActorSystem, Command, Entity, Event, command, event

assert (bridge.WHOSE, supervision.WHOSE) == ("the current directory's", "another distribution's")


class Add(Command):
    by: int


class Added(Event):
    by: int


class Counter(Entity):
    total: int = 0

    @command
    def add(self, cmd: Add) -> Added:
        return Added(by=cmd.by)

    @event
    def added(self, evt: Added) -> "Counter":
        return self.replace(total=self.total + evt.by)


system = ActorSystem("wheel")
system.host(Counter, partitions=2)

if __name__ == "__main__":
    import repertory
    import repertory.actors, repertory.bridge, repertory.simulation, repertory.supervision, repertory.verify

    with system.start("memory:") as running:
        for by in range(10):
            running.client.tell(Counter.add, "c", Add(by=by))
        running.settle()
        print(repertory.__file__, running.state(Counter, "c"))
"""


def plain_environment() -> dict[str, str]:
    """Return an environment in which nothing leads back to the checkout; pip would take that for installed."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KILLED", "COUNTING"))}


def run(*command: str | Path, cwd: Path, timeout_s: float = BUILD_TIMEOUT_S) -> str:
    """Run a program to its end, and return what it wrote to stdout."""
    done = subprocess.run(
        command, cwd=cwd, env=plain_environment(), capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist of a copy: a build writes beside what it builds."""
    checkout = tmp_path_factory.mktemp("checkout") / "repertory"
    shutil.copytree(ROOT, checkout, symlinks=True, ignore=NOT_COPIED)
    folder = tmp_path_factory.mktemp("sdist")
    build = f"import setuptools.build_meta as it; it.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", build, cwd=checkout)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel of the sdist, and of nothing else; pip does so with what is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check"]
    run(sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", folder, sdist, cwd=folder)
    (file,) = folder.iterdir()
    return file


def sources() -> set[str]:
    """Return the files of the package in the checkout, under the names that they are imported as."""
    found = set()
    for folder in (ROOT / "repertory", *(ROOT / "repertory" / name for name in sorted(LINKED))):
        for path in folder.rglob("*"):
            name = path.relative_to(ROOT).as_posix()
            if path.is_file() and (path.suffix in (".py", ".html") or path.name == "py.typed"):
                found.add(name)
    return found


def test_the_sdist_holds_files_and_no_links(sdist: Path) -> None:
    """Whoever unpacks it has the whole package, wherever symbolic links do not work too."""
    with tarfile.open(sdist) as archive:
        members = archive.getmembers()
    top = sdist.name.removesuffix(".tar.gz")
    assert all(member.isfile() or member.isdir() for member in members)
    names = {member.name.removeprefix(f"{top}/") for member in members if member.isfile()}
    assert sources() <= names
    assert {"LICENSE", "README.rst", "pyproject.toml", "setup.cfg", "PKG-INFO"} <= names
    assert not LINKED & {name.split("/")[0] for name in names}


def tracked() -> set[str]:
    """Return the files that git tracks, under the names that they have in an sdist."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    links = {f"repertory/{name}" for name in LINKED}
    names = {name for name in listed if name and not name.startswith(".") and name not in links}
    return {f"repertory/{name}" if name.split("/")[0] in LINKED else name for name in names}


def test_the_sdist_holds_what_its_tests_need(sdist: Path, tmp_path: Path) -> None:
    """Every file that git tracks, and nothing but those; all tests are found there, and those that read its files pass.

    Whoever packages a distribution runs the tests of what was published.
    """
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    made = ("PKG-INFO", "repertory.egg-info/")
    found = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    found = {name for name in found if not name.startswith(made)}
    if (ROOT / ".git").exists():
        assert found == tracked()
    # All modules are imported; those tests are run that read sources and documents, and take no time.
    chosen = "every_package_says or name_files_that_exist or setting_is_used"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", chosen]
    assert " passed" in run(*command, "-o", "addopts=--import-mode=importlib", cwd=unpacked, timeout_s=280.0)


def test_the_wheel_holds_the_package_and_nothing_else(sdist: Path, wheel: Path) -> None:
    """Each module and each ``py.typed`` once, under ``repertory``: the files of the checkout, and of the sdist."""
    with zipfile.ZipFile(wheel) as archive:
        infos = archive.infolist()
    assert all(info.external_attr >> 28 != 0o12 for info in infos), "no symbolic links"
    names = [info.filename for info in infos if not info.filename.split("/")[0].endswith(".dist-info")]
    assert len(names) == len(set(names))
    assert set(names) == sources()
    assert "repertory/py.typed" in names
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert {name for name in packed if re.fullmatch(r"repertory/.*\.(py|typed|html)", name)} == set(names)


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone, then a distribution with a package ``supervision``; return the interpreter.

    Dependencies are those of the running interpreter, last on the path: its link to the checkout is in a file that only
    that interpreter reads.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    stranger = distribution(tmp_path_factory.mktemp("stranger"), "supervision", 'WHOSE = "another distribution\'s"\n')
    for each in (wheel, stranger):
        options = ["--no-index", "--no-deps", "--disable-pip-version-check"]
        run(sys.executable, "-m", "pip", "--python", python, "install", *options, each, cwd=folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return python


def distribution(folder: Path, name: str, source: str) -> Path:
    """Write the wheel of a package with one module."""
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}/__init__.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
        lines.append(f"{path},sha256={digest},{len(text.encode())}\n")
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"])
    file = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a directory with an application, and with a module that is called as one of our folders."""
    (tmp_path / "bridge.py").write_text('WHOSE = "the current directory\'s"\n', encoding="utf-8")
    (tmp_path / "counting.py").write_text(APPLICATION, encoding="utf-8")
    return tmp_path


def test_the_installed_package_works_beside_other_peoples_names(python: Path, project: Path) -> None:
    """A ``supervision`` that is installed later, and a ``bridge.py`` of one's own, replace nothing of ours."""
    file, state = run(python, "counting.py", cwd=project).split(maxsplit=1)
    assert Path(file).is_relative_to(python.parent.parent)
    assert state.strip() == "Counter(total=45)"


def test_the_installed_command_works(python: Path, project: Path) -> None:
    """``repertory`` says its version, checks a system, and runs one in a worker process until it is told to stop."""
    repertory = python.with_name("repertory")
    version = re.search(r"^version = (.*)$", (ROOT / "setup.cfg").read_text(encoding="utf-8"), re.MULTILINE)
    assert version
    assert run(repertory, "--version", cwd=project) == f"repertory {version[1]}\n"
    assert "counter" in run(repertory, "check", "counting:system", cwd=project)
    command = [repertory, "run", "counting:system", "--log", f"sqlite:{project / 'counting.db'}"]
    with started(command, cwd=project, env=plain_environment(), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while "worker-running" not in seen:
            line = process.stderr.readline()
            assert line, seen
            seen += line
        process.send_signal(signal.SIGTERM)
        seen += process.stderr.read()
        assert process.wait(60) == 0, seen
    assert "node-stopped" in seen
