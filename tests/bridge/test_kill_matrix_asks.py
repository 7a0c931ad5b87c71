"""The kill matrix around answers: a worker is killed before and after it commits what it does about the id of an ask.

As in ``test_kill_matrix`` on a real Kafka under load. Each id has at most one effect, all its answers are equal, and
who asks is answered after the takeover: by the worker that has the shard then.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from tests.support.nodes.ask_trial import CLIENTS, Asker, AskTrial, Holder
from tests.support.nodes.trial import application
from tests.support.paths import ROOT

pytestmark = [pytest.mark.kafka, pytest.mark.processes]

#: As for ``test_kill_matrix``.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
#: The points of an answer to whoever asks, of one to a sender that was kept, and of one that makes room for others.
OWN = ("answering", "answered")
KEPT = ("joining", "joined", "answering", "answered")
EVICTED = ("forgetting", "forgotten")
#: So few that each turn evicts answers.
ANSWERS_MAX = 20


@pytest.fixture
def trial(request: pytest.FixtureRequest, kafka_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[AskTrial]:
    """Yield a new system on the test run's Kafka; ``request.param``: how many answers a shard keeps at most."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PAYING_NAME", f"paying-{uuid4().hex[:8]}")
    monkeypatch.setenv("PAYING_ANSWERS_MAX", str(request.param))
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    trial = AskTrial(application("unused", "tests.apps.paying"), kafka_url)
    yield trial
    trial.close()


def armed(trial: AskTrial, monkeypatch: pytest.MonkeyPatch, points: tuple[str, ...], number: int) -> None:
    """Start a node with traps at these points: in each round in another order, and at another passing."""
    shuffled = Random(number).sample(points, len(points))  # noqa: S311 - not a secret
    trial.armed(tuple(f"{point}:{2 + number % 7}" for point in shuffled), monkeypatch)


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("trial", [100_000], indirect=True, ids=["all kept"])
def test_a_worker_dies_as_it_answers(trial: AskTrial, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is decided and not committed, or committed, and the client has perhaps not read it."""
    armed(trial, monkeypatch, OWN, number)
    trial.ask_through(len(OWN), [Asker(trial.app, trial.url, each) for each in range(CLIENTS)])


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("trial", [100_000], indirect=True, ids=["all kept"])
def test_a_worker_dies_as_a_repetition_waits_and_a_kept_sender_is_answered(
    trial: AskTrial, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All answers here are to senders that the entity has kept; repetitions wait with them."""
    armed(trial, monkeypatch, KEPT, number)
    trial.ask_through(len(KEPT), [Holder(trial.app, trial.url, each) for each in range(CLIENTS)])


@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("trial", [ANSWERS_MAX], indirect=True, ids=["few kept"])
def test_a_worker_dies_as_it_evicts(trial: AskTrial, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id whose answer is gone, or whose eviction was lost with the worker, is refused or answered as before."""
    armed(trial, monkeypatch, EVICTED, number)
    askers = [Asker(trial.app, trial.url, each, may_forget=True) for each in range(CLIENTS)]
    trial.ask_through(len(EVICTED), askers)
    assert any(asker.forgotten for asker in askers), "nothing was evicted"


def test_each_point_is_in_the_matrix() -> None:
    """A point that nothing passes would look like a system that survives it."""
    assert {*OWN, *KEPT, *EVICTED} == {*kill_points.ANSWER_POINTS}
