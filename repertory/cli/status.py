"""``repertory status``: the status of all shards and nodes of a system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

import msgspec
import typer

from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.bridge.log.port import Backend, MemberDescription
from repertory.bridge.node.status import NodeStatusRecord
from repertory.bridge.system.committed import accepted_of
from repertory.bridge.system.projected import ProjectionStatus
from repertory.bridge.system.source_status import OpenSources, SourceStatus, source_statuses
from repertory.bridge.system.system import ActorSystem
from repertory.bridge.topics import sources_group
from repertory.cli.projections import projections_table
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, configured, console, errors, opened, sentences
from repertory.cli.sources import table_of
from repertory.inspect.nodes import age, node_records, standing
from repertory.inspect.problems import Problem, find_problems, projection_problems, summary
from repertory.inspect.shards import LAG_COUNTED_MAX, ShardStatus, shard_statuses

_HOUR_MS = 3_600_000
_KEYS_SHOWN, _KEY_CHARS_SHOWN = 10, 40


class _Found(msgspec.Struct, frozen=True):
    """What the log says of a system at one moment."""

    shards: Sequence[ShardStatus]
    nodes: Sequence[NodeStatusRecord]
    members: Sequence[MemberDescription]
    problems: Sequence[Problem]
    now_ms: int
    sources: Sequence[SourceStatus] = ()
    projections: Sequence[ProjectionStatus] = ()

    @property
    def fails(self) -> bool:
        """Whether keys are parked or shards are down."""
        return any(problem.is_failure for problem in self.problems)

    @property
    def summary(self) -> str:
        """What was found, in one line."""
        return summary(self.problems, sum(shard.is_read for shard in self.shards))


def status(
    target: Target,
    log: LogUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with all counters.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Print one line; exit 1 if a key is parked, a saga stuck or a shard down, 0 if not. For probes.",
        ),
    ] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Show the position of each shard, and the workers, restarts and last failures of each node.

    With --check a shard is down if it has no owner, does not serve, cannot be read, or lost commands to retention.
    """
    with sentences():
        system = configured(target)
        with opened(log, kafka_config, system.settings, system=system) as backend:
            found, unreadable = _find(system, backend)
    for sentence in unreadable:
        errors.print(f"repertory: {sentence}", soft_wrap=True)
    if as_json:
        _print_json(system, found)
    elif not check:
        _print_tables(system, found)
    if check:
        (errors if as_json else console).print(f"{system.name}: {found.summary}", soft_wrap=True)
        raise typer.Exit(1 if found.fails else 0)


def _find(system: ActorSystem, backend: Backend) -> tuple[_Found, list[str]]:
    """Return what the log says, and a sentence for each record that cannot be read."""
    topics = backend.topics()
    with closing(backend.reader()) as reader:
        shards = list(shard_statuses(reader, system))
        nodes, unreadable = node_records(reader, system)
        with OpenSources(system, backend) as logs:
            sources = list(source_statuses(reader, system, logs))
    members = backend.members(system.name)
    relays = backend.members(sources_group(system.name)) if system.sources else ()
    now_ms = time.time_ns() // 1_000_000
    problems = find_problems(system, shards, nodes, members, topics, now_ms, sources, relays)
    ends = {(shard.entity, shard.partition): shard.journaled for shard in shards}
    projections = [each.status(backend, ends) for each in system.projections]
    problems += projection_problems(projections)
    return _Found(shards, nodes, members, problems, now_ms, sources, projections), unreadable


# --- JSON ---------------------------------------------------------------------------------------------------------


def _print_json(system: ActorSystem, found: _Found) -> None:
    shown = {
        "system": system.name,
        "at_ms": found.now_ms,
        "ok": not found.fails,
        "summary": found.summary,
        "problems": found.problems,
        "shards": found.shards,
        "sources": found.sources,
        "members": found.members,
        "projections": found.projections,
        "nodes": [
            {
                "standing": standing(node, found.now_ms),
                "restarts_last_hour": node.restarts_since(found.now_ms - _HOUR_MS),
                **msgspec.to_builtins(node, str_keys=True),
                "incidents": [
                    {**msgspec.to_builtins(incident), "traceback": incident.traceback.splitlines()}
                    for incident in node.incidents
                ],
            }
            for node in found.nodes
        ],
    }
    console.show_json(shown)


# --- tables -------------------------------------------------------------------------------------------------------


