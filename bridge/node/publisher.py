"""``Publisher``: puts the latest word of a node into the log, so that ``repertory status`` finds it from anywhere."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from repertory.bridge.log.port import Backend, TopicMismatch, TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.node.status import NodeStatus

#: At most one record in this time, whatever happens.
INTERVAL_S = 1.0
#: On a log that several machines share; a node that is silent for longer than a few of these is dead or cut off.
HEARTBEAT_S = 60.0
#: After a log that was out of reach.
RETRY_S = 10.0
#: A node that stops waits so long for its last word to be written, and not longer.
LAST_WORD_S = 3.0

logger = logging.getLogger("repertory")


class Publisher:
    """A thread that writes a node's record, coalesced, when something has changed.

    Best effort, and never in anybody's way: :meth:`changed` does not block, no error leaves the thread, and what cannot
    be written is one log line. ``heartbeat_s``: how often the record is written though nothing changed, so that a
    reader on another machine can tell a quiet node from a dead one; 0 for never.
    """

    def __init__(
        self, incidents: NodeStatus, connect: Callable[[], Backend], topic: TopicSpec, *, heartbeat_s: float
    ) -> None:
        self._status, self._connect, self._topic = incidents, connect, topic
        incidents.heartbeat_s = heartbeat_s
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="incidents", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Have the record written soon."""
        self._changed.set()

    def close(self) -> None:
        """Have the last word written, and wait for that a little."""
        self._closing.set()
        self._changed.set()
        self._thread.join(LAST_WORD_S)

    # --- its thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        told = False
        while True:
            try:
                self._publish_all()
            except TopicMismatch as error:  # Asking again makes no difference: somebody has to make it.
                logger.warning("the incidents of this node are not kept for repertory status: %s", error)
                return
            except Exception as error:  # noqa: BLE001  best effort: whatever a log does, the node goes on
                if not told:
                    logger.warning(
                        "the incidents of this node are not kept for repertory status now; next try in %g s: %s",
                        RETRY_S, error,
                    )  # fmt: skip
                told = True
            else:
                return
            if self._closing.wait(RETRY_S):
                return
            self._changed.set()

    def _publish_all(self) -> None:
        """Write the record at each change until the node ends."""
        backend = self._connect()
        try:
            backend.ensure([self._topic])
            appender = backend.appender()
            try:
                last = False
                while not last:
                    self._changed.wait(self._status.heartbeat_s or None)
                    self._changed.clear()
                    last = self._closing.is_set()
                    record = self._status.record(time.time_ns() // 1_000_000)
                    value = msgspec.msgpack.encode(record)
                    appender.append([Output(self._topic.name, 0, record.node.encode(), value)])
                    self._closing.wait(INTERVAL_S)
            finally:
                appender.close()
        finally:
            backend.close()
