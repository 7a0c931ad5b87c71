"""``View``: a local, read-only replica of the entities of one class, fed by the log.

It asks no worker: it reads what is committed, as an operator's tools do, and follows it. A client that was told a
``Position`` finds its own write in any view by waiting for that position.
"""

from __future__ import annotations

import logging
import threading
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from repertory.actors.asks import Position
from repertory.actors.entity import Entity
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.errors import LogError, LogUnavailable
from repertory.bridge.log.port import Backend, Reader
from repertory.bridge.log.record import Record
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.replica import Overtaken, Replica, Unreadable, replica_of

E = TypeVar("E", bound=Entity)

logger = logging.getLogger("repertory")

#: How long one wait for records takes at most: a view that is closed ends by then.
_FOLLOW_S = 0.5
#: The pause before the log is asked again: after an error, and on a log whose ``follow`` does not wait (``memory:``).
_RETRY_S, _PAUSE_S = 1.0, 0.005
#: A contradiction is read again so many times: compaction may have deleted a record while it was read.
_RESTORES_MAX = 3


class ViewFailed(LogError):
    """A view cannot go on with a shard, or with any: the sentence names the record and the remedy."""


class View(Generic[E]):
    """The committed states of all entities of one class. Any thread may call it; close it, or use it in ``with``.

    ``client.view(Account)`` makes one. It has one thread, which restores the shards one after the other and then
    follows all of them, and a connection of its own. It keeps the state of *every* entity of the class in memory, and
    nothing else: its memory is bounded by the entities, not by the traffic.

    What it shows is committed, and may be old by the time that a record takes to get here. Events are applied one by
    one: between two events of one command, the state after the first can be seen.
    """

    def __init__(self, system: SystemDefinition, entity: type[E], backend: Backend) -> None:
        """Raises LookupError if the system does not host the class, ValueError if the class keeps no state."""
        self._system, self._hosted = system, system.definition(entity)
        replica_of(system, self._hosted, 0)  # A router has none.
        self._backend = backend
        #: By partition, once restored. They are changed, and read, by those who hold ``_changed``.
        self._replicas: dict[int, Replica] = {}
        self._failed: dict[int, str] = {}
        #: The last record of each partition that did not continue the others, by its offset.
        self._strange: dict[int, int] = {}
        #: Why it cannot go on at all; why it waits for the log.
        self._broken, self._trouble = "", ""
        self._changed = threading.Condition()
        self._closing = threading.Event()
        name = f"view of {self._hosted.behaviour.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def get(self, key: str, *, at_least: Position | None = None, timeout_s: float = 5.0) -> E | None:
        """Return an entity's state, None if it never existed or has stopped.

        With ``at_least``, the state of that position or a later one: waits until the view has come so far. Without,
        it waits until the key's shard is restored.

        Raises:
            TimeoutError: the view has not come so far within ``timeout_s``; the text says how far it is.
            ValueError: the key is invalid, or ``at_least`` is a position of another entity or shard.
            ViewFailed: a record cannot be read (a newer build wrote it), or the view is closed.
        """
        name, partition = self._hosted.behaviour.name, partition_of(checked_key(key).encode(), self._hosted.partitions)
        if at_least is not None and (at_least.entity, at_least.partition) != (name, partition):
            raise ValueError(f"key {key!r} of {name} is in shard {partition}, and {at_least} is a position of another")
        due_seq = 0 if at_least is None else at_least.seq
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_over(partition) or self._has(partition, due_seq), timeout_s):
                raise TimeoutError(self._late(partition, at_least, timeout_s))
            if self._is_over(partition):
                raise ViewFailed(self._broken or self._failed.get(partition, ""))
            kept = self._replicas[partition].entities.get(key)
            return None if kept is None else self._own(cast("E", kept.state))

    def _is_over(self, partition: int) -> bool:
        return bool(self._broken) or partition in self._failed

    def _has(self, partition: int, due_seq: int) -> bool:
        replica = self._replicas.get(partition)
        return replica is not None and replica.next_seq >= due_seq

    def _late(self, partition: int, at_least: Position | None, timeout_s: float) -> str:
        name, replica = self._hosted.behaviour.name, self._replicas.get(partition)
        wanted = "restored" if at_least is None else f"at {at_least}"
        where = "is not restored yet" if replica is None else f"is at {name}/{partition}/{replica.next_seq}"
        why = f": {self._trouble}" if self._trouble else ""
        return f"the view of {name} is not {wanted} after {timeout_s:g} s; its shard {partition} {where}{why}"

    def _own(self, state: E) -> E:
        """Return a state that the caller may keep: a copy if it could be changed in place."""
        behaviour = self._hosted.behaviour
        return cast("E", behaviour.state_decode(encode(state))) if behaviour.has_mutable_fields else state

    def close(self) -> None:
        """End the thread and its connection, within about half a second. Later calls of ``get`` raise ViewFailed."""
        self._closing.set()
        self._break(f"the view of {self._hosted.behaviour.name} is closed")
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        reader: Reader | None = None
        try:
            reader = self._backend.reader()
            while not self._closing.is_set():
                self._step(reader)
        except Exception as error:  # A view that ends without a word would let its callers wait.
            logger.exception("the view of %s ends", self._hosted.behaviour.name)
            self._break(f"the view of {self._hosted.behaviour.name} ended: {type(error).__name__}: {error}")
        finally:
            if reader is not None:
                reader.close()

    def _step(self, reader: Reader) -> None:
        """Restore what is not restored, then follow for a while."""
        try:
            for partition in range(self._hosted.partitions):
                if partition not in self._replicas and partition not in self._failed and not self._closing.is_set():
                    self._restore(reader, partition)
            self._follow(reader)
        except LogUnavailable as error:
            self._trouble = str(error)
            self._closing.wait(_RETRY_S)
        except LogError as error:
            self._break(f"the view of {self._hosted.behaviour.name} ended: {error}")
            self._closing.set()

    def _restore(self, reader: Reader, partition: int) -> None:
        for tries in range(1, _RESTORES_MAX + 1):
            replica = replica_of(self._system, self._hosted, partition)
            try:
                replica.restore(reader)
            except Unreadable as error:
                if tries == _RESTORES_MAX:
                    self._fail(partition, str(error))
                self._closing.wait(_PAUSE_S)
                continue
            with self._changed:
                self._replicas[partition], self._trouble = replica, ""
                self._changed.notify_all()
            return

    def _follow(self, reader: Reader) -> None:
        """Apply records as they are committed, until none came for a while or a shard has to be restored."""
        replicas = {each: replica for each, replica in self._replicas.items() if each not in self._failed}
        if replicas:
            topic = next(iter(replicas.values())).topic
            positions = {partition: replica.next_offset for partition, replica in replicas.items()}
            for record in reader.follow(topic, positions, _FOLLOW_S):
                if self._closing.is_set() or not self._take(replicas[record.partition], record):
                    return
            self._trouble = ""
        self._closing.wait(_PAUSE_S)

    def _take(self, replica: Replica, record: Record) -> bool:
        """Apply one record; return whether its shard can go on."""
        with self._changed:
            try:
                replica.take(record)
            except Overtaken as error:
                del self._replicas[record.partition]
                if self._strange.get(record.partition) == record.offset:
                    self._fail(record.partition, f"{error}, also after it was restored: records are lost")
                self._strange[record.partition] = record.offset
                return False
            except Unreadable as error:
                self._fail(record.partition, str(error))
                return False
            self._changed.notify_all()
            return True

    def _fail(self, partition: int, why: str) -> None:
        with self._changed:
            self._failed[partition] = (
                f"the view of {self._hosted.behaviour.name} cannot go on with shard {partition}: {why}"
            )
            self._changed.notify_all()

    def _break(self, sentence: str) -> None:
        with self._changed:
            self._broken = self._broken or sentence
            self._changed.notify_all()
