"""What an operator sees of a node, in the log and in ``repertory status``: workers, counters, the last incidents."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory import ActorSystem
from repertory.actors.shard.turn_result import Incident
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import Backend, MemberDescription
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.node import publisher as publisher_module
from repertory.bridge.node.metrics import SERIES_MAX, Metrics
from repertory.bridge.node.publisher import Publisher
from repertory.bridge.node.status import INCIDENTS_MAX, NodeStatus, NodeStatusRecord, decode_node
from repertory.bridge.reports import (
    EntityOwes,
    IncidentReport,
    NodeReport,
    ShardAborted,
    ShardAssigned,
    ShardFailed,
    ShardFenced,
    ShardHandedOver,
    ShardLost,
    ShardReport,
    ShardRestored,
    ShardRestoring,
    ShardStalled,
)
from repertory.bridge.system.settings import Settings
from repertory.bridge.topics import incidents_spec, incidents_topic
from repertory.bridge.worker_log import WorkerLog
from repertory.inspect.nodes import standing
from repertory.inspect.problems import find_problems, summary
from repertory.inspect.shards import ShardStatus
from repertory.supervision.process.proc import pid_start
from repertory.supervision.process.reports import (
    Escalated,
    NodeStarted,
    NodeStopped,
    WorkerDown,
    WorkerExited,
    WorkerFailed,
    WorkerRunning,
    WorkerStarted,
    WorkerWaits,
)
from tests.apps import counting
from tests.bridge.node.some_reports import any_report

NOW_MS = 1_700_000_000_000
AT_S = NOW_MS / 1000
W0 = "worker-0"


def incidents(*reports: NodeReport) -> NodeStatus:
    """Return what some reports amount to."""
    found = NodeStatus("one", os.getpid(), pid_start(os.getpid()) or "", NOW_MS)
    for each in reports:
        found.take(each)
    return found


def shard_failed(shard: str = "a/3", reason: str = "no") -> ShardFailed:
    """Return the report of a shard's failure."""
    return ShardFailed(at_s=AT_S, worker=W0, shard=shard, error="KeyError", reason=reason, next="n")


DIED: tuple[NodeReport, ...] = (
    NodeStarted(at_s=AT_S, pid=1),
    WorkerStarted(at_s=AT_S, worker=W0, incarnation=1, pid=2),
    WorkerRunning(at_s=AT_S, worker=W0, incarnation=1, pid=2),
    WorkerExited(at_s=AT_S, worker=W0, incarnation=1, pid=2, how="SIGKILL"),
    WorkerFailed(
        at_s=AT_S, worker=W0, incarnation=1, error_type="ProcessExited", message="ended with SIGKILL",
        where="worker-0#1", traceback="",
    ),
    WorkerWaits(at_s=AT_S, worker=W0, incarnation=1, delay_s=0.5),
)  # fmt: skip


def test_a_death_is_one_incident_that_says_what_happens_next() -> None:
    """What, where and what happens next are one entry, though the supervisor decides a moment later."""
    record = incidents(*DIED).record(NOW_MS)
    assert [(i.what, i.where, i.next) for i in record.incidents] == [
        ("ProcessExited: ended with SIGKILL", "worker-0#1", "it is started again in 0.50 s")
    ]
    assert (record.state, record.workers["worker-0"].state) == ("running", "ended with SIGKILL")
    assert record.restarts_since(NOW_MS - 3_600_000) == 0


def test_a_worker_that_is_started_again_is_a_restart() -> None:
    """The first start is none; a restart is counted in its metric, and for an hour among those of the last hour."""
    found = incidents(*DIED, WorkerStarted(at_s=AT_S, worker=W0, incarnation=2, pid=3))
    record = found.record(NOW_MS)
    assert record.metrics == {'repertory_worker_restarts_total{worker="worker-0"}': 1}
    assert (record.workers["worker-0"].pid, record.workers["worker-0"].restarts) == (3, 1)
    assert record.restarts_since(NOW_MS - 3_600_000) == 1
    assert record.restarts_since(NOW_MS + 60_000) == 0


