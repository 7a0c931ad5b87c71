"""``RunningReads``: what a test or a notebook asks a ``Running`` for, read from its log's committed records."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from repertory.actors.entity import Entity
from repertory.actors.headers import Headers
from repertory.actors.message import Message
from repertory.actors.placement import spread
from repertory.bridge.log.errors import TopicMismatch
from repertory.bridge.log.port import Appender, Backend, Reader
from repertory.bridge.log.record import Output
from repertory.bridge.system.committed import entity_state
from repertory.bridge.system.failed import DeadLetter, Parked, dead_letters, parked_keys
from repertory.bridge.system.open_effects import OpenEffect, open_effects
from repertory.bridge.system.open_sagas import OpenSaga, open_sagas
from repertory.bridge.system.open_timers import OpenTimer, open_timers
from repertory.bridge.system.published import PublishedRecord, published_records
from repertory.bridge.system.source_status import OpenSources, SourceStatus, source_statuses

if TYPE_CHECKING:
    from repertory.bridge.system.definition import SystemDefinition

E = TypeVar("E", bound=Entity)


class RunningReads:
    """The part of ``Running`` that only reads, and writes what stands outside the system."""

    system: SystemDefinition
    reader: Reader
    _backend: Backend
    _source_logs: OpenSources
    #: Opened by the first ``produce``.
    _producer: Appender | None = None

    def state(self, entity: type[E], key: str) -> E | None:
        """Return an entity's committed state, None if it has none: it never existed, or has stopped.

        Raises:
            LookupError: the system does not host the entity class.
            ValueError: the key is invalid, or the records are not those of this code (DecodeError).
            LogError: the log cannot be read.
        """
        hosted = self.system.definition(entity)
        return cast("E | None", entity_state(self.reader, self.system, hosted, key).state)

    def parked(self) -> list[Parked]:
        """Return the parked keys: the command that each waits for, its failure, and how many commands are behind it."""
        return list(parked_keys(self.reader, self.system))

    def timers(self) -> list[OpenTimer]:
        """Return the open timers and delayed messages, by entity and partition those that are due first."""
        return list(open_timers(self.reader, self.system))

    def effects(self) -> list[OpenEffect]:
        """Return the effects that are not settled, by entity, partition and request."""
        return list(open_effects(self.reader, self.system))

    def sagas(self) -> list[OpenSaga]:
        """Return the sagas with their steps and what they wait for, by entity, partition and key.

        Those that are over are among them, without steps, as long as their results are kept.
        """
        return list(open_sagas(self.reader, self.system))

    def sources(self) -> list[SourceStatus]:
        """Return how far each partition of each source is relayed, and which have stopped, and why."""
        return list(source_statuses(self.reader, self.system, self._source_logs))

    def produce(
        self, topic: str, value: bytes | None, *, key: bytes | None = None, headers: Headers = (), partition: int = -1
    ) -> int:
        """Append a record to a topic outside the system, as a foreign producer does, and return its offset.

        For tests of sources, which append to the topic of one. -1: the partition follows from the key, or the value.
        Raises TopicMismatch if there is no such topic or partition, or it is one of the system's own; and LogError.
        """
        count = self.reader.partition_count(topic)
        if count is None or topic.startswith(f"{self.system.name}."):
            what = "there is no such topic" if count is None else "it is one of the system's own"
            raise TopicMismatch(f"nothing is appended to {topic}: {what}")
        place = spread(key or value or b"", count) if partition < 0 else partition
        if self._producer is None:
            self._producer = self._backend.appender()
        return self._producer.append([Output(topic, place, key, value, headers)])[0]

    def dead_letters(self) -> list[DeadLetter]:
        """Return the commands that were not applied and never will be, oldest first in each partition."""
        return list(dead_letters(self.reader, self.system))

    def published(self, topic: str, *message_types: type[Message]) -> list[PublishedRecord]:
        """Return the records of a topic outside the system, by partition and offset: key, value and headers.

        A value is a message if the system's entities or ``message_types`` have its type, else the bytes.

        Raises LookupError if there is no such topic.
        """
        return list(published_records(self.reader, self.system, topic, message_types))
