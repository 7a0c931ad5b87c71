"""At least once on a real Kafka: workers are killed within a turn, stopped and continued; each number counts once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.bridge.log.errors import OutcomeUnknown
from repertory.bridge.log.kafka.appender import KafkaAppender
from repertory.bridge.log.kafka.backend import KafkaBackend
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.supervision.process.reports import WorkerExited
from tests.support.nodes.trial import Trial, application

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

BURST = 200
SESSION_S = 3.0


@pytest.fixture
def trial(kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trial]:
    """Yield a new system on the test run's Kafka, with at-least-once delivery."""
    for name in ("NAME", "DELIVERY", "SESSION_S"):  # Restores what `application` sets.
        monkeypatch.setenv(f"KILLED_{name}", "")
    monkeypatch.setenv("PYTHONPATH", "")
    app = application(f"nontransactional-{uuid4().hex[:8]}", delivery="at-least-once", session_s=SESSION_S)
    trial = Trial(app, kafka_url)
    yield trial
    trial.close()


def under_load(trial: Trial, seconds: float) -> None:
    """Send commands for a while."""
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        trial.send(BURST // 4)
        trial.poll(0.2)


def test_workers_may_die_at_each_point_of_a_turn(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs that are sent again are dropped by their receivers, and `verify` finds that each command counts once."""
    trial.send(BURST)
    monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:4" for point in kill_points.NONTRANSACTIONAL_POINTS))
    trial.node("one", workers=2)
    monkeypatch.delenv(kill_points.VARIABLE)

    def died() -> bool:
        if trial.is_done():
            trial.send(BURST)
        deaths = [report for report in trial.reported(WorkerExited) if report.how == "SIGKILL"]
        return len(deaths) == len(kill_points.NONTRANSACTIONAL_POINTS)

    trial.until(died, "a worker died at each point")
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop() == [0]
    assert trial.complaints() == []
    assert trial.verdict().fates["repeated"], "outputs whose journal was lost came again"


def test_a_worker_that_was_stopped_past_its_session_changes_nothing_that_counts(trial: Trial) -> None:
    """Workers are stopped while they work, and continue when another worker has their shards."""
    nodes = [trial.node(name, workers=1) for name in ("one", "two")]
    trial.until(lambda: all(node.workers for node in nodes), "both workers started")
    for turn in range(2):
        under_load(trial, 1.0)
        (pid,) = nodes[turn].workers.values()
        os.kill(pid, signal.SIGSTOP)
        under_load(trial, SESSION_S + 2.0)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    trial.until(trial.is_done, "all commands handled")
    assert trial.stop() == [0, 0]
    assert trial.complaints() == []


def test_after_a_lost_record_all_later_ones_are_lost_too(kafka_url: str) -> None:
    """Messages of one entity to another arrive in order or not at all: no later message overtakes a refused one."""
    topic = f"gapless-{uuid4().hex[:8]}"
    config = {"batch.num.messages": "1"}  # The broker then refuses a single record.
    with closing(KafkaBackend(kafka_url, kafka_config=config)) as backend, closing(backend.reader()) as reader:
        backend.ensure([TopicSpec(topic, 1, {"max.message.bytes": "2000"})])
        for round_number in range(5):
            nontransactional = KafkaAppender(backend._config, backend._admin, gapless=True)
            values = [b"%d-%d" % (round_number, n) for n in range(4)] + [bytes(3_000)] + [b"behind"] * 4
            with pytest.raises(OutcomeUnknown):
                nontransactional.append([Output(topic, 0, b"k", value) for value in values])
            nontransactional.close()
        found = [record.value for record in reader.read(topic, 0)]
        assert b"behind" not in found
        assert found == sorted(found)
