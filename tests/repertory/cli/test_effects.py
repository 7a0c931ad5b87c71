"""``repertory effects``: what is not settled is listed; what is parked is retried or dropped by a node that runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from repertory.actors import effect as effects_of_this_build
from repertory.cli.app import app
from tests.apps import errands
from tests.apps.errands import DIARY, Boy, Go

TARGET = "tests.repertory.cli.test_effects:system"
system = errands.made("errands", "exactly-once", partitions=1)


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A log with one effect that is parked, and one that nobody has run yet."""
    monkeypatch.setenv(DIARY, str(tmp_path / "diary"))
    url = f"sqlite:{tmp_path / 'errands.db'}"
    with system.start(url) as running:
        running.client.tell(Boy.go, "a", Go(number=1, how="fail"))
        while not any(each.parked for each in running.effects()):
            running.tick(0.01)
        running._effects._is_sure = lambda: False  # It must not start any more.
        running.client.tell(Boy.go, "b", Go(number=2))
        while len(running.effects()) < 2:
            running.tick(0.01)
    return url


def run(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(arguments))


def test_what_is_not_settled_is_listed(log: str) -> None:
    """With how it failed; as a table and as JSON; and ``status`` counts it."""
    listed = run("effects", "list", TARGET, "--log", log)
    assert listed.exit_code == 0, listed.output
    assert "parked after 3" in listed.output
    assert "the door was closed" in listed.output
    found = json.loads(run("effects", "list", TARGET, "--log", log, "--json").output)
    assert [(each["key"], each["effect"], each["parked"], each["attempt"]) for each in found] == [
        ("a", "errands.run", True, 3), ("b", "errands.run", False, 1)
    ]  # fmt: skip
    assert len(json.loads(run("effects", "list", TARGET, "--log", log, "--json", "--parked").output)) == 1
    assert "and 1 more" in run("effects", "list", TARGET, "--log", log, "--first", "1").output
    (shard,) = json.loads(run("status", TARGET, "--log", log, "--json").output)["shards"]
    assert (shard["effects"], shard["parked_effects"]) == (2, 1)


def test_one_that_is_parked_is_retried_or_dropped(log: str) -> None:
    """The request waits in the log for a worker; a wrong address and one that is not parked are sentences."""
    parked, waiting = (
        each["address"] for each in json.loads(run("effects", "list", TARGET, "--log", log, "--json").output)
    )
    for arguments, sentence in (
        (("retry", TARGET, "boy", "0@99/0"), "boy has no effect '0@99/0'"),
        (("retry", TARGET, "boy", waiting), "is not parked: it is tried again by itself"),
        (("drop", TARGET, "boy", parked, "--reason", " "), "an effect is dropped with a reason"),
    ):
        refused = run("effects", *arguments, "--log", log)
        assert refused.exit_code != 0
        assert sentence in refused.stderr.replace("\n", " ")
    dropped = run("effects", "drop", TARGET, "boy", parked, "--reason", "never mind", "--log", log, "--wait", "0.1")
    assert dropped.exit_code == 69
    with system.start(log) as running:
        running.settle()
        assert running.effects() == []
        assert running.state(Boy, "a") == Boy(heard=(-1,))
        assert running.state(Boy, "b") == Boy(heard=(2,))


def test_one_that_a_build_cannot_run_is_shown(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By ``effects list`` and ``status``, whatever build they are; ``check --log`` says it of the build at hand."""
    reason = "this build has no @effect of the name 'errands.run'"
    with monkeypatch.context() as patch:
        patch.delitem(effects_of_this_build._effects, "errands.run")
        checked = run("check", TARGET, "--log", log)
        assert checked.exit_code == 1
        assert reason in checked.output.replace("\n", " ")
        with system.start(log) as running:
            running.settle()
    listed = run("effects", "list", TARGET, "--log", log)
    assert "1 (not in this build)" in listed.output
    assert reason in listed.output
    found = json.loads(run("effects", "list", TARGET, "--log", log, "--json").output)
    assert [(each["key"], each["parked"], each["not_in_build"]) for each in found] == [
        ("a", True, False), ("b", False, True)
    ]  # fmt: skip
    assert "2 (1 parked, 1 not in this build)" in run("status", TARGET, "--log", log).output
    (shard,) = json.loads(run("status", TARGET, "--log", log, "--json").output)["shards"]
    assert (shard["effects"], shard["parked_effects"], shard["effects_not_in_build"]) == (2, 1, 1)
    refused = run("effects", "retry", TARGET, "boy", found[1]["address"], "--log", log)
    assert f"it waits, since {reason}, and starts by itself" in refused.stderr.replace("\n", " ")
    assert run("check", TARGET, "--log", log).exit_code == 0
    with system.start(log) as running:
        running.settle()
        assert running.state(Boy, "b") == Boy(heard=(2,))
