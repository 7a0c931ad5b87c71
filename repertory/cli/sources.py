"""``repertory sources``: how far sources are relayed, and what to do about a partition that has stopped."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Annotated

import msgspec
import typer

from repertory.bridge.system.committed import accepted_of
from repertory.bridge.system.source_status import SourceStatus
from repertory.cli.operate import AsJson, Wait
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, console, operating
from repertory.inspect.nodes import age
from repertory.operate.sources import SourceOperator

sources = typer.Typer(
    name="sources", help="Foreign topics that are relayed to entities.", no_args_is_help=True, rich_markup_mode=None
)

Name = Annotated[str, typer.Argument(help="The name of the source.")]
Partition = Annotated[int, typer.Option("--partition", min=0, help="The partition of its topic.")]
Reason = Annotated[str, typer.Option(help="Why: it is kept with the position.")]

_ADDRESS = re.compile("([0-9]{1,9})@([0-9]{1,18})", re.ASCII)


@sources.command("list")
def list_sources(target: Target, log: LogUrl, as_json: AsJson = False, kafka_config: KafkaConfig = None) -> None:
    """List each partition of each source: its position, its lag, and why it has stopped."""
    with operating(SourceOperator, target, log, kafka_config) as operator:
        found = list(operator.statuses())
    if as_json:
        console.show_json([_shown(each) for each in found])
        return
    console.print(table_of(found, time.time_ns() // 1_000_000))
    for each in found:
        for accepted in each.accepted:
            console.print(f"accepted: {accepted_of(str(each.place), accepted, 'records')}", soft_wrap=True)


def table_of(found: Sequence[SourceStatus], now_ms: int) -> TextTable:
    """Return a table of sources. ``now_ms``: since 1970 (UTC)."""
    table = TextTable("source", "partition", "next", "lag", "dead letters in a row", "stopped", title="sources")
    for each in found:
        next_offset = "-" if each.next is None else str(each.next)
        lag = "?" if each.lag is None else str(each.lag)
        partition = each.topic if each.partition < 0 else f"{each.topic}/{each.partition}"
        table.row(each.name, partition, next_offset, lag, each.dead_letters, stopped_of(each, now_ms))
    return table


def stopped_of(found: SourceStatus, now_ms: int) -> str:
    """Return why a partition is not relayed further, and since when; "" if it is."""
    stopped = found.stopped
    if stopped is None:
        return found.unreadable
    at = f" at {stopped.offset}" if stopped.offset >= 0 else ""
    since = f" {age(now_ms - stopped.since_ms)} ago" if stopped.since_ms else ""
    error = f"{stopped.error}: " if stopped.error and stopped.what == "failed" else ""
    return f"{stopped.what}{at}{since}: {error}{stopped.reason}"


@sources.command("retry")
def retry_source(
    target: Target,
    name: Name,
    log: LogUrl,
    partition: Annotated[
        int | None, typer.Option("--partition", min=0, help="Only this partition [all that have stopped].")
    ] = None,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Have partitions that stopped tried again at once; they may have 100 dead letters in a row again.

    They are tried by themselves too, at least once a minute; only a record that has killed its process is not. Exits
    69 if no node has done it after --wait.
    """
    with operating(SourceOperator, target, log, kafka_config) as operator:
        found = operator.stopped(name) if partition is None else [operator.find(name, partition)]
        for each in found:
            operator.retry(each, wait)
    where = ", ".join(f"{each.topic}/{each.partition}" for each in found)
    console.print(f"{name}: {where} is tried again" if found else f"{name}: nothing has stopped", soft_wrap=True)


@sources.command("skip")
def skip_record(
    target: Target,
    name: Name,
    address: Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="The record, as list shows it.")],
    log: LogUrl,
    reason: Reason,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Pass the record at which a partition has stopped: it is not relayed. Any other record is refused."""
    with operating(SourceOperator, target, log, kafka_config) as operator:
        parsed = _ADDRESS.fullmatch(address)
        if parsed is None:
            raise ValueError(f"{address!r} is no address of a record: write PARTITION@OFFSET, as in 0@17")
        found = operator.find(name, int(parsed[1]))
        operator.skip(found, int(parsed[2]), reason, wait)
    console.print(f"{found.place.at(int(parsed[2]))} is skipped", soft_wrap=True)


@sources.command("skip-lost")
def skip_lost_records(
    target: Target,
    name: Name,
    log: LogUrl,
    partition: Partition,
    reason: Reason,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Go on behind records that retention took before they were relayed: they are lost, and this accepts it."""
    with operating(SourceOperator, target, log, kafka_config) as operator:
        found = operator.find(name, partition)
        operator.skip_lost(found, reason, wait)
    console.print(f"{found.place.at(-1)} goes on behind what is lost", soft_wrap=True)


@sources.command("adopt")
def adopt_topic(
    target: Target,
    name: Name,
    log: LogUrl,
    partition: Partition,
    reason: Reason,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Go on in a topic that was created again, and has the same records at the same offsets: a restored backup.

    If its records are other ones, give the source another name instead: it then begins anew.
    """
    with operating(SourceOperator, target, log, kafka_config) as operator:
        found = operator.find(name, partition)
        operator.adopt(found, reason, wait)
    console.print(f"{found.place.at(-1)} goes on at {found.next}", soft_wrap=True)


def _shown(found: SourceStatus) -> dict[str, object]:
    shown: dict[str, object] = msgspec.to_builtins(found)
    if found.stopped is not None:
        shown["stopped"] = {**msgspec.to_builtins(found.stopped), "traceback": found.stopped.traceback.splitlines()}
    return shown
