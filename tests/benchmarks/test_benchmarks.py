"""The benchmarks, in their short form: what they run is right, and they say so if it is not. No time is asserted."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import check, report
from benchmarks.ask import HTTP, NAMES, kinds
from benchmarks.asker import Latency, UnansweredError, ask
from benchmarks.growth import entities, shards
from benchmarks.latency import highest_rate, latencies
from benchmarks.processes import Program, bare, repertory
from benchmarks.report import Results
from benchmarks.restore import Restored, handover, kills
from benchmarks.throughput import Throughput, UnbalancedError, check_balances, ledger, prepare
from tests.support.kafka.broker import Broker

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker whose process is measured."""
    made = Broker().start()
    yield made
    made.stop()


@pytest.mark.parametrize(
    "program",
    [bare("two", processes=2), repertory(workers=2), repertory(delivery="at-least-once")],
    ids=["two bare loops", "two workers", "at-least-once"],
)
def test_each_program_counts_every_deposit(broker: Broker, program: Program) -> None:
    """Its balances are checked by the run itself; the figures are those of one run."""
    found = ledger(broker, program, 4_000, accounts=100)
    assert found.commands_s > 0


def test_a_program_that_ends_is_named(broker: Broker) -> None:
    """With what it said last: nobody waits for a program that is gone."""
    program = Program("dead", lambda *_: [[sys.executable, "-c", "import sys; sys.exit('no such bank')"]])
    with pytest.raises(RuntimeError, match=r"(?s)ended with 1.*no such bank"):
        ledger(broker, program, 100)


def test_a_lost_deposit_is_found(broker: Broker) -> None:
    """A program that emits nothing has lost every deposit."""
    prepare(broker, "lossy", 10, accounts=5)
    with pytest.raises(UnbalancedError, match="has 0 events of 2"):
        check_balances(broker.address, "lossy", 10, accounts=5)


def test_asks_are_answered(broker: Broker) -> None:
    """Each of them, idle and under load; an ask that nobody answers is an error."""
    for program in (bare(), repertory()):
        assert highest_rate(broker, program, 3_000) > 0
        found = latencies(broker, program, 1.0, {"some": 200.0})
        assert [*found] == ["idle", "some"]
        assert all(0 < each.p50 <= each.p99 <= each.p999 for each in found.values())
    prepare(broker, "nobody", 0)
    with pytest.raises(UnansweredError, match="10 of 10 were not answered"):
        ask(broker.address, "nobody", "nobody.account.events", 0, 10, patience_s=0.5)


def test_asks_of_each_kind(broker: Broker) -> None:
    """All are answered, over HTTP too."""
    found = kinds(broker, 1_000, 0.5, {"some": 100.0}, "at-least-once")
    assert [*found] == ["bare loop", *NAMES.values(), HTTP]
    assert all(each.cpu_us > 0 and each.rate > 0 and each.loads for each in found.values())
    results = Results(asks={name: [each] for name, each in found.items()})
    assert all(name in report.text(results) for name in found)


def test_a_killed_worker_and_a_second_node(broker: Broker) -> None:
    """Every shard commits again after each kill, and while a second node comes and goes."""
    assert all(0 < each.first_s <= each.all_s for each in kills(broker, 1_000, 2_000, 2))
    assert handover(broker, 1_000, watched_s=3.0).quiet_s > 0


def test_growth(broker: Broker) -> None:
    """Shards and entities as asked for; a worker of so many shards takes no more than a poll can."""
    assert entities(100, 2_000).entities == 100
    found = shards(broker, 40, 4_000, watched_s=0.5)
    assert (found.shards, found.threads > 40, found.descriptors > 40) == (40, True, True)


def test_what_was_measured_is_shown(tmp_path: Path) -> None:
    """Medians and ratios round by round; the results are read as they were written."""
    results = Results(
        measured="2026-01-01",
        ledger={"bare loop": [Throughput(200, 5, 1, 0)] * 2, "ours": [Throughput(100, 20, 1, 0.1)] * 2},
        latency={"ours": [{"idle": Latency(50, 5, 9, 10)}]},
        restore={"1,000": [Restored(0.5, 0.6, 0.1, 40)], "1,000, after 9,000 commands": [Restored(0.5, 0.7, 0.2, 40)]},
    )
    rows = [" ".join(line.split()) for line in report.text(results).splitlines()]
    assert "ours 100 100 to 100 0.50 20.0 4.00 1.0 0.10" in rows
    assert "ours idle 50 5.0 9.0 10.0" in rows
    assert "1,000, after 9,000 commands 0.50 0.70 0.70 0.20 5,000 40" in rows
    path = tmp_path / "results.json"
    report.keep(results, path)
    assert report.read(path) == results


def test_what_became_worse_is_named() -> None:
    """By more than a tenth, whichever way is worse."""
    higher, lower = "commands/s to the bare loop's", "CPU of a command to the bare loop's"
    kept = {higher: 0.5, lower: 2.0, "gone": 1.0}
    assert check.regressions(kept, {higher: 0.46, lower: 2.15, "new": 9.0}) == {}
    assert check.regressions(kept, {higher: 0.4, lower: 2.5}) == {
        higher: pytest.approx(0.25),
        lower: pytest.approx(0.25),
    }
    assert check.regressions(kept, {higher: 0.9, lower: 1.0}) == {}
