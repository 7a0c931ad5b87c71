"""Strategies over real worker processes and their shards, as OTP has them, and the end of a node that gives up."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from uuid import uuid4

import pytest

from repertory.actors.placement import partition_of
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.reports import ShardFailed, ShardRestored, WorkerDrained
from repertory.inspect.nodes import node_records
from repertory.supervision.process.reports import (
    Escalated,
    NodeStopped,
    WorkerExited,
    WorkerFailed,
    WorkerReport,
    WorkerRunning,
    WorkerStarted,
)
from tests.bridge.node.test_node import ROOT, Stage

pytestmark = pytest.mark.processes

SHARDS = ("counter/0", "counter/1", "counter/2", "counter/3")
Begin = Callable[..., Stage]


@pytest.fixture
def begin(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Give a way to make a system with settings of the test's, on each log that processes can share."""
    begun: list[Stage] = []

    def make(**told: object) -> Stage:
        told |= {"name": f"strategic-{uuid4().hex[:8]}"}
        for name, value in told.items():
            monkeypatch.setenv(f"COUNTING_{name.upper()}", str(value))
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        sys.modules.pop("tests.apps.counting", None)
        begun.append(Stage(importlib.import_module("tests.apps.counting"), url))
        return begun[-1]

    yield make
    for stage in begun:
        stage.close()


def key_on(partition: int) -> str:
    """Return a key that lives on one of the four shards."""
    return next(key for key in map("c-{}".format, range(100)) if partition_of(key.encode(), 4) == partition)


def shards(stage: Stage, kind: type[ShardRestored | ShardFailed]) -> list[str]:
    """Return of which shards something was reported, in that order."""
    return [report.shard for report in stage.reported(kind)]


def workers(stage: Stage, kind: type[WorkerReport]) -> list[str]:
    """Return of which workers something was reported, in that order."""
    return [report.worker for report in stage.reported(kind)]


def until_settled(stage: Stage, node: NodeHandle) -> dict[str, int]:
    """Wait until three workers run and each shard is served; return the pids."""
    stage.until(lambda: len(node.workers) == 3 and len(workers(stage, WorkerRunning)) >= 3, "all workers run")
    stage.send(300)
    stage.check()
    return dict(node.workers)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
@pytest.mark.parametrize(
    ("strategy", "stopped", "started"),
    [
        ("one_for_one", [], ["worker-1"]),
        ("rest_for_one", ["worker-2"], ["worker-1", "worker-2"]),
        ("all_for_one", ["worker-2", "worker-0"], ["worker-0", "worker-1", "worker-2"]),
    ],
)
def test_a_killed_worker_restarts_those_that_share_its_fate(
    begin: Begin, strategy: str, stopped: list[str], started: list[str]
) -> None:
    """Siblings drain at the same time; when all are down, they start in order. Who is not concerned stays."""
    stage = begin(worker_strategy=strategy)
    node = stage.node("one", workers=3)
    before = until_settled(stage, node)
    stage.reports.clear()
    stage.send(2_000)
    os.kill(before["worker-1"], signal.SIGKILL)
    stage.until(lambda: len(workers(stage, WorkerRunning)) == len(started), "all that were to come back run")
    stage.check()
    assert workers(stage, WorkerExited)[0] == "worker-1"
    assert sorted(workers(stage, WorkerExited)) == started
    assert sorted(workers(stage, WorkerDrained)) == sorted(stopped)
    assert workers(stage, WorkerStarted) == started
    assert workers(stage, WorkerFailed) == ["worker-1"]
    assert {name for name, pid in node.workers.items() if pid == before[name]} == {*before} - {*started}
    moves = [type(report) for report in stage.reports if isinstance(report, WorkerExited | WorkerStarted)]
    assert moves == [WorkerExited] * (1 + len(stopped)) + [WorkerStarted] * len(started), "all are down first"


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
@pytest.mark.parametrize(
    ("strategy", "restored"),
    [("one_for_one", SHARDS[1:2]), ("rest_for_one", SHARDS[1:]), ("all_for_one", SHARDS)],
)
def test_a_failing_shard_restarts_those_that_share_its_fate(
    begin: Begin, strategy: str, restored: tuple[str, ...]
) -> None:
    """They are dropped and restored, once each; no process ends for it, and what they had under way is done once."""
    stage = begin(shard_strategy=strategy)
    node = stage.node("one")
    stage.until(lambda: sorted(shards(stage, ShardRestored)) == list(SHARDS), "all shards are served")
    pids = dict(node.workers)
    stage.reports.clear()
    stage.send(1_000)
    stage._client.tell(stage.app.Counter.break_down, key_on(1), stage.app.Break(how="stumble"))
    stage.send(1_000)
    stage.until(lambda: len(shards(stage, ShardRestored)) >= len(restored), "all that were to come back are served")
    stage.check()
    assert sorted(shards(stage, ShardRestored)) == list(restored)
    assert shards(stage, ShardFailed) == ["counter/1"]
    assert node.workers == pids
    assert not workers(stage, WorkerExited)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("kafka", marks=pytest.mark.kafka)])
def test_a_failure_that_no_level_can_mend_ends_the_node_loudly(
    begin: Begin, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shard, worker, node: each spends its budget and gives up. One line says of what; nothing is lost by it."""
    stage = begin(shards_restarts=1, workers_restarts=2, worker_strategy="rest_for_one")
    node = stage.node("one", workers=2)
    stage.until(lambda: sorted(shards(stage, ShardRestored)) == list(SHARDS), "all shards are served")
    stage.send(500)
    stage.check()
    stage._client.tell(stage.app.Counter.break_down, key_on(1), stage.app.Break(how="never"))
    stage.send(500)
    stage.until(lambda: node.exit_code is not None, "the node gives up")
    stage.until(lambda: bool(stage.reported(NodeStopped)), "its last report is read")
    assert node.stop() == node.exit_code == os.EX_SOFTWARE
    stage.nodes.remove(node)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("repertory: ")]
    assert len(said) == 1, said
    assert "gave up: worker-" in said[0]
    assert "counter/1@" in said[0]
    assert "told never to go on" in said[0]
    # The shard may move to a worker that is drained because another one has failed, and fail there: that is one round.
    moves = (type(report) for report in stage.reports if isinstance(report, WorkerFailed | WorkerStarted))
    assert [move for move, _ in groupby(moves)].count(WorkerFailed) == 3
    assert len(stage.reported(Escalated)) == 1
    record = node.record()
    assert record.state.startswith("gave up: ")
    assert record.metrics["repertory_node_escalations_total"] == 1
    last = record.incidents[-1]
    assert last.next == "the node gives up"
    assert "told never to go on" in last.what
    ((kept,), _) = node_records(stage._reader, stage.app.system)
    assert kept.incidents[-1].next == "the node gives up"
    monkeypatch.setenv("COUNTING_MENDED", "1")
    stage.node("one")
    stage.check()
