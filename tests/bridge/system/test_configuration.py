"""Settings of a deployment: environment over ``./pyproject.toml`` over code over default, and one sentence if wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from repertory import ActorSystem, Client, Command, Entity, InvalidSetting, Settings, command, connect
from repertory.actors.shard.config import Limits
from repertory.bridge.log.record import Record
from repertory.bridge.system.configuration import OTHER_VARIABLES, PREFIX, configuration
from repertory.bridge.system.settings import FIELDS, meanings
from repertory.bridge.system.system import load_system
from repertory.bridge.topics import dead_letters_topic
from tests.support.paths import LINKED, ROOT, located

#: A value for each setting that is neither its default nor one of the others here, as TOML writes it.
VALUES = {name: ('"at-least-once"' if name == "delivery" else "true" if name == "dead_letter_overflow" else "7")
          for name in FIELDS}  # fmt: skip


def written(folder: Path, *lines: str) -> Path:
    (folder / "pyproject.toml").write_text("\n".join(["[tool.repertory]", *lines]), encoding="utf-8")
    return folder


class Ping(Command):
    """Do nothing."""

    text: str = ""


class Idle(Entity):
    """Does nothing."""

    @command
    def ping(self, _cmd: Ping) -> None:
        """Do nothing."""


def idle(settings: Settings | None = None) -> ActorSystem:
    system = ActorSystem("idle", settings=settings or Settings())
    system.host(Idle, partitions=1)
    return system


# --- where a setting comes from -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
def test_every_setting_can_be_set_everywhere(tmp_path: Path, name: str) -> None:
    """A variable, the file and the code set the same value, and the result says which of them did."""
    (expected,) = msgspec.toml.decode(f"x = {VALUES[name]}").values()
    variable = f"REPERTORY_{name.upper()}"
    default = Settings()
    code = msgspec.structs.replace(default, **{name: expected})
    assert getattr(default, name) != expected
    empty = tmp_path / "empty"
    empty.mkdir()
    written(tmp_path, f"{name} = {VALUES[name]}")
    for settings, environment, folder, source in (
        (default, {variable: VALUES[name].strip('"')}, empty, variable),
        (default, {}, tmp_path, str(tmp_path / "pyproject.toml")),
        (code, {}, empty, "code"),
    ):
        found = configuration(settings, environment, folder)
        assert found.settings == code
        assert found.sources == {**dict.fromkeys(FIELDS, "default"), name: source}


def test_the_environment_is_over_the_file_over_the_code(tmp_path: Path) -> None:
    """The nearest to the operator wins, setting by setting."""
    code = Settings(batch_records_max=1, stash_per_key_max=1, deaths_max=1)
    written(tmp_path, "batch_records_max = 2", "stash_per_key_max = 2")
    found = configuration(code, {"REPERTORY_BATCH_RECORDS_MAX": "3"}, tmp_path)
    expected = Settings(batch_records_max=3, stash_per_key_max=2, deaths_max=1)
    assert found.settings == expected
    assert configuration(code, {"REPERTORY_BATCH_RECORDS_MAX": ""}, tmp_path).settings.batch_records_max == 2


def test_a_file_of_other_tools_says_nothing(tmp_path: Path) -> None:
    """Most ``pyproject.toml`` files have no table of ours, and most directories no such file."""
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 120\n", encoding="utf-8")
    assert configuration(Settings(), {}, tmp_path).settings == Settings()
    assert configuration(Settings(), {}, tmp_path / "missing").settings == Settings()


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), (" 2 ", 2.0), ("1e1", 10.0), (".5", 0.5), ("1_000", 1000.0), ("+3.", 3.0)]
)
def test_numbers_are_read_as_python_writes_them(tmp_path: Path, text: str, value: float) -> None:
    """A time may be a whole number, too."""
    assert configuration(Settings(), {"REPERTORY_LOCK_TIMEOUT_S": text}, tmp_path).settings.lock_timeout_s == value


@pytest.mark.parametrize("text", ["true", "True", "1"])
def test_truth_is_read_as_people_write_it(tmp_path: Path, text: str) -> None:
    """``true`` and ``1`` are true, ``false`` and ``0`` are not."""
    assert configuration(Settings(), {"REPERTORY_DEAD_LETTER_OVERFLOW": text}, tmp_path).settings.dead_letter_overflow
    code = Settings(dead_letter_overflow=True)
    off = configuration(code, {"REPERTORY_DEAD_LETTER_OVERFLOW": "0"}, tmp_path)
    assert off.settings.dead_letter_overflow is False


# --- what is wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("REPERTORY_BATCH_RECORDS_MAX", "many", "'many' .* a whole number from 1 on"),
        ("REPERTORY_BATCH_RECORDS_MAX", "1.5", "'1.5' .* a whole number from 1 on"),
        ("REPERTORY_BATCH_RECORDS_MAX", "0", "'0' .* a whole number from 1 on"),
        ("REPERTORY_BATCH_RECORDS_MAX", "-3", "'-3' .* a whole number from 1 on"),
        ("REPERTORY_OUTPUT_BYTES_MAX", "1MB", "'1MB' .* a whole number of bytes from 1 on"),
        ("REPERTORY_SEEN_CAUSES_MAX", "50001", "'50001' .* a whole number from 1 to 50,000"),
        ("REPERTORY_REPLICATION_FACTOR", "-2", "'-2' .* -1 .* or a whole number from 1 to 32,767"),
        ("REPERTORY_REPLICATION_FACTOR", "0", "'0' .* -1 .* or a whole number from 1 to 32,767"),
        ("REPERTORY_LOCK_TIMEOUT_S", "10s", "'10s' .* a number of seconds above 0, at most 86,400"),
        ("REPERTORY_LOCK_TIMEOUT_S", "nan", "'nan' .* a number of seconds"),
        ("REPERTORY_LOCK_TIMEOUT_S", "inf", "'inf' .* a number of seconds"),
        ("REPERTORY_LOCK_TIMEOUT_S", "0", "'0' .* a number of seconds"),
        ("REPERTORY_LOCK_TIMEOUT_S", "10000000", "'10000000' .* at most 86,400"),
        ("REPERTORY_LOCK_TIMEOUT_S", ".", "'.' .* a number of seconds"),
        ("REPERTORY_DEAD_LETTER_OVERFLOW", "yes", "'yes' .* true or false"),
        ("REPERTORY_DELIVERY", "once", """'once' .* "exactly-once" or "at-least-once\""""),
        ("REPERTORY_BATCH_RECORD_MAX", "5", "'5' .* no setting; did you mean REPERTORY_BATCH_RECORDS_MAX\\? rep"),
        ("REPERTORY_batch_records_max", "5", "'5' .* no setting"),
        ("REPERTORY_NONSENSE", "5", "'5' .* no setting; repertory settings MODULE:SYSTEM lists all"),
        ("REPERTORY_NONSENSE", "", "'' .* no setting"),
        ("REPERTORY_DEPTH_MAX", "5", "'5' .* no setting"),
    ],
)
def test_a_wrong_variable_is_a_sentence(tmp_path: Path, variable: str, text: str, words: str) -> None:
    """It names the variable, the value, and what is allowed."""
    with pytest.raises(InvalidSetting, match=f"the variable {variable}={words}"):
        configuration(Settings(), {variable: text}, tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('batch_records_max = "7"', "batch_records_max = '7' .* a whole number from 1 on"),
        ("batch_records_max = 7.0", "batch_records_max = 7.0 .* a whole number from 1 on"),
        ("batch_records_max = true", "batch_records_max = True .* a whole number from 1 on"),
        ("lock_timeout_s = true", "lock_timeout_s = True .* a number of seconds"),
        ("lock_timeout_s = inf", "lock_timeout_s = inf .* a number of seconds"),
        ("lock_timeout_s = [1]", r"lock_timeout_s = \[1\] .* a number of seconds"),
        ("dead_letter_overflow = 1", "dead_letter_overflow = 1 .* true or false"),
        ("delivery = 1", 'delivery = 1 .* "exactly-once"'),
        ("batch_record_max = 7", "batch_record_max = 7 .* no setting; did you mean batch_records_max"),
        ("REPERTORY_DELIVERY = 7", "no setting"),
        ("lock_timeout_s = 1\nlock_timeout_s = 2", "cannot be read"),
    ],
)
def test_a_wrong_line_is_a_sentence(tmp_path: Path, line: str, words: str) -> None:
    """It names the file, the key, the value, and what is allowed."""
    written(tmp_path, line)
    with pytest.raises(InvalidSetting, match=words) as refusal:
        configuration(Settings(), {}, tmp_path)
    assert str(tmp_path / "pyproject.toml") in str(refusal.value)
    assert "[tool.repertory]" in str(refusal.value)


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path: Path) -> None:
    """It may have settings, so a system does not start without them."""
    (tmp_path / "pyproject.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidSetting, match=r"pyproject\.toml cannot be read"):
        configuration(Settings(), {}, tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool]\nrepertory = 3\n", encoding="utf-8")
    with pytest.raises(InvalidSetting, match="is no table of settings"):
        configuration(Settings(), {}, tmp_path)


@pytest.mark.parametrize("name", FIELDS)
def test_code_is_held_to_the_same_limits(name: str) -> None:
    """``Settings(…)`` with a wrong type or value is a ValueError with the same words."""
    wrong: Any
    for wrong in ("x", None, 0.5j, -7, float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"{name} must be {FIELDS[name].allowed}")):
            Settings(**{name: wrong})


