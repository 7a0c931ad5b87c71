"""What only an operator can accept about a shard that refuses to start: recreated topics, and lost commands.

The shard is claimed and recovered as by a worker, and handles no command. What was accepted stays in its shard record,
with who, when and why, and is an incident of the node ``operator`` on the system's incidents topic.
"""

from __future__ import annotations

import getpass
import os
import socket
import time

import msgspec

from repertory.actors.shard.changelog import LOST, RECREATED, Accepted, ShardId
from repertory.bridge import topics
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.node.status import NodeStatus
from repertory.bridge.reports import IncidentReport, ShardFailed, ShardReport
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.running import Running
from repertory.supervision.process.proc import pid_start

#: The name under which it is recorded beside the nodes, so that ``repertory status`` shows it.
OPERATOR = "operator"

_NOTHING = {
    RECREATED: "no topic of {} was created again: there is nothing to adopt",
    LOST: "no command of {} is lost: there is nothing to skip",
}


class NotAccepted(LookupError):
    """Nothing was accepted; the message says why."""


def adopt(system: SystemDefinition, backend: Backend, shard: ShardId, reason: str, timeout_s: float = 60.0) -> str:
    """Record the ids that the topics of a shard have now; return what was adopted. Closes ``backend``.

    Raises:
        ValueError: no reason is given.
        NotAccepted: no topic was created again, something else is wrong too, or another worker has the shard.
    """
    return _accept(system, backend, shard, Accepted(RECREATED, reason), timeout_s)


def skip_lost(system: SystemDefinition, backend: Backend, shard: ShardId, reason: str, timeout_s: float = 60.0) -> str:
    """Go on behind commands that retention took before they were handled; return which. Closes ``backend``.

    Raises:
        ValueError: no reason is given.
        NotAccepted: no command is lost, something else is wrong too, or another worker has the shard.
    """
    return _accept(system, backend, shard, Accepted(LOST, reason), timeout_s)


def _accept(system: SystemDefinition, backend: Backend, shard: ShardId, what: Accepted, timeout_s: float) -> str:
    try:
        _check(system, backend, shard, what)
    except BaseException:
        backend.close()
        raise
    what = msgspec.structs.replace(what, who=operator_name(), at_ms=time.time_ns() // 1_000_000)
    with Running(system, backend, accepts={shard: what}) as running:
        report = _outcome(running, shard, what, timeout_s)
        _record(system, backend, report)
    return report.reason


def operator_name() -> str:
    """Return who accepts something: this user, on this machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # A container may know no name for its user.
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _check(system: SystemDefinition, backend: Backend, shard: ShardId, what: Accepted) -> None:
    """Refuse without a reason, and while a worker has the shard."""
    if not what.reason.strip():
        raise ValueError("give a reason: it is kept in the shard record, and shown by status and verify")
    place = TopicPartition(topics.commands_topic(system.name, shard.entity), shard.partition)
    for member in backend.members(system.name):
        if place in member.shards:
            raise NotAccepted(
                f"{shard} is assigned to {member.instance_id or member.client} ({member.host}): stop the nodes of "
                f"{system.name}, and wait for {system.settings.session_timeout_s:g} s if one was killed"
            )


def _outcome(running: Running, shard: ShardId, what: Accepted, timeout_s: float) -> IncidentReport:
    """Recover the shard, commit what is accepted, and return the incident that says it."""
    system, found = running.system, list[IncidentReport | ShardFailed]()

    def take(report: ShardReport) -> None:
        match report:
            case IncidentReport(where=where, outcome=outcome) if where == str(shard) and outcome == what.what:
                found.append(report)
            case ShardFailed(shard=name) if name == str(shard):
                found.append(report)
            case _:
                pass

    running.report = take
    deadline_s = time.monotonic() + timeout_s
    while not found and not running.has_recovered(shard):
        if time.monotonic() > deadline_s:
            raise NotAccepted(
                f"{shard} was not assigned to this process within {timeout_s:g} s: stop the nodes of {system.name}"
            )
        running.tick(system.settings.poll_timeout_s)
    if not found:
        raise NotAccepted(_NOTHING[what.what].format(shard))
    outcome = found[0]
    if isinstance(outcome, ShardFailed):
        raise NotAccepted(f"{shard} cannot go on: {outcome.reason}")
    while not running.has_recovered(shard):
        if time.monotonic() > deadline_s:
            raise NotAccepted(f"it is not known whether {shard} has recorded it: its commit has not ended; look again")
        running.tick(system.settings.poll_timeout_s)
    return outcome


def _record(system: SystemDefinition, backend: Backend, report: IncidentReport) -> None:
    """Write the incident, so that it is seen beside those of nodes."""
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