@pytest.mark.parametrize(
    ("events", "next_says"),
    [
        ((WorkerDown(at_s=AT_S, worker=W0, incarnation=1, pid=2),), "it stays down"),
        ((Escalated(at_s=AT_S, message="gone", where="worker-0#1"),), "the node gives up"),
    ],
)
def test_a_supervisor_that_gives_up_says_so(events: tuple[NodeReport, ...], next_says: str) -> None:
    """A worker that is not restarted, and a node that gives up, are told from one that will be back."""
    assert incidents(*DIED[:-1], *events).record(NOW_MS).incidents[-1].next == next_says


@pytest.mark.parametrize(
    ("reported", "metric", "what"),
    [
        (
            IncidentReport(
                at_s=AT_S, worker=W0, where="a/3@7 key 'k'", error="ValueError", reason="no", outcome="parked", next="n"
            ),
            'repertory_incidents_total{entity="a",outcome="parked"}',
            "ValueError: no",
        ),
        (
            shard_failed(),
            'repertory_shard_failures_total{shard="a/3"}',
            "KeyError: no",
        ),
        (
            ShardAborted(at_s=AT_S, worker=W0, shard="a/3", reason="no", routine=False, next="n"),
            'repertory_shard_aborts_total{shard="a/3"}',
            "no",
        ),
        (
            ShardFenced(at_s=AT_S, worker=W0, shard="a/3", reason="no", next="n"),
            'repertory_shard_fencings_total{shard="a/3"}',
            "fenced: no",
        ),
        (
            ShardStalled(at_s=AT_S, worker=W0, shard="a/3", reason="no", next="n"),
            'repertory_shard_stalls_total{shard="a/3"}',
            "takes no commands: no",
        ),
    ],
)
def test_each_failure_is_a_metric_and_an_incident(reported: NodeReport, metric: str, what: str) -> None:
    """Whatever fails in a shard or an entity is counted under its name and shown with what happens next."""
    record = incidents(reported).record(NOW_MS)
    assert record.metrics == {metric: 1}
    assert [(i.what, i.next, i.worker) for i in record.incidents] == [(what, "n", "worker-0")]


def test_what_is_owed_is_shown_by_entity() -> None:
    """Added up over workers; the oldest timer's age is that of the moment; a worker that is gone owes nothing."""
    owed: list[NodeReport] = [
        EntityOwes(at_s=AT_S, worker=W0, entity="a", timers=3, due_s=AT_S - 10, effects=5, running=2, parked=1),
        EntityOwes(at_s=AT_S, worker="worker-1", entity="a", timers=4, due_s=AT_S - 7, effects=2, not_in_build=2),
    ]
    found = incidents(*owed)
    assert not found.take(owed[0]), "no record is written for it alone"
    assert found.record(NOW_MS + 1_000).metrics == {
        'repertory_timers{entity="a"}': 7,
        'repertory_timer_overdue_seconds{entity="a"}': 11.0,
        'repertory_effects{entity="a"}': 7,
        'repertory_effects_running{entity="a"}': 2,
        'repertory_effects_parked{entity="a"}': 1,
        'repertory_effects_not_in_build{entity="a"}': 2,
    }
    found.take(WorkerExited(at_s=AT_S, worker=W0, incarnation=1, pid=2, how="SIGKILL"))
    left = found.record(NOW_MS).metrics
    assert left['repertory_timer_overdue_seconds{entity="a"}'] == 7.0
    assert left['repertory_effects{entity="a"}'] == 2
    found.take(EntityOwes(at_s=AT_S, worker="worker-1", entity="a"))
    assert set(found.record(NOW_MS).metrics.values()) == {0}
    found.end(0)
    assert found.record(NOW_MS).metrics == {}


def test_a_loop_of_failures_drives_nothing_else_out() -> None:
    """The same incident again and again is one entry with a count; of others the last are kept, and bounded."""
    again = shard_failed()
    record = incidents(*DIED, *[again] * 100).record(NOW_MS)
    assert [incident.count for incident in record.incidents] == [1, 100]
    others = [shard_failed(f"a/{n}", "x" * 9_999) for n in range(100)]
    record = incidents(*others).record(NOW_MS)
    assert len(record.incidents) == INCIDENTS_MAX
    assert len(msgspec.msgpack.encode(record)) < 20_000


