"""The command ``repertory``."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from repertory.actors.shard.changelog import ShardId
from repertory.bridge import log_lines
from repertory.bridge.log.record import Record
from repertory.bridge.log_lines import LogOptions
from repertory.bridge.system.accept import adopt as adopt_topics
from repertory.bridge.system.accept import skip_lost as skip_lost_commands
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.configuration import configuration
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem, load_system
from repertory.cli.builds import check, configuration_text, schemas
from repertory.cli.effects import effects
from repertory.cli.operate import dead_letters, parked
from repertory.cli.projections import project, projections
from repertory.cli.sagas import sagas
from repertory.cli.serve import serve
from repertory.cli.settings import settings
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, configured, console, opened, sentences
from repertory.cli.simulate import simulate
from repertory.cli.sources import sources
from repertory.cli.status import status
from repertory.cli.timers import timers
from repertory.cli.verify import verify
from repertory.inspect.readable import plain, readable, readable_key

Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", help="Log DEBUG lines too, those of libraries included."),
]


class LogFormat(enum.Enum):
    """The formats of log lines."""

    TEXT = "text"
    JSON = "json"


app = typer.Typer(
    name="repertory",
    help="Actors on Kafka: ordered per key, supervised, exactly once.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # It takes [the host name] for markup, and the help loses it.
)
app.add_typer(parked)
app.add_typer(timers)
app.add_typer(effects)
app.add_typer(sources)
app.add_typer(sagas)
app.add_typer(projections)
app.add_typer(dead_letters)
app.command()(serve)
app.command()(project)
app.command()(settings)
app.command()(simulate)
app.command()(verify)
app.command()(check)
app.command()(schemas)
app.command()(status)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"repertory {version('repertory')}")
        raise typer.Exit


@app.callback()
def main_options(
    context: typer.Context,
    verbose: Verbose = False,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Set up logging for every command."""
    log_lines.work_as("repertory")
    log_lines.set_up(LogOptions(verbose))
    context.obj = verbose


@app.command()
def run(
    context: typer.Context,
    target: Target,
    log: LogUrl = "memory:",
    workers: Annotated[int, typer.Option(min=1, help="Worker processes of this node.")] = 1,
    projectors: Annotated[int, typer.Option(min=0, help="Processes for each projection.")] = 0,
    node: Annotated[str | None, typer.Option(help="This machine's name in the group [the host name].")] = None,
    kafka_config: KafkaConfig = None,
    verbose: Verbose = False,
    log_format: Annotated[
        LogFormat, typer.Option(help="One line of text, or one JSON object, for each line that is logged.")
    ] = LogFormat.TEXT,
    log_config: Annotated[
        Path | None,
        typer.Option(help="How to log: JSON for logging.config.dictConfig, or an INI file for fileConfig."),
    ] = None,
) -> None:
    """Run a system, supervised, until SIGTERM or Ctrl-C; a second signal, half a second later or more, kills."""
    with sentences():
        system = load_system(target)
        config = None if kafka_config is None else str(kafka_config)
        file = None if log_config is None else str(log_config)
        options = LogOptions(verbose or context.obj, log_format.value, file)
        code = system.run(
            target, log=log, workers=workers, projectors=projectors, node=node, kafka_config=config, log_options=options
        )
    raise typer.Exit(code)


@app.command()
def topics(
    target: Target,
    log: Annotated[str | None, typer.Option("--log", envvar="REPERTORY_LOG", help="Compare with this log.")] = None,
    create: Annotated[bool, typer.Option("--create", help="Create the missing topics.")] = False,
    adopt: Annotated[
        str | None,
        typer.Option(metavar="SHARD", help="Accept that the topics of a shard (account/0) were created again."),
    ] = None,
    reason: Annotated[str, typer.Option(help="Why: it is kept among the incidents. Needed with --adopt.")] = "",
    kafka_config: KafkaConfig = None,
) -> None:
    """List the topics that a system needs, and show which are missing; --create creates these.

    Topics that it publishes to are listed too, and created where the system declares their partitions; those that its
    sources read on this log are listed, and never created.

    --adopt is for a shard that refuses to start because its topics were deleted and created again: use it after all
    topics of its entity were restored from one backup, while no node runs.
    """
    with sentences():
        system = configured(target)
        system.check()
        if adopt is not None:
            _adopt(system, adopt, reason, log, kafka_config)
            return
        incidents = system.incidents_spec()
        found: Mapping[str, int] = {}
        made: list[str] = []
        if log is not None:
            with opened(log, kafka_config, system.settings, may_be_new=True) as backend:
                made = [*system.prepare(backend), *backend.ensure([incidents])] if create else []
                found = backend.topics()
    table = TextTable("topic", "partitions", "config", "state")
    wrong = 0
    for spec in [*system.topic_specs(), incidents]:
        count = found.get(spec.name)
        missing = "missing, not needed" if spec is incidents else "missing"
        state = "" if log is None else missing if count is None else "made" if spec.name in made else "there"
        if count not in (None, spec.partitions):
            state = f"has {count} partitions"
        wrong += state not in ("", "made", "there", "missing, not needed")
        table.row(spec.name, spec.partitions, configuration_text(spec.config), state)
    for topic, declared in system.publishes.items():
        count = found.get(topic)
        state = "" if log is None else "missing" if count is None else "made" if topic in made else "there"
        if count is not None and declared.partitions not in (None, count):
            state = f"there, with {count} partitions"
        wrong += state == "missing"
        table.row(topic, declared.partitions or "any", configuration_text(declared.config or {}), state)
    for source in system.sources.values():
        if source.cluster is None:
            state = "" if log is None else "there" if source.topic in found else "missing"
            wrong += state == "missing"
            table.row(source.topic, "any", "", state)
    console.print(table)
    raise typer.Exit(1 if wrong else 0)


