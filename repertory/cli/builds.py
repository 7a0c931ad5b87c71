"""``repertory check`` and ``repertory schemas``: this build, and what the builds of a log know."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from typing import Annotated

import typer

from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.bridge.schemas import Schema, retire
from repertory.bridge.system.system import ActorSystem
from repertory.bridge.topics import schemas_topic
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, configured, console, opened, sentences
from repertory.inspect.builds import flaws


def check(
    target: Target,
    log: Annotated[
        str | None, typer.Option("--log", envvar="REPERTORY_LOG", help="Also read what is in this log, as this build.")
    ] = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Import a system, check its classes, and show what it hosts.

    With --log: read all that is in the log, and name what this build could not read, or would misread, before it is
    deployed: unknown messages, lost fields, missing upcasters; and replay each running saga on its code, and name those
    that take other steps than are recorded. Exits with 1 if there is such a record or saga.
    """
    with sentences():
        system = configured(target)
        system.check()
    table = TextTable("entity", "kind", "partitions", "commands", "events", title=f"system {system.name}")
    for hosted in system.hosted.values():
        behaviour = hosted.behaviour
        kind = "journaled" if behaviour.journaled else "stateful" if behaviour.stateful else "router"
        taken, events = [*behaviour.taken], ", ".join(str(message.wire) for message in behaviour.events)
        if isinstance(behaviour, SagaBehaviour):  # What the runtime sends it, and its journal, are not the user's.
            kind, events = f"saga, {behaviour.versions}", "its steps"
            taken = [message for message, handler in behaviour.taken.items() if handler.kind in ("@run", "signal")]
        table.row(behaviour.name, kind, hosted.partitions, ", ".join(str(each.wire) for each in taken), events)
    console.print(table)
    if system.publishes:
        published = TextTable("publishes to", "partitions", "config")
        for topic, declared in system.publishes.items():
            published.row(topic, declared.partitions or "any", configuration_text(declared.config or {}))
        console.print(published)
    if log is not None:
        _check_log(system, log, kafka_config)


def _check_log(system: ActorSystem, log: str, kafka_config: KafkaConfig) -> None:
    read = 0

    def seen() -> None:
        nonlocal read
        read += 1

    with (
        sentences(),
        opened(log, kafka_config, system.settings, system=system) as backend,
        closing(backend.reader()) as reader,
        closing(system.catalogue(backend)) as catalogue,
    ):
        found = flaws(reader, system, catalogue.schemas(), seen)
    if not found:
        console.print(f"ok: this build reads all that is in {log} ({read:,} records)", soft_wrap=True)
        return
    table = TextTable("message", "records", "what", "then", "first", title=f"what this build lacks for {log}")
    for flaw in found:
        table.row(flaw.name, flaw.records, flaw.what, flaw.then, flaw.where)
    console.print(table)
    raise typer.Exit(1)


def schemas(
    target: Target,
    log: LogUrl,
    retired: Annotated[
        str | None,
        typer.Option("--retire", metavar="NAME", help="No build knows this name any more; needs --entity."),
    ] = None,
    entity: Annotated[str | None, typer.Option(help="Only this entity.")] = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """List the messages and states that the builds know which ran on a log, and which of them this build has.

    A worker that meets a name which its own build lacks leaves the entity to nodes of a build that has it. --retire
    says that there is none any more: records with that name are dead letters from then on.
    """
    with sentences():
        system = configured(target)
        system.check()
        name = None if entity is None else system.behaviour(entity).name
        with opened(log, kafka_config, system.settings, system=system) as backend:
            if retired is not None:
                if name is None:
                    raise ValueError("--retire needs --entity: the entity that takes or writes the message")
                if any(each.name == retired and each.entity == name for each in system.schemas().values()):
                    raise ValueError(f"this build has {retired} of {name}: retire what no build has any more")
                if not retire(backend, schemas_topic(system.name), name, retired):
                    raise LookupError(
                        f"no build of {log} knows {retired} of {name}; repertory schemas lists what they do"
                    )
            with closing(system.catalogue(backend)) as catalogue:
                found = [each for each in catalogue.schemas() if name in (None, each.entity)]
    _show(system, found)


def _show(system: ActorSystem, found: list[Schema]) -> None:
    mine = system.schemas()
    table = TextTable("entity", "where", "name", "fields", "this build")
    for each in sorted(found, key=lambda each: (each.entity, each.kind.value, each.name, each.key)):
        fields = ", ".join(name if required else f"[{name}]" for name, required in each.fields.items())
        state = "has it" if each.key in mine else "retired" if each.retired else "lacks it"
        table.row(each.entity, each.kind.value, each.name, fields, state)
    console.print(table)


def configuration_text(config: Mapping[str, str]) -> str:
    """Return a topic's configuration on one line."""
    return " ".join(f"{name}={value}" for name, value in config.items())