def test_a_routine_abort_is_counted_and_shown_to_nobody() -> None:
    """A rebalance aborts what is under way as a matter of course."""
    found = incidents()
    assert not found.take(ShardAborted(at_s=AT_S, worker=W0, shard="a/3", reason="a rebalance", routine=True, next="n"))
    assert found.record(NOW_MS).incidents == ()
    assert found.record(NOW_MS).metrics == {'repertory_shard_aborts_total{shard="a/3"}': 1}


def test_planned_handovers_are_one_entry_with_the_longest_gap() -> None:
    """A node that leaves hands over all its shards at once: they are counted, and shown as one."""
    gaps = [0.2, 0.7, 0.4]
    handed = [
        ShardHandedOver(at_s=AT_S, worker=W0, shard=f"a/{n}", owner="two/1", gap_s=gap) for n, gap in enumerate(gaps)
    ]
    record = incidents(*handed).record(NOW_MS)
    (entry,) = record.incidents
    assert (entry.what, entry.where) == ("handed over by two/1", "a/2 and 2 more")
    assert entry.next == "served again, after a gap of at most 0.70 s"
    assert record.metrics["repertory_handovers_total"] == 3
    assert round(record.metrics["repertory_handover_gap_seconds_total"], 6) == 1.3


def test_an_end_without_a_final_report_is_no_stop() -> None:
    """A node that was killed has not reported that it stopped."""
    last = NodeStopped(at_s=AT_S, pid=1, exit_code=0, sentence="", killed=0, left=0)
    stopped, killed = incidents(*DIED, last), incidents(*DIED)
    for each in (stopped, killed):
        each.end(0)
    assert stopped.record(NOW_MS).state == "stopped"
    assert killed.record(NOW_MS).state.startswith("ended without a final report")


@given(st.text(), st.text())
def test_series_are_written_as_prometheus_wants_them(first: str, second: str) -> None:
    """A label's value may be anything; no two series look alike."""
    metrics = Metrics()
    metrics.add("repertory_things_total", a=first, b=second)
    metrics.add("repertory_things_total", a=first, b=second + "x")
    series = metrics.series()
    assert len(series) == 2
    for name in series:
        assert re.fullmatch(r'repertory_things_total\{a="([^"\\\n]|\\.)*",b="([^"\\\n]|\\.)*"\}', name), name


def test_series_are_bounded() -> None:
    """What comes beyond the bound is counted, though nobody knows of what."""
    metrics = Metrics()
    for number in range(SERIES_MAX + 10):
        metrics.add("repertory_things_total", shard=str(number))
    assert len(metrics.series()) == SERIES_MAX + 1
    assert sum(metrics.series().values()) == SERIES_MAX + 10


# --- how a node stands ----------------------------------------------------------------------------------------


def node(**changes: object) -> NodeStatusRecord:
    """Return the record of a node that runs in this process, changed."""
    return msgspec.structs.replace(incidents(*DIED).record(NOW_MS), **changes)


def test_a_node_is_said_to_run_only_if_it_does() -> None:
    """The kernel is asked where that is possible; a node elsewhere is shown with the age of its last report."""
    later_ms = NOW_MS + 10 * 60_000
    assert standing(node(), later_ms) == "running"
    assert "process is gone" in standing(node(pid=2**22 + 1), later_ms)
    assert "10 min ago" in standing(node(pid=2**22 + 1), later_ms)
    elsewhere = node(pid_start="another-boot/1", heartbeat_s=60.0)
    assert standing(elsewhere, NOW_MS + 50_000) == "running, last reported 50 s ago"
    assert standing(elsewhere, later_ms).startswith("silent: dead or cut off from the log")
    assert standing(node(state="stopped"), later_ms) == "stopped, 10 min ago"
    assert standing(node(state="gave up: no"), later_ms) == "gave up: no, 10 min ago"


