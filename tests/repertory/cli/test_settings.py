"""``repertory settings``: what a deployment runs with, and where each value comes from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from repertory.bridge.system.settings import FIELDS, Settings
from repertory.cli.app import app
from repertory.cli.shared import console

TARGET = "tests.apps.counting:system"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.repertory]\ndeaths_max = 4\n", encoding="utf-8")
    monkeypatch.setenv("REPERTORY_BATCH_RECORDS_MAX", "2000")
    monkeypatch.setattr(console, "_width", 500)  # It was measured when it was made.


def test_every_setting_is_shown(tmp_path: Path) -> None:
    """One row each: value, source, limits with their unit, meaning."""
    done = CliRunner().invoke(app, ["settings", TARGET])
    assert done.exit_code == 0, done.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    by_name = {row[0]: row[1:] for row in rows if row[0]}
    assert list(by_name) == list(FIELDS)
    assert by_name["batch_records_max"][:3] == ["2,000", "REPERTORY_BATCH_RECORDS_MAX", "a whole number from 1 on"]
    assert by_name["batch_records_max"][3].startswith("Commands that one transaction")
    assert by_name["deaths_max"][0] == "4"
    assert by_name["lock_timeout_s"][:3] == ["10.0", "default", "a number of seconds above 0, at most 86,400"]


def test_json_has_all_of_it(tmp_path: Path) -> None:
    """For scripts: every setting by its name, with the whole meaning."""
    shown = json.loads(CliRunner().invoke(app, ["settings", TARGET, "--json"]).stdout)
    assert list(shown) == list(FIELDS)
    assert shown["deaths_max"]["value"] == 4
    assert shown["deaths_max"]["source"] == str(tmp_path / "pyproject.toml")
    assert {name: each["value"] for name, each in shown.items()} == {
        name: {"deaths_max": 4, "batch_records_max": 2000}.get(name, getattr(Settings(), name)) for name in FIELDS
    }
    assert all(each["meaning"] and each["allowed"] for each in shown.values())


@pytest.mark.parametrize(
    "arguments",
    [
        ["settings", TARGET],
        ["run", TARGET, "--log", "sqlite:x.db"],
        ["status", TARGET, "--log", "sqlite:x.db"],
        ["verify", TARGET, "--log", "sqlite:x.db"],
        ["state", TARGET, "counter", "k", "--log", "sqlite:x.db"],
        ["topics", TARGET, "--log", "sqlite:x.db"],
        ["parked", "list", TARGET, "--log", "sqlite:x.db"],
        ["dead-letters", "list", TARGET, "--log", "sqlite:x.db"],
        ["tail", "a.b", "--log", "sqlite:x.db"],
    ],
)
def test_every_command_with_a_log_says_what_is_wrong(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence and a non-zero exit, before anything is done."""
    monkeypatch.setenv("REPERTORY_DEATHS_MAX", "none")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 64, done.output
    assert "repertory: the variable REPERTORY_DEATHS_MAX='none' of the environment is invalid" in done.output
