"""``repertory status``: the status of all shards and nodes of a system."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from typing import Annotated

import msgspec
import typer

from repertory.bridge.log.port import Backend
from repertory.bridge.node.status import NodeStatusRecord
from repertory.bridge.system.system import ActorSystem
from repertory.cli.shared import KafkaConfig, LogUrl, Target, TextTable, configured, console, errors, opened, sentences
from repertory.inspect.nodes import node_records
from repertory.inspect.shards import LAG_COUNTED_MAX, ShardStatus, shard_statuses
from repertory.supervision.process.proc import is_alive

#: A node is reported as silent after this many missed heartbeats.
_HEARTBEATS_MISSED = 3
_HOUR_MS = 3_600_000


def status(
    target: Target,
    log: LogUrl,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON, with all counters.")] = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """Show the position of each shard, and the workers, restarts and last failures of each node."""
    with sentences():
        system = configured(target)
        with opened(log, kafka_config, system.settings) as backend, closing(backend.reader()) as reader:
            _complete(system, backend)
            shards = list(shard_statuses(reader, system))
            nodes, unreadable = node_records(reader, system)
    now_ms = time.time_ns() // 1_000_000
    for sentence in unreadable:
        errors.print(f"repertory: {sentence}", soft_wrap=True)
    if as_json:
        _print_json(system, shards, nodes, now_ms)
        return
    console.print(_shards(system, shards))
    if nodes:
        console.print(_nodes(nodes, now_ms))
    for node in nodes:
        if node.incidents:
            console.print(_status(node, now_ms))


def standing(node: NodeStatusRecord, now_ms: int) -> str:
    """Describe a node as far as this process can check it: its last reported state, and how old that is."""
    age = f"{_age(now_ms - node.at_ms)} ago"
    if not node.state.startswith(("starting", "running", "stopping")):
        return f"{node.state}, {age}"
    if is_alive(node.pid, node.pid_start):
        return node.state
    if not node.heartbeat_s:  # The log is a file, so this process is on the node's machine.
        return f"dead: its process is gone, last reported {age}"
    if now_ms - node.at_ms > _HEARTBEATS_MISSED * node.heartbeat_s * 1000:
        return f"silent: dead or cut off from the log, last reported {age}"
    return f"{node.state}, last reported {age}"


def _print_json(
    system: ActorSystem, shards: Sequence[ShardStatus], nodes: Sequence[NodeStatusRecord], now_ms: int
) -> None:
    shown = {
        "system": system.name,
        "at_ms": now_ms,
        "shards": shards,
        "nodes": [
            {
                "standing": standing(node, now_ms),
                "restarts_last_hour": node.restarts_since(now_ms - _HOUR_MS),
                **msgspec.to_builtins(node, str_keys=True),
                "incidents": [
                    {**msgspec.to_builtins(incident), "traceback": incident.traceback.splitlines()}
                    for incident in node.incidents
                ],
            }
            for node in nodes
        ],
    }
    console.show_json(shown)


def _shards(system: ActorSystem, shards: Sequence[ShardStatus]) -> TextTable:
    table = TextTable("shard", "next", "lag", "journal", "stashed", "parked keys", title=f"system {system.name}")
    for shard in shards:
        lag = f"more than {LAG_COUNTED_MAX}" if shard.lag > LAG_COUNTED_MAX else str(shard.lag)
        position = str(shard.next_offset)
        if shard.committed not in (None, shard.next_offset):
            position += f" (group: {shard.committed})"
        name = f"{shard.entity}/{shard.partition}"
        if shard.unreadable:
            table.row(name, "?", "?", "?", "?", f"cannot be read: {shard.unreadable}")
            continue
        table.row(name, position, lag, shard.journaled, shard.stashed, ", ".join(shard.parked))
    return table


def _nodes(nodes: Sequence[NodeStatusRecord], now_ms: int) -> TextTable:
    table = TextTable("node", "standing", "workers, last reported", "restarts (1 h)", title="nodes")
    for node in nodes:
        workers = "\n".join(
            f"{name}: {worker.state}" + (f", pid {worker.pid}" if worker.pid else "")
            for name, worker in sorted(node.workers.items())
        )
        table.row(node.node, standing(node, now_ms), workers, node.restarts_since(now_ms - _HOUR_MS))
    return table


def _status(node: NodeStatusRecord, now_ms: int) -> TextTable:
    table = TextTable("when", "what", "where", "what happens next", title=f"last incidents of node {node.node}")
    for incident in node.incidents:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(incident.at_ms / 1000))
        times = f" ({incident.count} times)" if incident.count > 1 else ""
        where = incident.where if incident.where.startswith("worker-") else f"{incident.where} {incident.worker}"
        ago = _age(now_ms - incident.at_ms)
        table.row(f"{when} ({ago} ago)", incident.what + times, where.strip(), incident.next)
    return table


def _age(milliseconds: int) -> str:
    seconds = max(0, milliseconds // 1000)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _complete(system: ActorSystem, backend: Backend) -> None:
    found = backend.topics()
    missing = [spec.name for spec in system.topic_specs() if spec.name not in found]
    if missing:
        raise LookupError(
            f"{backend.url} has no topic {missing[0]!r}: the system {system.name} never ran there; repertory topics "
            "shows what it needs"
        )
