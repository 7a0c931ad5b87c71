"""The system of ``tests.apps.fed`` as a node imports it: its name, its topic and more are those of the environment."""

from __future__ import annotations

import os

from tests.apps.fed import TOPIC, Book, made

__all__ = ["Book", "system"]

system = made(
    os.environ.get("FED_SYSTEM", "fed"),
    os.environ.get("FED_DELIVERY", "exactly-once"),
    os.environ.get("FED_TOPIC", TOPIC),
    cluster=os.environ.get("FED_CLUSTER") or None,
)
