"""``Publisher``: writes a node's status to the log, where ``repertory status`` can read it from any machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec

from repertory.bridge.log.errors import LogUnavailable, TopicMismatch
from repertory.bridge.log.port import Backend, TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.node.status import NodeStatus

#: At most one record is written in this time.
INTERVAL_S = 1.0
#: For a log that several machines share. A node that misses several heartbeats is dead or cut off from the log.
HEARTBEAT_S = 60.0
#: The delay before the next attempt when the log is unavailable.
RETRY_S = 10.0
#: How long a node that stops waits for its final record to be written.
FINAL_RECORD_TIMEOUT_S = 3.0

logger = logging.getLogger("repertory")


class Publisher:
    """A thread that writes a node's record when it has changed; changes in quick succession are written once.

    Best effort, and it never delays the node: :meth:`changed` does not block, no error leaves the thread, and a failure
    is one log line. ``heartbeat_s`` is how often the record is written without a change, so that a reader on another
    machine can distinguish a quiet node from a dead one; 0 for never.
    """

    def __init__(
        self, status: NodeStatus, connect: Callable[[], Backend], topic: TopicSpec, *, heartbeat_s: float
    ) -> None:
        self._status, self._connect, self._topic = status, connect, topic
        status.heartbeat_s = heartbeat_s
        self._changed, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="incidents", daemon=True)
        self._thread.start()

    def changed(self) -> None:
        """Request that the record is written soon."""
        self._changed.set()

    def close(self) -> None:
        """Write the final record; wait for that up to ``FINAL_RECORD_TIMEOUT_S``."""
        self._closing.set()
        self._changed.set()
        self._thread.join(FINAL_RECORD_TIMEOUT_S)

    # --- its thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        warned = False
        while True:
            try:
                self._publish_all()
            except TopicMismatch as error:  # A retry does not help: an operator has to correct the topic.
                logger.warning("repertory status cannot show the incidents of this node: %s", error)
                return
            except Exception as error:  # noqa: BLE001  best effort: no failure of the log may stop the node
                if not warned:
                    logger.warning(
                        "repertory status cannot show the incidents of this node at present; next try in %g s: %s",
                        RETRY_S, error,
                    )  # fmt: skip
                warned = True
            else:
                return
            if self._closing.wait(RETRY_S):
                return
            self._changed.set()

    def _publish_all(self) -> None:
        """Write the record at each change and heartbeat until the node ends."""
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
                    try:
                        appender.append([Output(self._topic.name, 0, record.node.encode(), value)])
                    except TopicMismatch as gone:  # It was deleted; the next attempt creates it again.
                        raise LogUnavailable(str(gone)) from gone
                    self._closing.wait(INTERVAL_S)
            finally:
                appender.close()
        finally:
            backend.close()
