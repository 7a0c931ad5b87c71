"""``repertory effects``: list effects that are not settled, retry or drop one that is parked."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from repertory.bridge.system.open_effects import OpenEffect
from repertory.cli.operate import AsJson, Entity, Wait, print_skipped, shortened
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, console, operating
from repertory.inspect.nodes import age
from repertory.inspect.readable import readable
from repertory.operate.operator import Operator

effects = typer.Typer(name="effects", help="Effects that are not settled.", no_args_is_help=True, rich_markup_mode=None)

Address = Annotated[str, typer.Argument(metavar="PARTITION@OFFSET/INDEX", help="As list shows it.")]


@effects.command("list")
def list_effects(
    target: Target,
    log: LogUrl,
    parked: Annotated[bool, typer.Option("--parked", help="Only those that wait for an operator.")] = False,
    first: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 100,
    as_json: AsJson = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """List the effects that are not settled: the attempt that comes next, and how the last one failed."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = [each for each in operator.effects() if each.parked or not parked]
        skipped = operator.skipped
    print_skipped(skipped)
    if as_json:
        console.show_json([_shown(each) for each in found[:first]])
        return
    now_ms = time.time_ns() // 1_000_000
    table = TextTable("entity", "key", "effect", "partition@offset/index", "attempt", "error", "reason")
    for each in found[:first]:
        record = each.record
        attempt = _attempt(each, now_ms)
        key = shortened(each.key.encode())
        table.row(each.entity, key, each.effect, each.address, attempt, record.error, record.reason)
    console.print(table)
    if len(found) > first:
        console.print(f"and {len(found) - first:,} more; --first shows more of them")


@effects.command("retry")
def retry_effect(
    target: Target, entity: Entity, address: Address, log: LogUrl, wait: Wait = 30.0, kafka_config: KafkaConfig = None
) -> None:
    """Have a parked effect tried again, as attempt 1. Exits 69 if no worker has answered after --wait."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_effect(entity, address)
        operator.retry_effect(found, wait)
    console.print(f"{found.entity} {found.key!r}: {found.effect} is tried again", soft_wrap=True)


@effects.command("drop")
def drop_effect(
    target: Target,
    entity: Entity,
    address: Address,
    log: LogUrl,
    reason: Annotated[str, typer.Option(help="The reason; the entity is told it.")],
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Give an effect up, and tell its entity Undelivered. Exits 69 if no worker has answered after --wait."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_effect(entity, address)
        operator.drop_effect(found, reason, wait)
    console.print(f"{found.entity} {found.key!r}: {found.effect} is dropped", soft_wrap=True)


def _attempt(found: OpenEffect, now_ms: int) -> str:
    """Return which attempt comes next, and when."""
    record = found.record
    if record.parked:
        return f"parked after {record.attempt}"
    if record.not_in_build:
        return f"{record.attempt} (not in this build)"
    left_ms = record.due_ms - now_ms
    return f"{record.attempt} (in {age(left_ms)})" if left_ms > 0 else str(record.attempt)


def _shown(found: OpenEffect) -> dict[str, object]:
    record = found.record
    return {
        "entity": found.entity,
        "key": found.key,
        "effect": found.effect,
        "address": found.address,
        "attempt": record.attempt,
        "due_ms": record.due_ms,
        "parked": record.parked,
        "not_in_build": record.not_in_build,
        "about": record.about,
        "error": record.error,
        "reason": record.reason,
        "traceback": record.traceback.splitlines(),
        "request": readable(record.request),
    }
