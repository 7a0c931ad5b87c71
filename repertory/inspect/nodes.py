"""The status records that the nodes of a system have written to the log."""

from __future__ import annotations

from repertory.bridge import topics
from repertory.bridge.log.port import Reader
from repertory.bridge.node.status import NodeStatusRecord, decode_node
from repertory.bridge.system.definition import SystemDefinition


def node_records(reader: Reader, system: SystemDefinition) -> list[NodeStatusRecord]:
    """Return the latest status of each node, by name; an empty list if the log has no topic for it."""
    topic = topics.incidents_topic(system.name)
    found: dict[bytes, NodeStatusRecord] = {}
    for record in reader.read(topic, 0) if reader.partition_count(topic) else ():
        if record.key is not None and record.value is not None:
            found[record.key] = decode_node(record.value)
    return [found[name] for name in sorted(found)]
