"""The status records that the nodes of a system have written to the log, and whether each node still runs."""

from __future__ import annotations

from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.node.status import NodeStatusRecord, decode_node
from repertory.bridge.system.definition import SystemDefinition
from repertory.supervision.process.proc import is_alive

#: A node is reported as silent after this many missed heartbeats.
_HEARTBEATS_MISSED = 3
_UP = ("starting", "running", "stopping")


def node_records(reader: Reader, system: SystemDefinition) -> tuple[list[NodeStatusRecord], list[str]]:
    """Return the latest status of each node, by name, and a sentence for each record that cannot be read.

    Others may write to this topic, or another version did: one record must not hide the nodes of a week.
    """
    topic = topics.incidents_topic(system.name)
    found: dict[bytes, NodeStatusRecord] = {}
    unreadable: list[str] = []
    for record in reader.read(topic, 0) if reader.partition_count(topic) else ():
        if record.key is None or record.value is None:
            continue
        try:
            found[record.key] = decode_node(record.value)
        except DecodeError as error:
            unreadable.append(f"{record.place} is not the status of a node and was skipped: {error}")
    return [found[name] for name in sorted(found)], unreadable


def standing(node: NodeStatusRecord, now_ms: int) -> str:
    """Describe a node as far as this process can check it: its last reported state, and how old that is."""
    since = f"{age(now_ms - node.at_ms)} ago"
    if not node.state.startswith(_UP):
        return f"{node.state}, {since}"
    if is_alive(node.pid, node.pid_start):
        return node.state
    if not node.heartbeat_s:  # The log is a file, so this process is on the node's machine.
        return f"dead: its process is gone, last reported {since}"
    if _is_silent(node, now_ms):
        return f"silent: dead or cut off from the log, last reported {since}"
    return f"{node.state}, last reported {since}"


def is_up(node: NodeStatusRecord, now_ms: int) -> bool:
    """Return whether a node runs, as far as this process can check it."""
    if not node.state.startswith(_UP):
        return False
    return is_alive(node.pid, node.pid_start) or (bool(node.heartbeat_s) and not _is_silent(node, now_ms))


def age(milliseconds: int) -> str:
    """Return a time span in its largest unit."""
    seconds = max(0, milliseconds // 1000)
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _is_silent(node: NodeStatusRecord, now_ms: int) -> bool:
    return now_ms - node.at_ms > _HEARTBEATS_MISSED * node.heartbeat_s * 1000
