"""``ActorSystem``: an application names its entities with it, and starts them on a log."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from typing import TypeVar

from repertory.bridge import log_lines
from repertory.bridge.log.clock import MovableClock
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log_lines import LOG_DEFAULTS, LogOptions
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.node.publisher import HEARTBEAT_S, Publisher
from repertory.bridge.system.async_client import AsyncClient
from repertory.bridge.system.client import Client, check_topics
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.running import Running
from repertory.bridge.system.target import load_object, target_of

AnyClient = TypeVar("AnyClient", Client, AsyncClient)

logger = logging.getLogger("repertory")

#: Set in the environment of a node, which imports the application but does not run it.
IN_A_NODE = "REPERTORY_IN_A_NODE"


class ActorSystem(SystemDefinition):
    """A named set of entities. Configure it at import time; ``run``, ``spawn`` or ``start`` it at most once.

    Those three, ``client`` and ``async_client`` apply the settings of the environment and of ``./pyproject.toml``, and
    raise InvalidSetting where one is wrong.

    ``shards`` and ``workers`` are the policies of the two levels above the entities: how often a shard (a worker
    process) may fail before its worker (the node) gives up. ``topic_config`` is configuration for the commands topics.
    ``publishes`` declares the topics outside the system that ``Context.publish`` may name.
    """

    def start(self, log: str = "memory:", *, kafka_config: Mapping[str, str] | None = None) -> Running:
        """Run in this process, without worker processes: for tests, notebooks and simulations. A context manager.

        Nothing happens by itself: ``running.settle()`` works until no command is left, and on ``memory:``
        ``running.advance(seconds)`` lets time pass.
        """
        system = self.configured()
        clock = MovableClock() if log == "memory:" else None
        return Running(system, connect(log, system.settings, kafka_config or {}, clock=clock), clock)

    def client(self, log: str, *, kafka_config: Mapping[str, str] | str | None = None) -> Client:
        """Return a client of the nodes that run on a log, for any process: a web server, a script. A context manager.

        It starts no shard and creates no topic. ``kafka_config``: librdkafka settings, or a properties file of them.

        Raises:
            TopicMismatch: no node of this system has run on the log, or one with another number of partitions.
            LogError: the log cannot be used; the message says why.
            ValueError: the system hosts no entity, or the log is ``memory:``, which no other process can reach.
        """
        return self._client(Client, log, kafka_config)

    def async_client(self, log: str, *, kafka_config: Mapping[str, str] | str | None = None) -> AsyncClient:
        """Return a client for asyncio; see ``client`` for arguments and errors. The call itself waits for the log."""
        return self._client(AsyncClient, log, kafka_config)

    def _client(self, kind: type[AnyClient], log: str, kafka_config: Mapping[str, str] | str | None) -> AnyClient:
        self.check()
        if log == "memory:":
            raise ValueError("memory: is for one process: use the client of what start() returns")
        config = read_kafka_config(kafka_config) if isinstance(kafka_config, str) else kafka_config or {}
        system = self.configured()
        backend = connect(log, system.settings, config)
        try:
            check_topics(system, backend)
            return kind(system, backend, owns_backend=True)
        except BaseException:
            backend.close()
            raise

    def spawn(
        self,
        target: str | None = None,
        *,
        log: str,
        workers: int = 1,
        projectors: int = 0,
        node: str | None = None,
        kafka_config: str | None = None,
        log_options: LogOptions = LOG_DEFAULTS,
    ) -> NodeHandle:
        """Start a node of supervised worker processes and return its handle; the log is checked first.

        ``target`` (``module:system``) is where the workers import this system from; it is searched for if not given.
        ``node`` is this machine's name within the group, ``kafka_config`` a properties file of librdkafka settings.
        ``log_options``: how its processes log, to stderr; lines of handlers name their command. ``projectors``: so many
        processes for each projection; with them, ``workers`` may be 0.

        Raises:
            LogError: the log cannot be used; the message says why.
            TargetError: ``target`` was not given, and no module was found from which workers can import the system.
            ValueError: ``workers`` is below 1, nothing is projected, or the log cannot be shared by processes.
        """
        self._check_spawn(log, workers, projectors)
        target = target or target_of(self)
        config = read_kafka_config(kafka_config)
        settings = self.configured().settings
        backend = connect(log, settings, config)
        try:
            self.prepare(backend)
        finally:
            backend.close()
        # All readers of a SQLite file are on its machine, and ask the kernel whether a node is alive.
        heartbeat_s = 0.0 if log.startswith("sqlite:") else HEARTBEAT_S
        return NodeHandle(
            target,
            log,
            workers=workers,
            projectors=projectors,
            stop_timeout_s=settings.stop_timeout_s,
            settings=settings,
            node=node,
            kafka_config=kafka_config,
            publish=lambda incidents: Publisher(
                incidents,
                lambda: connect(log, settings, config),
                self.incidents_spec(),
                heartbeat_s=heartbeat_s,
            ),
            log_options=log_options,
            shards=sum(hosted.partitions for hosted in self.hosted.values()) if workers else 0,
        )

    def _check_spawn(self, log: str, workers: int, projectors: int) -> None:
        """Raise ValueError for a node that cannot be."""
        if os.environ.get(IN_A_NODE):
            raise ValueError(
                f"the module of the system {self.name} starts it while a worker imports the module; "
                'start it under: if __name__ == "__main__":'
            )
        if projectors < 0 or (projectors and not self.projections):
            raise ValueError(f"{self.name} projects nothing, so it has no projectors: {projectors}")
        if workers < 1 and not (workers == 0 and projectors):
            raise ValueError(f"workers must be 1 or more, not {workers}")
        if log == "memory:":
            raise ValueError("memory: is for one process and cannot be shared by workers; use sqlite:PATH or start()")

    def run(
        self,
        target: str | None = None,
        *,
        log: str = "memory:",
        workers: int = 1,
        projectors: int = 0,
        node: str | None = None,
        kafka_config: str | None = None,
        log_options: LogOptions = LOG_DEFAULTS,
    ) -> int:
        """Run until SIGTERM or Ctrl-C, supervised, and return the exit code. See ``spawn`` for arguments and errors.

        On ``memory:`` the system runs in this process, with a warning: no other process can reach the log, and its
        content is lost at exit. This process logs as the node does, unless its root logger has handlers.
        """
        log_lines.work_as("node")
        log_lines.set_up(log_options, node or socket.gethostname())
        if log == "memory:" and workers == 1:
            logger.warning(
                "memory: keeps all records in this process; they are lost at exit, and no other process can reach them"
            )
            with self.start(log) as running:
                running.run_forever()
            return 0
        if not workers:
            node = node or f"{socket.gethostname()}-projectors"  # Beside a node of the same machine.
        if not projectors and self.projections:
            logger.info("%s: this node has no projectors, which keep its projections up to date", self.name)
        spawned = self.spawn(
            target, log=log, workers=workers, projectors=projectors, node=node, kafka_config=kafka_config,
            log_options=log_options,
        )  # fmt: skip
        return spawned.wait()


def load_system(target: str) -> ActorSystem:
    """Import a target and return its system.

    Raises:
        TargetError: the target is not an ``ActorSystem``, or cannot be found.
        DefinitionError: there is a mistake in one of its entity or message classes.
    """
    return load_object(target, ActorSystem)
