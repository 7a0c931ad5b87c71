"""Akka-style actors on Kafka: ordered per key, supervised, exactly once. This module is the public API.

Six more modules are public: `repertory.avro` (records of sources in Avro), `repertory.gateway` (the HTTP front),
`repertory.projections` (tables that follow the events), `repertory.simulation` (run a system under seeded faults),
`repertory.testing` (histories that must stay readable) and `repertory.verify` (check a log against the guarantees).
Everything else may change in any version.

The names that define an application are imported with this module. The names that run it are imported on first use, so
that a module that only defines entities loads neither a log nor the supervision of processes.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from repertory.actors.asks import AskId, Position
from repertory.actors.collected import Cancel, Perform, Publish, Reply, Schedule, Tell
from repertory.actors.context import Context, ContractViolation, OutputRefused, OutputTooLarge
from repertory.actors.control import NotAsked, Revoked, StillOpen
from repertory.actors.effect import Effect, EffectContext, effect
from repertory.actors.entity import Entity
from repertory.actors.evolution import Raw, upcast
from repertory.actors.handler import CommandHandler, command, event, reply
from repertory.actors.message import (
    Answer,
    ClockAhead,
    Command,
    DefinitionError,
    Done,
    Event,
    IdConflict,
    Message,
    Query,
    Rejection,
    Request,
    Sender,
    Stopped,
    Undelivered,
)
from repertory.actors.placement import partition_of
from repertory.actors.query import QueryHandler, query
from repertory.actors.saga.context import SagaContext
from repertory.actors.saga.messages import AlreadyBegun, Cancelled, NoSuchSaga, TimedOut, TooLate
from repertory.actors.saga.saga import Saga, run, signal
from repertory.actors.saga.step import PIVOT, NonDeterministic, NotInBuild, SagaRefused
from repertory.actors.source import DecodeRecord, Route, SourceRecord, route
from repertory.supervision.directive import Directive
from repertory.supervision.policy import Policy, restart
from repertory.supervision.restart import Backoff
from repertory.supervision.strategy import Strategy

if TYPE_CHECKING:
    from repertory.actors.testkit import TestKit
    from repertory.bridge.log.connect import connect
    from repertory.bridge.log.errors import (
        ClientClosed,
        IdTooOld,
        InvalidSetting,
        LogError,
        LogUnavailable,
        LogUnusable,
        OutcomeUnknown,
        Refused,
        SlotTaken,
        TopicMismatch,
    )
    from repertory.bridge.node.handle import NodeHandle
    from repertory.bridge.reports import NodeReport, ShardLost, ShardRestored
    from repertory.bridge.system.ask import AskResult
    from repertory.bridge.system.async_client import AsyncClient
    from repertory.bridge.system.client import Client
    from repertory.bridge.system.failed import DeadLetter, Parked
    from repertory.bridge.system.open_effects import OpenEffect
    from repertory.bridge.system.open_sagas import OpenSaga
    from repertory.bridge.system.open_timers import OpenTimer
    from repertory.bridge.system.published import PublishedRecord
    from repertory.bridge.system.publishes import Publishes
    from repertory.bridge.system.running import NotSettled, Running
    from repertory.bridge.system.settings import Settings
    from repertory.bridge.system.source_status import SourceStatus
    from repertory.bridge.system.system import ActorSystem
    from repertory.bridge.system.target import TargetError
    from repertory.bridge.system.view import View, ViewFailed
    from repertory.bridge.topics import commands_topic, events_topic
    from repertory.supervision.process.reports import WorkerStarted
    from repertory.testing.saga_kit import SagaKit

    __version__: str

_LAZY = {
    "ActorSystem": "bridge.system.system",
    "AskResult": "bridge.system.ask",
    "AsyncClient": "bridge.system.async_client",
    "Client": "bridge.system.client",
    "ClientClosed": "bridge.log.errors",
    "DeadLetter": "bridge.system.failed",
    "IdTooOld": "bridge.log.errors",
    "InvalidSetting": "bridge.log.errors",
    "LogError": "bridge.log.errors",
    "LogOptions": "bridge.log_lines",
    "LogUnavailable": "bridge.log.errors",
    "LogUnusable": "bridge.log.errors",
    "NodeHandle": "bridge.node.handle",
    "NodeReport": "bridge.reports",
    "NotSettled": "bridge.system.running",
    "OpenEffect": "bridge.system.open_effects",
    "OpenSaga": "bridge.system.open_sagas",
    "OpenTimer": "bridge.system.open_timers",
    "OutcomeUnknown": "bridge.log.errors",
    "Parked": "bridge.system.failed",
    "PublishedRecord": "bridge.system.published",
    "Publishes": "bridge.system.publishes",
    "Refused": "bridge.log.errors",
    "Running": "bridge.system.running",
    "SagaKit": "testing.saga_kit",
    "Settings": "bridge.system.settings",
    "ShardLost": "bridge.reports",
    "ShardRestored": "bridge.reports",
    "SlotTaken": "bridge.log.errors",
    "SourceStatus": "bridge.system.source_status",
    "TargetError": "bridge.system.target",
    "TestKit": "actors.testkit",
    "TopicMismatch": "bridge.log.errors",
    "View": "bridge.system.view",
    "ViewFailed": "bridge.system.view",
    "WorkerStarted": "supervision.process.reports",
    "commands_topic": "bridge.topics",
    "connect": "bridge.log.connect",
    "events_topic": "bridge.topics",
}

__all__ = [
    "PIVOT",
    "ActorSystem",
    "AlreadyBegun",
    "Answer",
    "AskId",
    "AskResult",
    "AsyncClient",
    "Backoff",
    "Cancel",
    "Cancelled",
    "Client",
    "ClientClosed",
    "ClockAhead",
    "Command",
    "CommandHandler",
    "Context",
    "ContractViolation",
    "DeadLetter",
    "DecodeRecord",
    "DefinitionError",
    "Directive",
    "Done",
    "Effect",
    "EffectContext",
    "Entity",
    "Event",
    "IdConflict",
    "IdTooOld",
    "InvalidSetting",
    "LogError",
    "LogOptions",
    "LogUnavailable",
    "LogUnusable",
    "Message",
    "NoSuchSaga",
    "NodeHandle",
    "NodeReport",
    "NonDeterministic",
    "NotAsked",
    "NotInBuild",
    "NotSettled",
    "OpenEffect",
    "OpenSaga",
    "OpenTimer",
    "OutcomeUnknown",
    "OutputRefused",
    "OutputTooLarge",
    "Parked",
    "Perform",
    "Policy",
    "Position",
    "Publish",
    "PublishedRecord",
    "Publishes",
    "Query",
    "QueryHandler",
    "Raw",
    "Refused",
    "Rejection",
    "Reply",
    "Request",
    "Revoked",
    "Route",
    "Running",
    "Saga",
    "SagaContext",
    "SagaKit",
    "SagaRefused",
    "Schedule",
    "Sender",
    "Settings",
    "ShardLost",
    "ShardRestored",
    "SlotTaken",
    "SourceRecord",
    "SourceStatus",
    "StillOpen",
    "Stopped",
    "Strategy",
    "TargetError",
    "Tell",
    "TestKit",
    "TimedOut",
    "TooLate",
    "TopicMismatch",
    "Undelivered",
    "View",
    "ViewFailed",
    "WorkerStarted",
    "command",
    "commands_topic",
    "connect",
    "effect",
    "event",
    "events_topic",
    "partition_of",
    "query",
    "reply",
    "restart",
    "route",
    "run",
    "signal",
    "upcast",
]


def __getattr__(name: str) -> object:
    """Import a name of `_LAZY`, or read the version, on first use: `importlib.metadata` takes long to load."""
    value: object
    if name == "__version__":
        value = _version()
    elif name in _LAZY:
        value = getattr(import_module(f"repertory.{_LAZY[name]}"), name)
    else:
        raise AttributeError(f"module 'repertory' has no attribute {name!r}")
    globals()[name] = value
    return value


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415  see `__getattr__`

    try:
        return version("repertory")
    except PackageNotFoundError:  # A checkout that is on the path but not installed.
        return "0+unknown"


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
