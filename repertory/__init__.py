"""Akka-style actors on Kafka: ordered per key, supervised, exactly once. This module is the public API.

Beside it there are two public modules: `repertory.simulation` (a system under seeded faults) and `repertory.verify` (a
log checked against the promises). Everything else may change from one version to the next.

What describes an application is imported at once. What runs it is imported when it is first asked for: a module that
only defines entities should not wait for a log's client library.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from repertory.actors.context import Context, ContractViolation, OutputTooLarge
from repertory.actors.entity import Entity
from repertory.actors.handler import CommandHandler, command, event, reply
from repertory.actors.message import (
    Command,
    DefinitionError,
    Done,
    Event,
    Message,
    Rejection,
    Sender,
    Stopped,
    Undelivered,
)
from repertory.actors.placement import partition_of
from repertory.supervision.directive import Directive
from repertory.supervision.policy import Policy, restart
from repertory.supervision.restart import Backoff
from repertory.supervision.strategy import Strategy

if TYPE_CHECKING:
    from repertory.actors.testkit import TestKit
    from repertory.bridge.log.connect import connect
    from repertory.bridge.log.port import (
        InvalidSetting,
        LogError,
        LogUnavailable,
        OutcomeUnknown,
        SlotTaken,
        TopicMismatch,
    )
    from repertory.bridge.node.handle import NodeHandle
    from repertory.bridge.system.client import Client
    from repertory.bridge.system.running import NotSettled, Running
    from repertory.bridge.system.settings import Settings
    from repertory.bridge.system.system import ActorSystem
    from repertory.bridge.system.target import TargetError

_LAZY = {
    "ActorSystem": "bridge.system.system",
    "Client": "bridge.system.client",
    "InvalidSetting": "bridge.log.port",
    "LogError": "bridge.log.port",
    "LogUnavailable": "bridge.log.port",
    "NodeHandle": "bridge.node.handle",
    "NotSettled": "bridge.system.running",
    "OutcomeUnknown": "bridge.log.port",
    "Running": "bridge.system.running",
    "Settings": "bridge.system.settings",
    "SlotTaken": "bridge.log.port",
    "TargetError": "bridge.system.target",
    "TestKit": "actors.testkit",
    "TopicMismatch": "bridge.log.port",
    "connect": "bridge.log.connect",
}

__all__ = [
    "ActorSystem",
    "Backoff",
    "Client",
    "Command",
    "CommandHandler",
    "Context",
    "ContractViolation",
    "DefinitionError",
    "Directive",
    "Done",
    "Entity",
    "Event",
    "InvalidSetting",
    "LogError",
    "LogUnavailable",
    "Message",
    "NodeHandle",
    "NotSettled",
    "OutcomeUnknown",
    "OutputTooLarge",
    "Policy",
    "Rejection",
    "Running",
    "Sender",
    "Settings",
    "SlotTaken",
    "Stopped",
    "Strategy",
    "TargetError",
    "TestKit",
    "TopicMismatch",
    "Undelivered",
    "command",
    "connect",
    "event",
    "partition_of",
    "reply",
    "restart",
]

try:
    __version__ = _version("repertory")
except PackageNotFoundError:  # a checkout on the path that was not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """Import what runs an application when it is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'repertory' has no attribute {name!r}")
    value: object = getattr(import_module(f"repertory.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
