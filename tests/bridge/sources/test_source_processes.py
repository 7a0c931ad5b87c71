"""Sources in a node: one process beside the workers, killed, hanging, and deadly records."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from types import ModuleType
from uuid import uuid4

import pytest

from repertory.bridge import kill_points
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.sources.position import RETRY, SKIP, SourceRequest, encode_source
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.source_host import SOURCES
from repertory.bridge.system.source_status import OpenSources, SourceStatus, source_statuses
from repertory.supervision.process.reports import WorkerExited
from repertory.verify import verify
from tests.apps.fed import line
from tests.support.nodes.trial import DEADLINE_S, Trial, application
from tests.support.paths import ROOT

pytestmark = pytest.mark.processes

#: One for each relay, so that each node has some.
PARTITIONS, KEYS = 8, "abcd"
#: As for ``test_kill_matrix``.
ROUNDS = int(os.environ.get("REPERTORY_KILL_ROUNDS", "1"))
POINTS = tuple(kill_points.SOURCE_POINTS)


class SourceTrial(Trial):
    """A run of the books of ``tests.apps.fed_node``."""

    def __init__(self, app: ModuleType, url: str) -> None:
        topic = app.system.sources["lines"].topic
        with closing(connect(url)) as backend:
            backend.ensure([TopicSpec(topic, PARTITIONS, {})])
        super().__init__(app, url)
        self.topic = topic
        self.logs = OpenSources(app.system, self._backend)
        #: By key, what its book is to be told, of each partition in this order.
        self.expected: dict[str, list[tuple[int, int, int]]] = {key: [] for key in KEYS}

    def produce(self, partition: int, keys: str, how: str = "") -> None:
        """Append one record of the topic."""
        (offset,) = self._appender.append([Output(self.topic, partition, None, line(keys, how))])
        for index, key in enumerate(keys if not how else ""):
            self.expected[key].append((partition, offset, index))

    def statuses(self) -> list[SourceStatus]:
        """Return how far the source is."""
        return list(source_statuses(self.reader, self.app.system, self.logs))

    def is_relayed(self) -> bool:
        """Return whether all records are relayed, or behind a stop, and all commands are handled."""
        try:
            left = [each for each in self.statuses() if each.stopped is None and (each.next is None or each.lag)]
            records = [
                each
                for each in left
                if each.next is None or any(self.reader.read(self.topic, each.partition, each.next))
            ]
        except LogUnavailable:  # For example while the transaction of a dead worker is open.
            return False
        return not records and self.is_done()

    def stopped(self) -> dict[int, tuple[str, int]]:
        """Return which partitions have stopped, why, and at which offset."""
        try:
            found = self.statuses()
        except LogUnavailable:
            return {}
        return {each.partition: (each.stopped.what, each.stopped.offset) for each in found if each.stopped is not None}

    def ask(self, partition: int, request: SourceRequest) -> None:
        """Ask as an operator does."""
        place = next(each.place for each in self.statuses() if each.partition == partition)
        topic = f"{self.app.system.name}.sources"
        self._appender.append([Output(topic, place.relay, place.request_key, encode_source(request))])

    def check(self) -> None:
        """Compare what the books were told with the topic; the log must be whole."""
        hosted = self.app.system.hosted[self.app.Book]
        for key, wanted in self.expected.items():
            state = entity_state(self.reader, self.app.system, hosted, key).state
            told = () if state is None else state.pages
            for partition in range(PARTITIONS):
                assert [page for page in told if page[0] == partition] == [p for p in wanted if p[0] == partition]
        report = verify(self.reader, self.app.system)
        assert report.ok, [check for check in report.checks if not check.ok]

    def deaths(self) -> int:
        """Count the processes that were killed."""
        return sum(1 for report in self.reported(WorkerExited) if report.how == "SIGKILL")

    def close(self) -> None:
        """See ``Trial``."""
        self.logs.close()
        super().close()


def made(url: str, monkeypatch: pytest.MonkeyPatch, **environment: str) -> SourceTrial:
    """Return a new system on a log."""
    name = uuid4().hex[:8]
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("KILLED_NAME", "")  # Restores what `application` sets.
    for variable, value in {"FED_SYSTEM": f"fed-{name}", "FED_TOPIC": f"lines-{name}", **environment}.items():
        monkeypatch.setenv(variable, value)
    return SourceTrial(application("unused", "tests.apps.fed_node"), url)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SourceTrial]:
    """Yield a new system on a file; what kills a process is found at the second death."""
    environment = {"REPERTORY_DEATHS_MAX": "2", "REPERTORY_PROGRESS_TIMEOUT_S": "5"}
    trial = made(f"sqlite:{tmp_path / 'fed.db'}", monkeypatch, FED_MENDED=str(tmp_path / "mended"), **environment)
    yield trial
    trial.close()


def test_a_node_relays_in_one_process_beside_its_workers(trial: SourceTrial) -> None:
    """It is killed and comes back; the workers are not disturbed."""
    node = trial.node("one", workers=2)
    for number in range(30):
        trial.produce(number % PARTITIONS, KEYS[number % 4] + "a" * (number % 4 != 0))
        if number == 15:
            trial.until(lambda: trial.is_relayed() and SOURCES in node.workers, "the first half")
            assert sorted(node.workers) == [SOURCES, "worker-0", "worker-1"]
            workers = {name: pid for name, pid in node.workers.items() if name != SOURCES}
            os.kill(node.workers[SOURCES], signal.SIGKILL)
            trial.until(lambda: trial.deaths() == 1, "the death")
    trial.until(trial.is_relayed, "all is relayed")
    assert {name: pid for name, pid in node.workers.items() if name != SOURCES} == workers
    assert trial.stop() == [0]
    trial.check()


@pytest.mark.parametrize("how", ["exit", "hang"])
def test_a_record_that_kills_its_process_stops_its_partition_alone(
    trial: SourceTrial, how: str, tmp_path: Path
) -> None:
    """After so many deaths in a row; nobody tries it again but an operator, and a skip goes on behind it."""
    node = trial.node("one", workers=1)
    trial.produce(0, "a")
    trial.produce(0, "", how)
    trial.produce(0, "b")
    trial.until(lambda: trial.stopped() == {0: ("deadly", 1)}, "it stops", 2 * DEADLINE_S)
    trial.produce(1, "c")
    trial.until(trial.is_relayed, "the other partitions go on")
    exits = [each for each in trial.reported(WorkerExited) if each.worker == SOURCES]
    assert len(exits) == 2
    assert node.exit_code is None
    if how == "exit":
        (tmp_path / "mended").touch()
        trial.ask(0, SourceRequest(RETRY))
    else:
        trial.ask(0, SourceRequest(SKIP, "it hangs", offset=1))
    trial.until(lambda: not trial.stopped() and trial.is_relayed(), "it goes on")
    assert trial.stop() == [0]
    trial.check()


@pytest.mark.kafka
@pytest.mark.parametrize("number", range(ROUNDS))
@pytest.mark.parametrize("cluster", ["its own", "another"])
def test_a_relay_dies_at_each_of_its_points(
    kafka_url: str, monkeypatch: pytest.MonkeyPatch, cluster: str, number: int
) -> None:
    """On a real Kafka, each record is relayed once and in order, also where it is of another log than the commands.

    That is the same broker under another name: it is reached by clients of its own.
    """
    random = Random(number)  # noqa: S311 - not a secret
    points = random.sample(POINTS, len(POINTS))
    other = kafka_url.replace("127.0.0.1", "localhost") if cluster == "another" else ""
    trial = made(kafka_url, monkeypatch, FED_CLUSTER=other, FED_DELIVERY=("exactly-once", "at-least-once")[number % 2])
    with closing(trial):
        monkeypatch.setenv(kill_points.VARIABLE, ",".join(f"{point}:{1 + number % 3}" for point in points))
        trial.node("one", workers=1)
        monkeypatch.delenv(kill_points.VARIABLE)
        trial.node("two", workers=1)
        sent = 0
        while trial.deaths() < len(POINTS):
            for _ in range(20):
                how = "value" if random.random() < 0.1 else ""
                trial.produce(random.randrange(PARTITIONS), "".join(random.sample(KEYS, random.randrange(4))), how)
            sent += 20
            trial.poll(0.3)
            assert sent < 6_000, f"{trial.deaths()} of {len(POINTS)} points were reached"
        for _ in range(3):
            trial.until(lambda: all(SOURCES in node.workers for node in trial.nodes), "the restart")
            os.kill(random.choice(trial.nodes).workers[SOURCES], signal.SIGKILL)
            deaths = trial.deaths()
            for _ in range(30):
                trial.produce(random.randrange(PARTITIONS), random.choice(KEYS))
            trial.until(lambda deaths=deaths: trial.deaths() > deaths, "the death")
        trial.until(trial.is_relayed, "all is relayed", 2 * DEADLINE_S)
        trial.until(trial.is_relayed, "all commands are handled", 2 * DEADLINE_S)
        assert trial.stop() == [0, 0]
        trial.check()
