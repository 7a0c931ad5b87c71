"""The processes of a node: ``python -m repertory.bridge.worker`` forks the workers, a shard host runs a worker's loop.

The node process is a new process: it imports the application and forks its workers before any Kafka client exists,
because a client that is inherited across a fork hangs silently. Applications start it through ``ActorSystem.run``,
``ActorSystem.spawn`` or ``repertory run``.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence

import msgspec

from repertory.actors.message import DefinitionError
from repertory.bridge import kill_points, log_lines
from repertory.bridge.log.clock import SystemClock
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log.errors import InvalidSetting, SlotTaken, TopicMismatch
from repertory.bridge.log.port import Member
from repertory.bridge.log_lines import LogOptions
from repertory.bridge.loop import ShardLoop
from repertory.bridge.node import in_flight
from repertory.bridge.owed_reports import OwedReports
from repertory.bridge.reports import WorkerDrained, WorkerJoined
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.source_host import SOURCES
from repertory.bridge.system.system import IN_A_NODE, ActorSystem, load_system
from repertory.bridge.system.target import TargetError
from repertory.supervision import Directive, Policy
from repertory.supervision.process import lineage
from repertory.supervision.process.node import run_node
from repertory.supervision.process.reports import ReportWriter
from repertory.supervision.process.work import Control, WorkSpec

#: A node's settings on their way to its workers.
_decode_settings = msgspec.json.Decoder(Settings).decode


class ShardHost:
    """One worker: joins the group, runs the loop until it is asked to stop, drains its shards and leaves the group.

    Created and run on the data thread of a worker process.
    """

    def __init__(self, target: str, log: str, node: str, slot: int, kafka_config: str | None, settings: str) -> None:
        self._system = load_system(target).configured(_decode_settings(settings))
        self._url = log
        self._member = Member(self._system.name, node, slot)
        self._kafka_config = read_kafka_config(kafka_config)

    def run(self, control: Control) -> None:
        """See ``supervision.process.work.Work``."""
        system, clock = self._system, SystemClock()
        backend = connect(self._url, system.settings, self._kafka_config)
        system.announce(backend)  # Before it joins: from then on, others may meet what only this build knows.
        log = backend.log(self._member, system.commands_topics())
        region = system.region(
            system.topology(log.partition_count, hook=kill_points.within_handler()),
            seed=control.incarnation,
            in_flight=in_flight.of_this_node().enter(self._member.slot),
            owner=in_flight.of_this_node().owner,
        )
        catalogue = system.catalogue(backend)
        effects = system.effects(lambda: log.is_sure, in_flight.effects_of_this_node().enter(self._member.slot))
        loop = ShardLoop(
            log,
            region,
            clock,
            poll_timeout_s=system.settings.poll_timeout_s,
            turn_max_s=system.settings.turn_time_max_s,
            turns_max_s=system.settings.turns_max_s,
            report=control.report,
            progress=control.progress,
            deaths=in_flight.of_this_node().deaths,
            newer=catalogue.known,
            is_stopping=control.stopping.is_set,
            effects=effects,
        )
        owed = OwedReports(region, control.report)
        control.under_way = region.under_way
        log_lines.follow(system.name, region.handled)
        control.started()
        has_joined = False
        try:
            while not control.stopping.is_set():
                loop.tick()
                owed.look(clock.monotonic_s(), clock.epoch_ms)
                if not has_joined and log.is_member:
                    has_joined = True
                    control.report(WorkerJoined())
            kill_points.reached("stopping")
            drained = loop.drain(clock.monotonic_s() + system.settings.stop_timeout_s / 2)
            control.report(WorkerDrained(complete=drained, commits=loop.commits))
        finally:
            effects.close()
            log.close()
            catalogue.close()
            backend.close()


def shard_host(target: str, log: str, node: str, slot: int, kafka_config: str | None, settings: str) -> ShardHost:
    """Create a shard host: the target of a worker's ``WorkSpec``. ``settings``: the node's, as JSON."""
    log_lines.work_as(f"worker-{slot}")
    calm_the_collector()
    return ShardHost(target, log, node, slot, kafka_config, settings)


def calm_the_collector() -> None:
    """Run the garbage collector less often: a batch holds thousands of young objects, none of them in a cycle.

    At Python's default of 700 it takes an eighth of a small command's time (measured on the ledger job).
    """
    gc.set_threshold(20_000, 20, 50)


def worker_policy(policy: Policy) -> Policy:
    """Return a node's policy for its workers: errors that no restart can fix end the node, whatever the policy says.

    A worker whose slot is taken must not restart: it would compete with the other worker forever.
    """
    final = dict.fromkeys((SlotTaken, TopicMismatch, InvalidSetting), Directive.ESCALATE)
    return msgspec.structs.replace(policy, on={**policy.on, **final})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a node; see ``supervision.process.node.run_node`` for the exit code."""
    parser = argparse.ArgumentParser(prog="python -m repertory.bridge.worker")
    parser.add_argument("target")
    parser.add_argument("--log", required=True)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--projectors", type=int, default=0)
    parser.add_argument("--node", required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--kafka-config")
    parser.add_argument("--settings", help="All settings, as JSON; without them, those of the environment.")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--log-format", default="text")
    parser.add_argument("--log-config")
    options = parser.parse_args(arguments)
    lineage.end_with(options.parent, signal.SIGTERM)  # Stop gracefully, however the parent ended.
    os.environ[IN_A_NODE] = "1"
    try:
        log_lines.set_up(LogOptions(options.verbose, options.log_format, options.log_config), options.node)
        logging.captureWarnings(capture=True)
        given = None if options.settings is None else _decode_settings(options.settings)
        system = load_system(options.target).configured(given)
    except (TargetError, DefinitionError, InvalidSetting, ValueError) as error:
        sys.stderr.write(f"repertory: {error}\n")
        return os.EX_USAGE
    log_lines.add_coordinates()  # The application may have added handlers.
    settings = system.settings
    owner = f"{options.node}/{uuid.uuid4().hex[:8]}"
    in_flight.share_with_workers(max(1, options.workers), owner, settings.effects_running_max)
    kill_points.arm()
    return run_node(
        _specs(options, system),
        worker_policy(system.workers),
        system.worker_strategy,
        ping_timeout_s=settings.ping_timeout_s,
        stop_timeout_s=settings.stop_timeout_s,
        progress_timeout_s=settings.progress_timeout_s,
        reports=ReportWriter(options.report_fd),
    )


def _specs(options: argparse.Namespace, system: ActorSystem) -> list[WorkSpec]:
    """Return the processes of a node: its workers, one more if the system has sources, and those of projections."""
    common = {
        "target": options.target,
        "log": options.log,
        "node": options.node,
        "kafka_config": options.kafka_config,
        "settings": msgspec.json.encode(system.settings).decode(),
    }
    specs = [
        WorkSpec(f"worker-{slot}", "repertory.bridge.worker:shard_host", {**common, "slot": slot})
        for slot in range(options.workers)
    ]
    specs += [
        WorkSpec(
            f"projector-{each.name}-{each.version}-{slot}",
            each.work,
            {**common, "slot": slot, "name": each.name, "version": each.version},
        )
        for each in system.projections
        for slot in range(options.projectors)
    ]
    if system.sources and options.workers:
        specs.append(WorkSpec(SOURCES, "repertory.bridge.system.source_host:source_host", common))
    return specs


if __name__ == "__main__":
    sys.exit(main())
