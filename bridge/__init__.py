"""The bridge between logs and actors: consumed records become envelopes, effects become transactions.

Read ``loop.py`` first: one record's journey from top to bottom. ``log.py`` is the port to a log, ``embedded*`` and
``kafka/`` are the logs; ``system.py`` is where an application begins.
"""

from bridge.client import Client
from bridge.system import ActorSystem

__all__ = ["ActorSystem", "Client"]
