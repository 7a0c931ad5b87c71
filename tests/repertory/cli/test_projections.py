"""``repertory projections``: what is behind and what has stopped is listed, and an operator lets it go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from repertory.cli.app import app
from repertory.projections import At, Db, Park, Retry, project
from tests.apps.projected import Added, Counter, Totals, made
from tests.repertory.projections.running import add_all, rows_of, totals_of
from tests.support.paths import ROOT

TARGET = "tests.repertory.cli.test_projections:system"
#: Its projections are beside its log, of two versions; a second system parks what fails.
system = made("listed", "exactly-once", on_error=Retry(0))
PARKING = "tests.repertory.cli.test_projections:parking"
parking = made("parking", "exactly-once", on_error=Park(keys_max=3, times=0))


class Newer(Totals, name="totals", version=2):
    """The next version."""

    @project
    def added(self, evt: Added, at: At, db: Db) -> None:
        super().added(evt, at, db)


newer = made("listed", "exactly-once", on_error=Retry(0))
newer.project(Newer, Counter)
NEWER = "tests.repertory.cli.test_projections:newer"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[str]:
    """A log with 40 events, of which the one with the amount 5 is poison."""
    yield f"sqlite:{tmp_path / 'log.db'}"
    Totals.poison = frozenset()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def test_what_has_stopped_is_listed_retried_and_skipped(log: str, tmp_path: Path) -> None:
    """``list`` and ``status`` name the event; ``--check`` fails; a skip of another offset does nothing."""
    Totals.poison = frozenset({5})
    with system.start(log) as running:
        totals = add_all(running, 40)
        running.settle()
    sql = f"sqlite:///{tmp_path / 'listed.projections.db'}"
    ((partition, failed),) = rows_of(sql, "SELECT partition, failed FROM repertory_progress WHERE failed >= 0")
    shard = f"counter/{partition}"
    listed = run("projections", "list", TARGET, "--log", log)
    assert listed.exit_code == 0, listed.output
    assert f"@{failed}: ValueError: 5 is poison" in listed.output
    shown = json.loads(run("projections", "list", TARGET, "--log", log, "--json").output)
    (lag,) = [each["end"] - each["seq"] for each in shown[0]["partitions"] if each["failed"] == failed]
    assert lag > 0
    assert shown[0]["state"] == "serves"
    checked = run("status", TARGET, "--log", log, "--check")
    assert checked.exit_code == 1
    assert f"1 projection has stopped: totals {shard}" in checked.output
    assert "5 is poison" in run("status", TARGET, "--log", log).output
    wrong = run("projections", "skip", TARGET, "totals", shard, "999", "--log", log)
    assert wrong.exit_code == 64
    assert "offset 999 of" in wrong.output
    assert "Nothing was skipped" in wrong.output
    assert run("projections", "retry", TARGET, "totals", shard, "--log", log).exit_code == 0
    with system.start(log) as running:
        running.settle()
    skipped = run("projections", "skip", TARGET, "totals", shard, str(failed), "--log", log)
    assert skipped.output == f"totals: {shard}@{failed} is skipped\n", skipped.output
    with system.start(log) as running:
        running.settle()
    totals["k5"] -= 5
    assert totals_of(sql) == totals


def test_a_parked_key_is_listed_and_retried(log: str, tmp_path: Path) -> None:
    """As long as it fails it stays parked, and the command says why."""
    Totals.poison = frozenset({5})
    with parking.start(log) as running:
        totals = add_all(running, 40)
        running.settle()
    sql = f"sqlite:///{tmp_path / 'parking.projections.db'}"
    ((partition,),) = rows_of(sql, "SELECT DISTINCT partition FROM repertory_parked")
    assert "k5 (6)" in run("projections", "list", PARKING, "--log", log).output
    arguments = ("projections", "retry", PARKING, "totals", f"counter/{partition}", "--key", "k5", "--log", log)
    failing = run(*arguments)
    assert failing.exit_code == 69
    assert "still fails: ValueError: 5 is poison; the key stays parked" in failing.output
    Totals.poison = frozenset()
    assert run(*arguments).output == "totals: 6 events of 'k5' are applied, and the key goes on\n"
    assert totals_of(sql) == totals


def test_a_version_is_rebuilt_switched_to_and_the_other_dropped(log: str, tmp_path: Path) -> None:
    """With a progress bar; whoever would take the tables from readers is told so."""
    with system.start(log) as running:
        totals = add_all(running, 40)
        running.settle()
    sql = f"sqlite:///{tmp_path / 'listed.projections.db'}"
    rebuilt = run("projections", "rebuild", NEWER, "totals", "--log", log)
    assert rebuilt.exit_code == 0, rebuilt.output
    assert "40/40" in rebuilt.output
    refused = run("projections", "drop", NEWER, "totals", "--version", "1", "--log", log)
    assert refused.exit_code == 64
    assert "serves: switch to another version first" in refused.output
    switched = run("projections", "switch", NEWER, "totals", "--log", log)
    assert switched.output == "totals (version 2) serves instead of version 1, which can be dropped\n", switched.output
    assert run("projections", "drop", NEWER, "totals", "--version", "1", "--log", log).exit_code == 0
    assert totals_of(sql) == totals
    assert "totals does not" not in run("projections", "list", NEWER, "--log", log).output
    unknown = run("projections", "switch", NEWER, "total", "--log", log)
    assert unknown.exit_code == 64
    assert "the system does not project total; it projects totals (version 1), totals (version 2)" in unknown.output


@pytest.mark.processes
def test_a_node_of_projectors_follows_a_node_of_workers(log: str, tmp_path: Path) -> None:
    """``repertory project`` is a node of its own on the same machine, and ends in order."""
    with system.start(log) as running:
        totals = add_all(running, 40)
        running.settle()
    sql = f"sqlite:///{tmp_path / 'listed.projections.db'}"
    command = [sys.executable, "-m", "repertory", "project", NEWER, "--log", log, "--projectors", "1"]
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) as node:
        deadline_s = time.monotonic() + 60
        while True:
            assert time.monotonic() < deadline_s
            assert node.poll() is None
            try:
                if totals_of(sql, "totals_2") == totals:
                    break
            except Exception:  # noqa: BLE001 - the table is not there yet
                time.sleep(0.05)
        node.send_signal(signal.SIGTERM)
        assert node.wait(60) == 0