# --- in the log -----------------------------------------------------------------------------------------------


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    """Give a file that processes and threads can share."""
    backend = connect(f"sqlite:{tmp_path / 'incidents.db'}")
    yield backend
    backend.close()


def written(backend: Backend) -> list[NodeStatusRecord]:
    """Return every record that was written."""
    reader = backend.reader()
    try:
        return [decode_node(record.value or b"") for record in reader.read(incidents_topic("t"), 0)]
    finally:
        reader.close()


def test_a_burst_of_reports_is_few_records_and_the_final_one_is_whole(backend: Backend) -> None:
    """Reports are coalesced and none is lost; what was reported before the end is in the log when it is over."""
    found = incidents()
    publisher = Publisher(found, lambda: connect(backend.url), incidents_spec("t"), heartbeat_s=0.0)
    for each in [*DIED, *[shard_failed()] * 1_000]:
        if found.take(each):
            publisher.changed()
    found.end(0)
    publisher.close()
    records = written(backend)
    assert len(records) < 100
    assert records[-1] == msgspec.structs.replace(found.record(NOW_MS), at_ms=records[-1].at_ms)
    assert records[-1].incidents[-1].count == 1_000


@given(st.lists(any_report, max_size=10))
def test_any_report_may_come_at_any_time(reports: list[NodeReport]) -> None:
    """Whatever is reported, in whatever order, raises nothing, and what comes of it can be written."""
    found = incidents(*DIED, *reports)
    assert decode_node(msgspec.msgpack.encode(found.record(NOW_MS))) == found.record(NOW_MS)


