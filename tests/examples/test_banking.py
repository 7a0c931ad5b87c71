"""The banking simulation as a whole: with kills on every log, and the errors of its command."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from examples.banking import scenario, system
from examples.banking.__main__ import app
from examples.banking.accounts import Account, Open
from examples.banking.audit import ENDS, audit
from examples.banking.load import Load
from examples.banking.running_bank import BankDown
from examples.banking.simulation import Figures, Options, ProgressListener, Unfinished, simulate
from examples.banking.transfers import StartTransfer, Transfer
from repertory import ActorSystem, Done
from repertory.actors.saga.messages import CancelSaga, RetryUndo
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.simulation import Outcome
from repertory.simulation import simulate as simulate_system
from repertory.verify import Check


def run_bank(log: str, **changes: int | float) -> tuple[Figures, list[Check]]:
    """Simulate a small run, and check what holds for every run."""
    sizes: dict[str, int | float] = {"accounts": 30, "transfers": 300, "workers": 1, "kills": 3, "seed": 1}
    options = {"timeout_s": 120.0} | sizes | changes
    run = f"r{time.time_ns()}"
    figures, checks = simulate(system, Options(log=log, run=run, **options), ProgressListener())  # type: ignore[arg-type]
    assert [f"{check.name}: {check.detail}" for check in checks if not check.ok] == []
    assert sum(figures.ends.values()) == options["transfers"]
    assert figures.kills == options["kills"]
    return figures, checks


# --- whole runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_bank_in_this_process_survives_crashes(seed: int) -> None:
    """The audit passes wherever in a turn the loop is dropped."""
    figures, _ = run_bank("memory:", kills=12, seed=seed)
    assert set(figures.ends) == set(ENDS)
    assert figures.restarts == 12
    assert figures.replayed > 0
    assert figures.gaps_s


def test_a_run_without_kills() -> None:
    """Nothing is replayed or restarted, and no gap is measured."""
    figures, _ = run_bank("memory:", kills=0, transfers=20)
    assert (figures.restarts, figures.replayed, figures.gaps_s, figures.gap_median_s) == (0, 0, (), None)


@pytest.mark.processes
def test_a_bank_of_workers_survives_sigkill(tmp_path: Path) -> None:
    """Two runs on one log: the second finds the accounts, transfers and offsets of the first, and audits both."""
    log = f"sqlite:{tmp_path / 'bank.db'}"
    figures, _ = run_bank(log, workers=2, transfers=1_000)
    assert figures.restarts == 3
    _, checks = run_bank(log, workers=2, seed=2)
    details = {check.name: check.detail for check in checks}
    assert "60 accounts" in details["the balances are what was paid in"]


@pytest.mark.kafka
@pytest.mark.processes
def test_a_bank_on_kafka_survives_sigkill(kafka_url: str) -> None:
    """The same on a real Kafka."""
    figures, _ = run_bank(kafka_url, workers=2, kills=2, transfers=500)
    assert figures.restarts == 2


@pytest.mark.simulation
def test_transfers_that_are_cancelled_keep_the_money() -> None:
    """In the simulator, at any time and under all faults: each is done, or undone; an operator helps what is stuck."""
    handlers: Any = system.hosted[Transfer].behaviour.handlers
    cancel, retry = handlers[CancelSaga], handlers[RetryUndo]

    def commands(random: Random) -> Iterator[Any]:
        started: list[str] = []
        for sent in scenario.commands(random):
            yield sent
            if sent[0] is Transfer.transfer:
                started.append(sent[1])
                yield cancel, random.choice(started[-8:]), CancelSaga(reason="a mistake")
                yield retry, random.choice(started), RetryUndo(step=0)

    ends: Counter[str] = Counter()

    def invariant(outcome: Outcome) -> None:
        scenario.invariant(outcome)
        for key in (f"s-t{number}" for number in range(36)):
            if (transfer := outcome.state(Transfer, key)) is not None:
                ends[msgspec.msgpack.decode(transfer.progress.outcome or encode(Done()))["type"]] += 1

    simulate_system(system, commands=commands, invariant=invariant, seeds=range(300, 360), minimise=False)
    assert min(ends[end] for end in ("Transferred", "repertory.cancelled", "AccountClosed", "InsufficientFunds")) > 20


# --- the load -----------------------------------------------------------------------------------------------------


def test_a_seed_draws_the_same_load() -> None:
    """The load depends on the seed only."""

    def sent(seed: int) -> list[object]:
        load = Load("r", accounts=20, transfers=200, seed=seed)
        return [*load.openings(), *load.transfers()]

    assert sent(1) == sent(1)
    assert sent(1) != sent(2)


def test_some_transfers_are_sent_twice() -> None:
    """A repeated transfer has the same accounts and amount, and follows the first."""
    keys = [key for _, key, _ in Load("r", accounts=20, transfers=1_000, seed=1).transfers()]
    assert len(set(keys)) == 1_000
    assert 1_000 < len(keys) < 1_050


# --- errors -------------------------------------------------------------------------------------------------------


def test_a_run_that_takes_too_long_is_given_up() -> None:
    """The error has the number of transfers that have ended."""
    with pytest.raises(Unfinished, match=r"not finished after 0\.001 s: 0 of 300 transfers"):
        run_bank("memory:", timeout_s=0.001)


@pytest.mark.processes
def test_workers_that_end_by_themselves_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run ends at once, not at its timeout. Here the workers cannot import their system."""
    monkeypatch.setattr("examples.banking.simulation.TARGET", "examples.banking.nowhere:system")
    with pytest.raises(BankDown, match="ended by itself with exit code"):
        run_bank(f"sqlite:{tmp_path / 'bank.db'}", workers=2)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--log", "memory:", "--workers", "2"], 64, "memory: is the memory of one process"),
        (["--log", "nowhere:"], 64, "'nowhere:' names no log"),
        (["--log", "sqlite:/no/such/directory/bank.db"], 64, "there is no directory /no/such/directory"),
        (["--log", "memory:", "--run", "a b"], 64, "letters, digits"),
        (["--log", "memory:", "--transfers", "0"], 2, "--transfers"),
        (["--log", "memory:", "--kills", "-1"], 2, "--kills"),
        (["--log", "memory:", "--accounts", "many"], 2, "--accounts"),
        (["--log", "memory:", "--timeout", "0"], 2, "--timeout"),
    ],
)
def test_bad_arguments_get_a_sentence(arguments: list[str], code: int, sentence: str) -> None:
    """Each error is one sentence and a non-zero exit code, and nothing is started."""
    result = CliRunner().invoke(app, arguments)
    assert sentence in result.output.replace("\n", " ")
    assert result.exit_code == code
    assert "Traceback" not in result.output


