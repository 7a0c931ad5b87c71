"""The status records that the nodes of a system have written to the log."""

from __future__ import annotations

from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.node.status import NodeStatusRecord, decode_node
from repertory.bridge.system.definition import SystemDefinition


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
