"""``python -m examples.banking``: run the bank under load, kill its workers, and audit the log."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table
from rich.text import Text

from examples.banking import system
from examples.banking.audit import ENDS
from examples.banking.running_bank import BankDown
from examples.banking.simulation import Figures, Options, ProgressListener, Unfinished, simulate
from examples.banking.transfers import Transfer
from repertory import LogError, TargetError
from repertory.verify import Check

#: sysexits.h: the call must be corrected.
EX_USAGE = 64

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


class Bars(ProgressListener):
    """Two bars: the transfers that have ended, and the records that the audit has read."""

    def __init__(self, progress: Progress, transfers: int) -> None:
        self._progress = progress
        self._transfers = transfers
        self._run: TaskID | None = None
        self._audit: TaskID | None = None

    def ended(self, transfers: int, kills: int) -> None:
        """See `ProgressListener`."""
        if self._run is None:
            self._run = self._progress.add_task("transfers", total=self._transfers)
        self._progress.update(self._run, completed=transfers, description=f"transfers, {kills} kills")

    def auditing(self, records: int) -> None:
        """See `ProgressListener`."""
        self._audit = self._progress.add_task("records audited", total=records)

    def audited(self, records: int) -> None:
        """See `ProgressListener`."""
        if self._audit is not None:
            self._progress.advance(self._audit, records)

    def finished(self) -> None:
        """See `ProgressListener`."""
        if self._audit is not None:
            self._progress.update(self._audit, total=self._progress.tasks[self._audit].completed)


@app.command()
def bank(
    log: Annotated[
        str | None, typer.Option(help="memory:, sqlite:PATH or kafka://host:port; default: a new file.")
    ] = None,
    accounts: Annotated[int, typer.Option(min=1, help="Accounts to open.")] = 1_000,
    transfers: Annotated[int, typer.Option(min=1, help="Transfers between them.")] = 15_000,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes; default: 2, on memory: 1.")] = None,
    kills: Annotated[int, typer.Option(min=0, help="Workers to kill meanwhile.")] = 5,
    seed: Annotated[int, typer.Option(help="The seed of the accounts, the transfers and the kills.")] = 1,
    run: Annotated[
        str | None, typer.Option(help="The prefix of all keys, new to the log; default: time and seed.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds until the run is given up.")] = 900.0,
) -> None:
    """Transfer money, kill workers, and check the log against the promises of the bank and of the runtime."""
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    log = log or _new_log()
    options = Options(
        log=log,
        run=run or f"{time.strftime('%y%m%d-%H%M%S')}-{seed}",
        accounts=accounts,
        transfers=transfers,
        workers=workers or (1 if log == "memory:" else 2),
        kills=kills,
        seed=seed,
        timeout_s=timeout,
    )
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with _sentences():
        with Progress(*columns, console=console) as progress:
            figures, checks = simulate(system, options, Bars(progress, transfers))
        show_figures(figures)
        show_checks(checks)
    if failed := [check.name for check in checks if not check.ok]:
        errors.print(f"banking: the audit of {log} failed: {', '.join(failed)}", soft_wrap=True, markup=False)
        raise typer.Exit(1)


def _new_log() -> str:
    log = f"sqlite:{Path(tempfile.mkdtemp(prefix='banking-')) / 'bank.db'}"
    console.print(f"log: {log}", soft_wrap=True)
    return log


@contextmanager
def _sentences() -> Iterator[None]:
    """Turn each error that a user can act on into one sentence and a non-zero exit code."""
    try:
        yield
    except (BankDown, Unfinished) as error:
        code, sentence = 1, str(error)
    except (LogError, TargetError, ValueError) as error:
        code, sentence = EX_USAGE, str(error)
    else:
        return
    errors.print(f"banking: {sentence}", soft_wrap=True, markup=False)
    raise typer.Exit(code)


def show_figures(figures: Figures) -> None:
    """Print the figures of the run."""
    table = Table(title="run", show_header=False)
    for end in ENDS:
        table.add_row(f"transfers {end}", f"{figures.ends.get(end, 0):,}")
    table.add_row("throughput", f"{figures.per_second:,.0f} transfers/s over {figures.seconds:.1f} s")
    table.add_row("kills, restarts", f"{figures.kills}, {figures.restarts}")
    table.add_row("records replayed", f"{figures.replayed:,}")
    if figures.gap_median_s is not None:
        gap = f"median {figures.gap_median_s:.3f} s, max {max(figures.gaps_s):.3f} s ({len(figures.gaps_s)} shards)"
        table.add_row("kill to next commit", gap)
    console.print(table)
    if figures.refunded is not None:
        show_steps(*figures.refunded)


def show_steps(key: str, transfer: Transfer) -> None:
    """Print the recorded steps of a transfer, as ``repertory sagas show`` does while it is under way."""
    table = Table("step", "asked", "answer", "undo", title=f"one of them, {key}")
    for step in transfer.progress.steps:
        asked = f"{step.target}.{step.handler} {step.key}"
        undo = "cannot be undone" if step.is_pivot else "undone" if step.undone else "-"
        table.add_row(str(step.n), asked, "rejected" if step.rejected else "applied", undo)
    console.print(table)


def show_checks(checks: list[Check]) -> None:
    """Print the checks of the audit."""
    columns = (Column(name, overflow="fold") for name in ("check", "", "detail"))
    table = Table(*columns, title="audit of the committed records")
    for check in checks:
        cells = (check.name, "ok" if check.ok else "FAILED", check.detail)
        table.add_row(*map(Text, cells))  # As Text, so that brackets in a detail are not read as markup.
    console.print(table)


if __name__ == "__main__":
    app()