def test_the_command_prints_what_happened() -> None:
    """The command prints the figures of the run and the checks of the audit."""
    result = CliRunner().invoke(app, ["--log", "memory:", "--accounts", "20", "--transfers", "200", "--kills", "2"])
    assert result.exit_code == 0
    for words in ("transfers completed", "throughput", "2, 2", "records replayed", "kill to next commit", "audit"):
        assert words in result.output
    for words in ("one of them", "account.withdraw", "undone", "account.deposit", "cannot be undone"):
        assert words in result.output, "the steps of a transfer that was refunded"
    assert "FAILED" not in result.output


@pytest.mark.processes
def test_a_failed_audit_fails_the_command(tmp_path: Path) -> None:
    """The output names the check that failed, and its offenders."""
    log = f"sqlite:{tmp_path / 'bank.db'}"
    finish_small_bank(system, log)
    with closing(connect(log).appender()) as appender:
        appender.append([Output("bank.dead-letters", 0, b"k", b"", (("cause", b"c"), ("error-message", b"planted")))])
    with closing(connect(log).reader()) as reader:
        assert [check.name for check in audit(reader, system) if not check.ok] == ["dead letters"]
    result = CliRunner().invoke(app, ["--log", log, "--accounts", "5", "--transfers", "20", "--kills", "0"])
    assert "bank.dead-letters/0@" in result.output
    assert f"banking: the audit of {log} failed: dead letters" in result.output.replace("\n", "")
    assert result.exit_code == 1


def finish_small_bank(bank: ActorSystem, log: str) -> None:
    with bank.start(log) as running:
        running.client.tell(Account.open, "a", Open(initial=5))
        running.client.tell(Account.open, "b", Open(initial=5))
        running.client.tell(Transfer.transfer, "t", StartTransfer(source="a", target="b", amount=3))
        running.settle()
