"""``adopt``: an operator accepts that topics of a shard were created again, after a restore from a backup."""

from __future__ import annotations

import os
import time

import msgspec

from repertory.actors.shard.changelog import ShardId
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.node.status import NodeStatus
from repertory.bridge.reports import IncidentReport, ShardFailed, ShardReport
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.running import Running
from repertory.supervision.process.proc import pid_start

#: The name under which an adoption is recorded beside the nodes, so that ``repertory status`` shows it.
OPERATOR = "operator"


class NotAdopted(LookupError):
    """The shard cannot be adopted; the message says why."""


def adopt(system: SystemDefinition, backend: Backend, shard: ShardId, reason: str, timeout_s: float = 60.0) -> str:
    """Record the ids that the topics of a shard have now; return what was adopted. Closes ``backend``.

    The shard is claimed and recovered as by a worker, and handles no command. The adoption is an incident of the node
    ``operator`` on the system's incidents topic.

    Raises:
        ValueError: no reason is given.
        NotAdopted: no topic was created again, something else is wrong too, or another worker has the shard.
    """
    if not reason.strip():
        backend.close()
        raise ValueError(
            "an adoption needs a reason, which is kept among the incidents: why were the topics created again?"
        )
    found: list[IncidentReport | ShardFailed] = []

    def take(report: ShardReport) -> None:
        match report:
            case IncidentReport(where=where, outcome="adopted") if where == str(shard):
                found.append(report)
            case ShardFailed(shard=name) if name == str(shard):
                found.append(report)
            case _:
                pass

    with Running(system, backend, adopt={shard: reason}) as running:
        running.report = take
        deadline_s = time.monotonic() + timeout_s
        while not found and not running.has_recovered(shard):
            if time.monotonic() > deadline_s:
                raise NotAdopted(
                    f"{shard} was not assigned to this process within {timeout_s:g} s: stop the nodes of {system.name}"
                )
            running.tick(system.settings.poll_timeout_s)
        if not found:
            raise NotAdopted(f"no topic of {shard} was created again: there is nothing to adopt")
        outcome = found[0]
        if isinstance(outcome, ShardFailed):
            raise NotAdopted(f"{shard} cannot be adopted: {outcome.reason}")
        while not running.has_recovered(shard) and time.monotonic() <= deadline_s:
            running.tick(system.settings.poll_timeout_s)
        _record(system, backend, outcome)
    return outcome.reason


def _record(system: SystemDefinition, backend: Backend, report: IncidentReport) -> None:
    """Write the incident, so that it is seen and stays for as long as those of nodes."""
    now_s, pid = time.time(), os.getpid()
    status = NodeStatus(OPERATOR, pid, pid_start(pid) or "", round(now_s * 1000))
    status.take(msgspec.structs.replace(report, at_s=now_s))
    status.end(0)
    topic = system.incidents_spec()
    backend.ensure([topic])
    appender = backend.appender()
    try:
        value = msgspec.msgpack.encode(status.record(round(now_s * 1000)))
        appender.append([Output(topic.name, 0, OPERATOR.encode(), value)])
    finally:
        appender.close()