def _adopt(system: ActorSystem, shard: str, reason: str, log: str | None, kafka_config: Path | None) -> None:
    if log is None:
        raise ValueError("--adopt needs --log: where the topics are")
    accepted = _shard(system, shard)
    with opened(log, kafka_config, system.settings) as backend:
        adopted = adopt_topics(system, backend, accepted, reason)
    console.print(f"adopted: {adopted}", soft_wrap=True)


@app.command()
def skip_lost(
    target: Target,
    log: LogUrl,
    shard: Annotated[str, typer.Option(metavar="ENTITY/N", help="The shard, as in account/0.")],
    reason: Annotated[str, typer.Option(help="Why: it is kept in the shard record.")],
    kafka_config: KafkaConfig = None,
) -> None:
    """Go on behind commands that retention took before they were handled: they are lost, and this accepts it.

    For a shard that refuses to start for that reason, while no node runs. Restore the commands from a backup instead
    if there is one. status and verify show which commands were skipped, by whom, when and why.
    """
    with sentences():
        system = configured(target)
        system.check()
        found = _shard(system, shard)
        with opened(log, kafka_config, system.settings) as backend:
            skipped = skip_lost_commands(system, backend, found, reason)
    console.print(f"{found}: {skipped}", soft_wrap=True)


def _shard(system: ActorSystem, shard: str) -> ShardId:
    """Return a shard by its name, ``account/0``; LookupError if there is none."""
    entity, _, partition = shard.rpartition("/")
    behaviour = system.behaviour(entity)
    hosted = system.hosted[behaviour.entity]
    if not partition.isascii() or not partition.isdigit() or int(partition[:9]) >= hosted.partitions:
        raise LookupError(f"there is no shard {shard!r}: {behaviour.name} has shards 0 to {hosted.partitions - 1}")
    return ShardId(behaviour.name, int(partition))


@app.command()
def state(target: Target, entity: str, key: str, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """Show one entity from the committed records: its fields, its version, and its stashed commands."""
    with sentences():
        system = configured(target)
        behaviour = system.behaviour(entity)
        hosted = system.hosted[behaviour.entity]
        with (
            opened(log, kafka_config, system.settings, system=system) as backend,
            closing(backend.reader()) as reader,
        ):
            found = entity_state(reader, system, hosted, key)
    shown = {
        "entity": behaviour.name,
        "key": found.key,
        "partition": found.partition,
        "version": found.version,
        "state": None if found.state is None else plain(found.state),
        "stashed": found.stashed,
        "parked": found.parked or None,
    }
    console.show_json(shown)


@app.command()
def tail(
    topic: str,
    log: LogUrl,
    last: Annotated[int, typer.Option(min=0, help="Records per partition to print first.")] = 10,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new records as they are committed.")] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Print the committed records of a topic, decoded."""
    with (
        sentences(),
        opened(log, kafka_config, configuration(Settings()).settings) as backend,
        closing(backend.reader()) as reader,
    ):
        count = reader.partition_count(topic)
        if count is None:
            raise LookupError(f"there is no topic {topic!r} in {log}; repertory topics lists those of a system")
        positions = {}
        for partition in range(count):
            low, high = reader.bounds(topic, partition)
            positions[partition] = max(low, high - last)
            for record in reader.read(topic, partition, positions[partition]):
                _print_record(record)
                positions[partition] = record.offset + 1
        with suppress(KeyboardInterrupt):
            while follow:
                for record in reader.follow(topic, positions, timeout_s=0.5):
                    _print_record(record)
                    positions[record.partition] = record.offset + 1


def _print_record(record: Record) -> None:
    headers = " ".join(f"{name}={value.decode('utf-8', 'backslashreplace')}" for name, value in record.headers)
    line = f"{record.partition}@{record.offset} {readable_key(record.key)} {readable(record.value)}"
    console.print(f"{line} {headers}".rstrip(), soft_wrap=True)


def main() -> None:
    """Run the command line."""
    app()