# --- other variables ------------------------------------------------------------------------------------------


def test_variables_of_others_are_left_alone(tmp_path: Path) -> None:
    """Ours that are no settings, and what Kubernetes sets for a service of that name."""
    kubernetes = [
        "REPERTORY_SERVICE_HOST", "REPERTORY_SERVICE_PORT", "REPERTORY_SERVICE_PORT_HTTP", "REPERTORY_PORT",
        "REPERTORY_PORT_80_TCP", "REPERTORY_PORT_80_TCP_ADDR", "REPERTORY_WEB_SERVICE_HOST", "REPERTORY_WEB_PORT",
    ]  # fmt: skip
    environment = dict.fromkeys([*OTHER_VARIABLES, *kubernetes, "REPERTOIRE", "PATH"], "x")
    assert configuration(Settings(), environment, tmp_path).settings == Settings()


def test_every_variable_that_anything_reads_is_known() -> None:
    """No variable of ours is reported as unknown, and none has the name of a setting."""
    assert not {f"{PREFIX}{name.upper()}" for name in FIELDS} & OTHER_VARIABLES
    named = set()
    for path in [*ROOT.rglob("*.py"), *ROOT.rglob("*.rst"), ROOT / "Makefile"]:
        parts = path.relative_to(ROOT).parts
        if path != Path(__file__).resolve() and not parts[0].startswith((".", "target", "build")):
            named |= set(re.findall(r"\bREPERTORY_[A-Z][A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8")))
    unknown = {name for name in named if name.removeprefix(PREFIX).lower() not in FIELDS} - OTHER_VARIABLES
    assert not unknown, f"add to bridge/system/configuration.py, OTHER_VARIABLES: {sorted(unknown)}"
    assert named >= OTHER_VARIABLES


