"""``repertory verify``: check the records that a system has written to a log against its promises."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from repertory.bridge.log.port import Backend
from repertory.bridge.system.system import ActorSystem
from repertory.cli.shared import (
    HandlerOutput,
    KafkaConfig,
    LogUrl,
    Target,
    TextTable,
    configured,
    console,
    errors,
    opened,
    sentences,
)
from repertory.verify import VerificationReport, records_total
from repertory.verify import verify as verify_system


def verify(
    target: Target,
    log: LogUrl,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the whole report to this file as JSON.")
    ] = None,
    decide: Annotated[
        bool, typer.Option(help="Decide every command again and compare; needs the code that wrote the log.")
    ] = True,
    handler_output: HandlerOutput = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Check all records of a system in a log against its promises; exit 1 if one is broken. Stop the system first."""
    with sentences():
        system = configured(target)
        system.check()
        with opened(log, kafka_config, system.settings) as backend:
            _check_topics(system, backend)
            report = _verified(system, backend, decides=decide, silent=not handler_output)
        if json is not None:
            try:
                json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
            except OSError as error:
                raise ValueError(f"the report cannot be written to {json}: {error.strerror}") from error
    console.print(_table(report))
    fates = ", ".join(f"{count:,} {fate}" for fate, count in report.fates.items())
    console.print(
        f"commands: {fates or 'none'}; {report.records:,} records read in {report.seconds:.1f} s", soft_wrap=True
    )
    for sentence in report.accepted:
        console.print(f"accepted: {sentence}", soft_wrap=True)
    if report.silenced:
        errors.print(
            f"repertory: {report.silenced:,} lines that handlers logged or printed are not shown: they only decided "
            "again what they had decided; --handler-output shows them",
            soft_wrap=True,
        )
    if report.grew:
        errors.print(
            "repertory: records were added during the verification; stop the system and verify again", soft_wrap=True
        )
    raise typer.Exit(0 if report.ok else 1)


def _check_topics(system: ActorSystem, backend: Backend) -> None:
    found = backend.topics()
    for spec in system.topic_specs():
        if (count := found.get(spec.name)) != spec.partitions:
            what = "no" if count is None else f"{count} partitions of"
            raise LookupError(
                f"{backend.url} has {what} topic {spec.name!r}, the system {system.name} declares {spec.partitions} "
                "partitions; repertory topics shows what it needs"
            )


def _verified(system: ActorSystem, backend: Backend, *, decides: bool, silent: bool) -> VerificationReport:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with closing(backend.reader()) as reader, Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task("records", total=records_total(reader, system))
        return verify_system(
            reader, system, decides=decides, seen=lambda count: progress.advance(task, count), silent=silent
        )


def _table(report: VerificationReport) -> TextTable:
    table = TextTable("check", "", "records", "detail", title=f"system {report.system}")
    for check in report.checks:
        table.row(check.name, "ok" if check.ok else "FAILED", f"{check.looked_at:,}", check.detail)
    return table
