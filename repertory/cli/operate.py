"""``repertory parked`` and ``repertory dead-letters``: list failed commands, and retry or drop them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated

import typer

from repertory.actors.headers import Headers
from repertory.bridge.system.failed import DeadLetter, Parked
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, configured, console, opened, sentences
from repertory.inspect.readable import readable, readable_key
from repertory.operate.operator import Operator

parked = typer.Typer(
    name="parked", help="Keys whose first command failed too often.", no_args_is_help=True, rich_markup_mode=None
)
dead_letters = typer.Typer(
    name="dead-letters", help="Commands that were not applied.", no_args_is_help=True, rich_markup_mode=None
)

Entity = Annotated[str, typer.Argument(help="The entity's name, as in account.")]
Key = Annotated[str, typer.Argument(help="The entity's key.")]
Address = Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="As list shows it.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds to wait for a worker's answer.")]


_ASKERS_SHOWN = 3


@contextlib.contextmanager
def _operator(target: str, log: str, kafka_config: KafkaConfig) -> Iterator[Operator]:
    with sentences():
        system = configured(target)
        with (
            opened(log, kafka_config, system.settings) as backend,
            contextlib.closing(Operator(system, backend)) as operator,
        ):
            yield operator


@parked.command("list")
def list_parked(target: Target, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """List the parked keys: the failed command, its error, and the number of commands stashed behind it."""
    table = TextTable("entity", "key", "partition@offset", "behind", "asked by", "error", "reason")
    with _operator(target, log, kafka_config) as operator:
        for found in operator.parked():
            place = f"{found.partition}@{found.offset}"
            row = (found.entity, readable_key(found.key.encode()), place, found.behind)
            table.row(*row, _askers(found), found.record.error, found.record.reason)
    console.print(table)


def _askers(found: Parked) -> str:
    """Return the first that wait for an answer, and how many more there are."""
    more = len(found.askers) - _ASKERS_SHOWN
    return ", ".join(found.askers[:_ASKERS_SHOWN]) + (f" and {more} more" if more > 0 else "")


@parked.command("show")
def show_parked(target: Target, entity: Entity, key: Key, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """Show the command that parked a key, and its failure."""
    with _operator(target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
    shown = {
        "entity": found.entity,
        "key": found.key,
        "partition": found.partition,
        "offset": found.offset,
        "behind": found.behind,
        "asked_by": found.askers,
        "attempts": found.record.attempt,
        "error": found.record.error,
        "reason": found.record.reason,
        "traceback": found.record.traceback.splitlines(),
        "value": readable(found.record.value),
        "headers": _texts(found.record.headers),
    }
    console.show_json(shown)


@parked.command("retry")
def retry_parked(
    target: Target, entity: Entity, key: Key, log: LogUrl, timeout: Timeout = 30.0, kafka_config: KafkaConfig = None
) -> None:
    """Run the commands of a parked key again, in order, exactly once."""
    with _operator(target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
        operator.retry(found, timeout)
    console.print(f"{found.entity} {found.key!r} runs again, from {found.partition}@{found.offset}")


@parked.command("drop")
def drop_parked(
    target: Target,
    entity: Entity,
    key: Key,
    log: LogUrl,
    reason: Annotated[str, typer.Option(help="The reason; the dead letter records it.")],
    timeout: Timeout = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Dead-letter the first command of a parked key; the commands behind it run."""
    with _operator(target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
        operator.drop(found, reason, timeout)
    console.print(f"{found.entity} {found.key!r}: {found.partition}@{found.offset} is now a dead letter")


@dead_letters.command("list")
def list_dead_letters(target: Target, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """List the dead letters, oldest first."""
    table = TextTable("address", "key", "source", "attempts", "error", "reason")
    with _operator(target, log, kafka_config) as operator:
        for letter in operator.dead_letters():
            key = readable_key(letter.record.key)
            table.row(letter.address, key, _source(letter), letter.attempts, letter.error, letter.reason)
    console.print(table)


@dead_letters.command("show")
def show_dead_letter(target: Target, address: Address, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """Show one dead letter: the original command, and why it was not applied."""
    with _operator(target, log, kafka_config) as operator:
        letter = operator.find_dead_letter(address)
    shown = {
        "address": letter.address,
        "source": _source(letter),
        "key": readable_key(letter.record.key),
        "error": letter.error,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "traceback": letter.traceback.splitlines(),
        "value": readable(letter.record.value),
        "bytes": (letter.record.value or b"").hex(),
        "headers": _texts(letter.headers),
    }
    console.show_json(shown)


@dead_letters.command("retry")
def retry_dead_letter(
    target: Target,
    address: Address,
    log: LogUrl,
    force: Annotated[bool, typer.Option("--force", help="Also if it was an ask, or was retried before.")] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Append the command again at the end of its topic. Nobody receives its reply."""
    with _operator(target, log, kafka_config) as operator:
        letter = operator.find_dead_letter(address)
        operator.retry_dead_letter(letter, force=force)
    console.print(f"{letter.address} was appended to {letter.source_topic} again")


def _source(letter: DeadLetter) -> str:
    return f"{letter.source_topic}/{letter.source_partition}@{letter.source_offset}"


def _texts(headers: Headers) -> dict[str, str]:
    return {name: value.decode("utf-8", "backslashreplace") for name, value in headers}
