"""``repertory projections`` and ``repertory project``: what follows the events of a system in a database."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from repertory.bridge.log.port import Backend
from repertory.bridge.log_lines import LogOptions
from repertory.bridge.system.committed import current_record
from repertory.bridge.system.projected import ProjectionStatus, ProjectionTrouble
from repertory.bridge.system.system import ActorSystem, load_system
from repertory.cli.shared import (
    EX_UNAVAILABLE,
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

if TYPE_CHECKING:
    from repertory.projections.operate import ProjectionOperator
    from repertory.projections.progress import ProjectedPlace
    from repertory.projections.projection import BoundProjection

projections = typer.Typer(
    name="projections", help="Tables that follow the events.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(metavar="PROJECTION", help="The projection's name, as list shows it.")]
Version = Annotated[int | None, typer.Option("--version", help="Its version [the latest in the code].")]
Shard = Annotated[str, typer.Argument(metavar="ENTITY/N", help="The shard, as in account/0.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]

_ERROR_CHARS_SHOWN = 200


def project(
    context: typer.Context,
    target: Target,
    log: LogUrl,
    projectors: Annotated[int, typer.Option(min=1, help="Processes for each projection.")] = 1,
    node: Annotated[str | None, typer.Option(help="This node's name [the host name, and -projectors].")] = None,
    kafka_config: KafkaConfig = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log DEBUG lines too.")] = False,
    log_config: Annotated[
        Path | None, typer.Option(help="How to log: JSON for logging.config.dictConfig, or an INI file for fileConfig.")
    ] = None,
) -> None:
    """Keep the projections of a system up to date, supervised, until SIGTERM or Ctrl-C. It handles no commands."""
    with sentences():
        system = load_system(target)
        config = None if kafka_config is None else str(kafka_config)
        options = LogOptions(verbose or context.obj, "text", None if log_config is None else str(log_config))
        code = system.run(
            target, log=log, workers=0, projectors=projectors, node=node, kafka_config=config, log_options=options
        )
    raise typer.Exit(code)


@contextlib.contextmanager
def _opened(target: str, log: str, kafka_config: KafkaConfig) -> Iterator[tuple[ActorSystem, Backend]]:
    """Give a system and its log; an error is a sentence and an exit code."""
    try:
        with sentences():
            system = configured(target)
            with opened(log, kafka_config, system.settings, system=system) as backend:
                yield system, backend
    except ProjectionTrouble as trouble:
        errors.print(f"repertory: {trouble}", soft_wrap=True)
        raise typer.Exit(EX_UNAVAILABLE) from trouble


def ends_of(system: ActorSystem, backend: Backend) -> dict[tuple[str, int], int]:
    """Return the seq after the last event of each shard that is projected, by entity and partition."""
    found = {}
    with closing(backend.reader()) as reader:
        for hosted in system.hosted.values():
            if system.projections.follow(hosted.behaviour.entity):
                for partition in range(hosted.partitions):
                    record = current_record(reader, system, hosted.behaviour, partition)
                    found[hosted.behaviour.name, partition] = record.seq
    return found


# --- list ---------------------------------------------------------------------------------------------------------


@projections.command("list")
def list_projections(target: Target, log: LogUrl, as_json: AsJson = False, kafka_config: KafkaConfig = None) -> None:
    """List the projections: their versions, how far each is behind, where it has stopped and which keys are parked."""
    with _opened(target, log, kafka_config) as (system, backend):
        ends = ends_of(system, backend)
        found = [each.status(backend, ends) for each in system.projections]
    if as_json:
        console.show_json(found)
    else:
        console.print(projections_table(found))


def projections_table(found: Sequence[ProjectionStatus]) -> TextTable:
    """Return a table with a row for each partition of each projection."""
    table = TextTable("projection", "version", "state", "shard", "events", "lag", "parked keys", "stopped at")
    for each in found:
        if each.trouble or not each.partitions:
            table.row(each.name, each.version, each.state, "-", "-", "-", "-", each.trouble)
        for part in each.partitions:
            stopped = "" if part.failed is None else f"@{part.failed}: {part.error[:_ERROR_CHARS_SHOWN]}"
            parked = ", ".join(f"{key} ({count})" for key, count in sorted(part.parked.items()))
            shard = f"{part.entity}/{part.partition}"
            table.row(each.name, each.version, each.state, shard, part.seq, part.lag, parked, stopped)
    return table


# --- what fails ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _operating(
    target: str, log: str, kafka_config: KafkaConfig, name: str, version: int | None, shard: str
) -> Iterator[tuple[ProjectionOperator, ProjectedPlace]]:
    """Give an operator of a projection, and the partition that is meant."""
    with _opened(target, log, kafka_config) as (system, backend):
        bound = _bound(system, name, version)
        from repertory.projections.operate import ProjectionOperator  # noqa: PLC0415  the extra may not be installed

        entity, _, partition = shard.rpartition("/")
        if not partition.isascii() or not partition.isdigit():
            raise LookupError(f"{shard!r} is not a shard, such as account/0")
        with closing(ProjectionOperator(bound, backend)) as operator:
            yield operator, operator.place(entity, int(partition[:9]))


def _bound(system: ActorSystem, name: str, version: int | None) -> BoundProjection:
    if importlib.util.find_spec("sqlalchemy") is None:
        raise ValueError("sqlalchemy is not installed: pip install 'repertory[projections]'")
    from repertory.projections.projection import BoundProjection  # noqa: PLC0415  as above

    bound = system.projections.named(name, version)
    assert isinstance(bound, BoundProjection), bound
    return bound


@projections.command("retry")
def retry_event(
    target: Target,
    name: Name,
    shard: Shard,
    log: LogUrl,
    key: Annotated[str | None, typer.Option("--key", help="A parked key: its events are applied now.")] = None,
    version: Version = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Let a partition that has stopped go on with the event that failed; with --key, apply what is parked.

    A key that still fails stays parked, and what failed is printed.
    """
    with _operating(target, log, kafka_config, name, version, shard) as (operator, place):
        if key is None:
            offset = operator.retry(place)
            console.print(f"{name}: {shard} goes on at offset {offset}", soft_wrap=True)
        else:
            count = operator.retry_key(place, key)
            console.print(f"{name}: {count} events of {key!r} are applied, and the key goes on", soft_wrap=True)