def _print_tables(system: ActorSystem, found: _Found) -> None:
    console.print(_shards(system, found.shards, found.now_ms))
    if found.sources:
        console.print(table_of(found.sources, found.now_ms))
    for problem in found.problems:
        if problem.kind in ("partitions", "foreign", "lost", "not-serving"):
            console.print(f"{problem.where}: {problem.what}", soft_wrap=True)
    for shard in found.shards:
        for accepted in shard.accepted:
            console.print(f"accepted: {accepted_of(shard.name, accepted)}", soft_wrap=True)
    if found.projections:
        console.print(projections_table(found.projections))
    if found.nodes:
        console.print(_nodes(found.nodes, found.now_ms))
    for node in found.nodes:
        if node.incidents:
            console.print(_incidents(node, found.now_ms))


def _shards(system: ActorSystem, shards: Sequence[ShardStatus], now_ms: int) -> TextTable:
    has_sagas = any(isinstance(each.behaviour, SagaBehaviour) for each in system.hosted.values())
    of_sagas = ["sagas"] if has_sagas else []
    columns = ("shard", "next", "lag", "journal", "stashed", "timers", "effects", *of_sagas, "parked keys")
    table, unknown = TextTable(*columns, title=f"system {system.name}"), len(columns) - 4
    for shard in shards:
        lag = f"more than {LAG_COUNTED_MAX}" if shard.lag > LAG_COUNTED_MAX else str(shard.lag)
        position = str(shard.next_offset)
        if shard.committed not in (None, shard.next_offset):
            position += f" (group: {shard.committed})"
        if shard.unreadable:
            table.row(shard.name, "?", "?", *"?" * unknown, f"cannot be read: {shard.unreadable}")
        elif not shard.is_read:
            table.row(shard.name, "-", lag, *"-" * unknown, "read by nobody: the code has no such partition")
        else:
            overdue_ms = shard.overdue_ms(now_ms)
            timers = f"{shard.timers} ({age(overdue_ms)} overdue)" if overdue_ms else str(shard.timers)
            counts = shard.journaled, shard.stashed, timers, _effects(shard)
            sagas = [_sagas(shard, now_ms)] if has_sagas else []
            table.row(shard.name, position, lag, *counts, *sagas, _keys(shard.parked))
    return table


def _effects(shard: ShardStatus) -> str:
    counts = {"parked": shard.parked_effects, "not in this build": shard.effects_not_in_build}
    waiting = ", ".join(f"{count} {why}" for why, count in counts.items() if count)
    return f"{shard.effects} ({waiting})" if waiting else str(shard.effects)


def _sagas(shard: ShardStatus, now_ms: int) -> str:
    if shard.saga_since_ms is None:
        return str(shard.sagas)
    oldest = f"{shard.sagas} (for {age(now_ms - shard.saga_since_ms)})"
    return f"{oldest}, stuck: {_keys(shard.stuck_sagas)}" if shard.stuck_sagas else oldest


def _keys(keys: Sequence[str]) -> str:
    """Return the first keys, cut; ``parked list --json`` has all of them."""
    more = len(keys) - _KEYS_SHOWN
    shown = [key if len(key) <= _KEY_CHARS_SHOWN else f"{key[:_KEY_CHARS_SHOWN]}…" for key in keys[:_KEYS_SHOWN]]
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _nodes(nodes: Sequence[NodeStatusRecord], now_ms: int) -> TextTable:
    table = TextTable("node", "standing", "workers, last reported", "restarts (1 h)", title="nodes")
    for node in nodes:
        workers = "\n".join(
            f"{name}: {worker.state}" + (f", pid {worker.pid}" if worker.pid else "")
            for name, worker in sorted(node.workers.items())
        )
        table.row(node.node, standing(node, now_ms), workers, node.restarts_since(now_ms - _HOUR_MS))
    return table


def _incidents(node: NodeStatusRecord, now_ms: int) -> TextTable:
    table = TextTable("when", "what", "where", "what happens next", title=f"last incidents of node {node.node}")
    for incident in node.incidents:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(incident.at_ms / 1000))
        times = f" ({incident.count} times)" if incident.count > 1 else ""
        where = incident.where if incident.where.startswith("worker-") else f"{incident.where} {incident.worker}"
        ago = age(now_ms - incident.at_ms)
        table.row(f"{when} ({ago} ago)", incident.what + times, where.strip(), incident.next)
    return table