def test_every_setting_is_used_and_explained() -> None:
    """A setting without an effect would mislead whoever sets it."""
    sources = [path for folder in LINKED for path in located(folder).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if path.name != "settings.py")
    for name in FIELDS:
        assert name in Limits.__struct_fields__ or re.search(rf"settings\.{name}\b", text) or name in DERIVED, name
    assert list(meanings()) == list(FIELDS)


#: Used through properties of ``Settings``: ``busy_s``.
DERIVED = {"ping_timeout_s", "progress_timeout_s"}


# --- when they apply ------------------------------------------------------------------------------------------


def test_a_system_that_starts_takes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``start`` and ``client`` run with the settings of the deployment; the system keeps those of the code."""
    system = idle(Settings(deaths_max=9))
    monkeypatch.chdir(written(tmp_path, "deaths_max = 2"))
    monkeypatch.setenv("REPERTORY_INPUT_BYTES_MAX", "50")
    with system.start("sqlite:idle.db") as running:
        expected = Settings(deaths_max=2, input_bytes_max=50)
        assert running.system.settings == expected
        with system.client("sqlite:idle.db") as client:
            assert client._core.system.settings == expected
    assert system.settings == Settings(deaths_max=9)


def test_a_wrong_setting_stops_a_system_that_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way to start says it, and importing and defining an application does not."""
    monkeypatch.setenv("REPERTORY_DEATHS_MAX", "none")
    system = idle()
    for start in (
        lambda: system.start("memory:"),
        lambda: system.client("sqlite:x.db"),
        lambda: system.spawn("tests.apps.counting:system", log="sqlite:x.db"),
        lambda: system.run("tests.apps.counting:system", log="sqlite:x.db"),
    ):
        with pytest.raises(InvalidSetting, match="REPERTORY_DEATHS_MAX='none'"):
            start()
    assert load_system("tests.apps.counting:system").settings.deaths_max == 3


APPLICATION = """
import os

from repertory import ActorSystem
from tests.bridge.system.test_configuration import Idle

system = ActorSystem("idle")
system.host(Idle, partitions=1)
if os.environ.get("REPERTORY_IN_A_NODE"):  # A worker is somewhere else, and sees another environment.
    os.chdir("/")
    del os.environ["REPERTORY_STASH_PER_KEY_MAX"]
"""


@pytest.mark.processes
def test_workers_have_the_settings_of_their_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node resolves them once and passes them on, wherever its workers are when they start."""
    (tmp_path / "idling.py").write_text(APPLICATION, encoding="utf-8")
    monkeypatch.chdir(written(tmp_path, "input_bytes_max = 50"))
    monkeypatch.setenv("REPERTORY_STASH_PER_KEY_MAX", "5")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT), *filter(None, sys.path)]))
    url, system = f"sqlite:{tmp_path / 'idle.db'}", idle()
    with (
        system.spawn("idling:system", log=url) as node,
        closing(connect(url)) as backend,
        closing(backend.reader()) as reader,
    ):
        with Client(system, backend) as client:  # With the settings of the code, so it sends what no worker reads.
            client.tell(Idle.ping, "k", Ping(text="x" * 100))
        found: list[Record] = []
        while not found:
            node.poll(timeout_s=0.1)
            assert node.exit_code is None
            found = [
                record
                for partition in range(reader.partition_count(dead_letters_topic("idle")) or 0)
                for record in reader.read(dead_letters_topic("idle"), partition)
            ]
        (record,) = found
        assert "over input_bytes_max" in str(record.headers)


@pytest.mark.processes
def test_importing_has_no_side_effects(tmp_path: Path) -> None:
    """An application is imported, and its entities tested, whatever environment and file say."""
    (tmp_path / "pyproject.toml").write_text("no toml", encoding="utf-8")
    code = "import tests.apps.counting; import repertory.simulation; print(tests.apps.counting.system.settings)"
    environment = {**os.environ, "REPERTORY_NONSENSE": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