@projections.command("skip")
def skip_event(
    target: Target,
    name: Name,
    shard: Shard,
    offset: Annotated[int, typer.Argument(min=0, help="That of the event that fails, as list shows it.")],
    log: LogUrl,
    version: Version = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Go on behind an event that fails: its rows are missing from then on. Does nothing for any other offset."""
    with _operating(target, log, kafka_config, name, version, shard) as (operator, place):
        key = operator.skip(place, offset)
    of = f" of the parked key {key!r}" if key else ""
    console.print(f"{name}: {shard}@{offset}{of} is skipped", soft_wrap=True)


# --- versions -----------------------------------------------------------------------------------------------------


@projections.command("rebuild")
def rebuild(target: Target, name: Name, log: LogUrl, version: Version = None, kafka_config: KafkaConfig = None) -> None:
    """Build a version beside the one that serves, up to now. Projectors that run help, and keep it up to date."""
    from repertory.projections.rebuild import Rebuild  # noqa: PLC0415  the extra may not be installed

    with _opened(target, log, kafka_config) as (system, backend):
        bound = _bound(system, name, version)
        ends = ends_of(system, backend)
        mine = {(place.entity, place.partition): ends[place.entity, place.partition] for place in bound.places()}
        bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
        )
        with closing(Rebuild(bound, system, backend)) as builder, bar:
            task = bar.add_task(f"{bound}", total=sum(mine.values()))
            builder.run(mine, lambda done: bar.update(task, completed=done))
            then = "readers see it" if builder.serves else "let readers see it with: repertory projections switch"
    console.print(f"{bound} is built; {then}", soft_wrap=True)


@projections.command("switch")
def switch(target: Target, name: Name, log: LogUrl, version: Version = None, kafka_config: KafkaConfig = None) -> None:
    """Let readers see a version that is built: the views show its tables from then on, and never an older moment."""
    from repertory.projections.rebuild import Rebuild  # noqa: PLC0415  as above

    with _opened(target, log, kafka_config) as (system, backend):
        bound = _bound(system, name, version)
        with closing(Rebuild(bound, system, backend)) as builder:
            served = builder.switch(ends_of(system, backend))
    before = f" instead of version {served}, which can be dropped" if served else ""
    console.print(f"{bound} serves{before}", soft_wrap=True)


@projections.command("drop")
def drop(
    target: Target,
    name: Name,
    log: LogUrl,
    version: Annotated[int, typer.Option("--version", help="Which one.")],
    serving: Annotated[bool, typer.Option("--serving", help="Drop it also if readers see it.")] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Drop the tables of a version. Leave its class out of the code afterwards, or build it anew with rebuild."""
    from repertory.projections.rebuild import Rebuild  # noqa: PLC0415  as above

    with _opened(target, log, kafka_config) as (system, backend):
        bound = _bound(system, name, version)
        with closing(Rebuild(bound, system, backend)) as builder:
            builder.drop(serving=serving)
    console.print(f"{bound} is dropped", soft_wrap=True)
