"""``repertory timers``: list what is due later, and cancel a timer."""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
import typer

from repertory.bridge.system.open_timers import OpenTimer
from repertory.cli.operate import AsJson, Entity, Key, Wait, print_skipped, shortened
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, console, operating
from repertory.inspect.nodes import age
from repertory.inspect.readable import readable
from repertory.operate.operator import Operator

timers = typer.Typer(
    name="timers", help="Timers and delayed messages that are open.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="The name of the timer.")]


@timers.command("list")
def list_timers(
    target: Target,
    log: LogUrl,
    entity: Annotated[str | None, typer.Option(help="Only those of this entity, as in account.")] = None,
    key: Annotated[str | None, typer.Option(help="Only the timers of this key.")] = None,
    first: Annotated[int, typer.Option(min=1, help="How many are shown, those that are due first.")] = 100,
    as_json: AsJson = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """List open timers and delayed messages, those that are due first. A timer that has fired waits to be handled."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = list(operator.timers())
        skipped = operator.skipped
    found = [each for each in found if entity in (None, each.entity) and key in (None, each.key)]
    found.sort(key=lambda each: each.due_ms)
    print_skipped(skipped)
    if as_json:
        console.show_json([_shown(each) for each in found[:first]])
        return
    now_ms = time.time_ns() // 1_000_000
    table = TextTable("entity", "key", "timer", "due", "every", "what")
    for each in found[:first]:
        name, period = each.name or f"to {each.to}", f"{each.every_ms / 1_000:g} s" if each.every_ms else ""
        table.row(each.entity, shortened(each.key.encode()), name, _due(each, now_ms), period, readable(each.value))
    console.print(table)
    if len(found) > first:
        console.print(f"and {len(found) - first:,} more; --first shows more of them")


@timers.command("cancel")
def cancel_timer(
    target: Target,
    entity: Entity,
    key: Key,
    name: Name,
    log: LogUrl,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Cancel a timer of a key. If it has fired, its command is dropped, unless it was handled before.

    Exits 69 if no worker has answered after --wait; the request stays in the log.
    """
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_timer(entity, key, name)
        operator.cancel(found, wait)
    console.print(f"{found.entity} {found.key!r}: timer {found.name!r} is cancelled", soft_wrap=True)


def _due(found: OpenTimer, now_ms: int) -> str:
    """Return when something is due, and how long that is from now."""
    left_ms = found.due_ms - now_ms
    try:
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.due_ms / 1_000))
    except (OverflowError, ValueError, OSError):  # A record may hold any number.
        at = f"{found.due_ms} ms"
    if found.fired:
        return f"{at} (fired)"
    return f"{at} (in {age(left_ms)})" if left_ms > 0 else f"{at} ({age(-left_ms)} overdue)"


def _shown(found: OpenTimer) -> dict[str, object]:
    shown = {name: value for name, value in msgspec.structs.asdict(found).items() if name != "message"}
    return {**shown, "value": readable(found.value)}