def test_a_topic_that_is_not_to_be_had_is_one_line(backend: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """Where the topic cannot be, status shows less; the node goes on."""
    backend.ensure([msgspec.structs.replace(incidents_spec("t"), partitions=2)])
    publisher = Publisher(incidents(), lambda: connect(backend.url), incidents_spec("t"), heartbeat_s=0.0)
    publisher.changed()
    publisher.close()
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert "t.incidents" in caplog.text


def until_written(backend: Backend) -> None:
    """Wait until the topic has a record."""
    deadline_s = time.monotonic() + 60.0
    while incidents_topic("t") not in backend.topics() or not written(backend):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_a_topic_that_was_deleted_is_created_again(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A node that runs on writes its next record to a new topic, after one log line."""
    monkeypatch.setattr(publisher_module, "RETRY_S", 0.05)
    publisher = Publisher(incidents(), lambda: connect(backend.url), incidents_spec("t"), heartbeat_s=0.0)
    publisher.changed()
    until_written(backend)
    with closing(sqlite3.connect(tmp_path / "incidents.db", isolation_level=None, timeout=60)) as connection:
        for table in ("topic", "partition", "record"):
            connection.execute(f"DELETE FROM {table} WHERE topic = ?", (incidents_topic("t"),))  # noqa: S608
    publisher.changed()
    until_written(backend)
    publisher.close()
    assert [line.levelname for line in caplog.records] == ["WARNING"]


def test_a_log_out_of_reach_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the log says, nobody but the log line hears of it."""
    settings = Settings(connect_timeout_s=0.1)
    incident = incidents()
    publisher = Publisher(
        incident, lambda: connect("kafka://127.0.0.1:1", settings), incidents_spec("t"), heartbeat_s=0.0
    )
    publisher.changed()
    publisher.close()
    assert len([line for line in caplog.records if line.name == "repertory"]) == 1
    assert "next try" in caplog.text


def test_a_failure_is_one_log_line_whatever_its_message(caplog: pytest.LogCaptureFixture) -> None:
    """A message cannot forge a log line or control a terminal."""
    reported: list[ShardReport] = []
    worker_log = WorkerLog(reported.append)
    reason = "first\nnode-stopped exit_code=0 \x1b[2J"
    worker_log.incidents([Incident("account/3@17 key 'a'", "ValueError", reason, "its key is parked", "parked")])
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        r"account/3@17 key 'a': ValueError: first\nnode-stopped exit_code=0 \x1b[2J; its key is parked"
    ]
    assert [report.event for report in reported] == ["incident"]


# --- shards that do not serve ---------------------------------------------------------------------------------------


def of_shard(kind: type[ShardReport], shard: str = "a/3", worker: str = W0, **fields: object) -> ShardReport:
    """Return a report about a shard."""
    return msgspec.convert({"event": kind.__struct_config__.tag, "shard": shard, "worker": worker, **fields}, kind)


ASSIGNED = of_shard(ShardAssigned)
RESTORED = of_shard(ShardRestored, records=1, seconds=0.1)
ABORTED = of_shard(ShardAborted, reason="a broker", routine=False, next="n")


@pytest.mark.parametrize(
    ("reports", "down"),
    [
        ((ASSIGNED,), {"a/3": "recovering"}),
        ((ASSIGNED, of_shard(ShardRestoring, topic="t", records=1)), {"a/3": "recovering"}),
        ((ASSIGNED, RESTORED), {}),
        ((ASSIGNED, RESTORED, ABORTED), {"a/3": "starts over: a broker"}),
        ((ASSIGNED, RESTORED, ABORTED, RESTORED), {}),
        ((ASSIGNED, shard_failed()), {"a/3": "failed: no"}),
        ((ASSIGNED, of_shard(ShardLost, reason="r")), {}),
        ((ASSIGNED, of_shard(ShardFenced, reason="r", next="n")), {}),
        ((ASSIGNED, of_shard(ShardLost, worker="worker-1", reason="r")), {"a/3": "recovering"}),
        ((ASSIGNED, WorkerExited(worker=W0, incarnation=1, pid=2, how="SIGKILL")), {}),
        ((ASSIGNED, WorkerExited(worker="worker-1", incarnation=1, pid=2, how="SIGKILL")), {"a/3": "recovering"}),
        ((ASSIGNED, NodeStopped(pid=1, exit_code=0, sentence="", killed=0, left=0)), {}),
    ],
)
def test_which_shards_of_a_node_do_not_serve(reports: tuple[NodeReport, ...], down: dict[str, str]) -> None:
    """Those that were assigned and are not recovered, or are no longer; a shard that moved is its new worker's."""
    found = incidents(NodeStarted(at_s=AT_S, pid=1), *reports)
    assert found.record(NOW_MS).down == down
    found.end(0)
    assert found.record(NOW_MS).down == {}


def test_the_reasons_of_many_shards_are_bounded() -> None:
    """A thousand shards may fail, each with a long reason, and all are in one record."""
    record = incidents(*(shard_failed(f"a/{n}", "x" * 9_999) for n in range(1_000))).record(NOW_MS)
    assert len(record.down) == 1_000
    assert len(msgspec.msgpack.encode(record.down)) < 25_000


def test_a_shard_that_does_not_serve_is_a_problem() -> None:
    """Of a node that runs; what a dead one said last is about shards that others may have by now."""
    system = ActorSystem("down")
    system.host(counting.Counter, partitions=1)
    shard = ShardStatus("counter", 0, 1, 1, 0, 0, 0, [])
    place = TopicPartition("down.counter.commands", 0)
    member = MemberDescription("down/host/0", "c", "h", (place,))
    for down, kinds in (({}, []), ({"counter/0": "recovering"}, ["not-serving"]), ({"other/0": "recovering"}, [])):
        node = msgspec.structs.replace(incidents(NodeStarted(at_s=AT_S, pid=1)).record(NOW_MS), down=down)
        found = find_problems(system, [shard], [node], [member], {}, NOW_MS)
        assert [problem.kind for problem in found] == kinds
        gone = msgspec.structs.replace(node, pid=2**22 + 1)
        assert find_problems(system, [shard], [gone], [member], {}, NOW_MS) == []
    (nobody,) = find_problems(system, [shard], [node], [], {}, NOW_MS)
    assert (nobody.kind, nobody.where) == ("no-owner", "counter/0")
    assert summary([nobody], 1) == "1 shard has no owner: counter/0"
