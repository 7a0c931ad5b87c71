"""Operator actions on sources: requests in ``{system}.sources``, which the relay of the partition executes."""

from __future__ import annotations

import time
from collections.abc import Iterator

from repertory.actors.headers import RETRY_OF, SOURCE, SOURCE_TIMESTAMP, Header, value
from repertory.actors.wire import DecodeError
from repertory.bridge import topics
from repertory.bridge.log.errors import LogUnavailable
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output, Record
from repertory.bridge.sources.position import (
    ADOPT,
    RETRY,
    SKIP,
    SKIP_LOST,
    SourcePlace,
    SourcePosition,
    SourceRequest,
    encode_source,
)
from repertory.bridge.sources.relay import relay
from repertory.bridge.system.accept import operator_name
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.failed import DeadLetter
from repertory.bridge.system.source_status import OpenSources, SourceStatus, source_statuses
from repertory.bridge.system.sourcing import routing_of

#: Which stop each request is for.
_FOR = {SKIP_LOST: "lost", ADOPT: "recreated"}


class SourceOperator:
    """For use by one thread. A context manager's ``close`` releases what it holds."""

    def __init__(self, system: SystemDefinition, backend: Backend) -> None:
        self._system, self._logs = system, OpenSources(system, backend)
        self._reader, self._appender = backend.reader(), backend.appender()

    def statuses(self) -> Iterator[SourceStatus]:
        """Return how far each partition of each source is relayed."""
        return source_statuses(self._reader, self._system, self._logs)

    def find(self, name: str, partition: int) -> SourceStatus:
        """Return one partition of a source. Raises LookupError if there is none, or nothing of it was relayed yet."""
        self._known(name)
        found = [each for each in self.statuses() if each.name == name]
        for each in found:
            if each.partition == partition and each.next is not None:
                return each
        raise LookupError(
            f"the source {name} has no position in partition {partition}; `sources list` shows those it has"
        )

    def stopped(self, name: str) -> list[SourceStatus]:
        """Return the partitions of a source that have stopped. Raises LookupError if there is no such source."""
        self._known(name)
        return [each for each in self.statuses() if each.name == name and each.stopped is not None]

    def _known(self, name: str) -> None:
        if name not in self._system.sources:
            names = ", ".join(self._system.sources) or "none"
            raise LookupError(f"{self._system.name} has no source {name!r}; it has {names}")

    # --- requests ---------------------------------------------------------------------------------------------

    def retry(self, status: SourceStatus, wait_s: float = 30.0) -> None:
        """Have a partition that stopped tried again at once, and allow it as many dead letters as a new one.

        Raises LookupError if it has not stopped, LogUnavailable if no relay does it in time; the request stays.
        """
        if status.stopped is None:
            raise LookupError(f"{status.place.at(-1)} has not stopped: it is relayed up to {status.next}")
        self._have_done(status, SourceRequest(RETRY), wait_s)

    def skip(self, status: SourceStatus, offset: int, reason: str, wait_s: float = 30.0) -> None:
        """Pass the record at which a partition has stopped; it is not relayed, and is no dead letter. As ``retry``."""
        stopped = status.stopped
        if stopped is None or stopped.offset != offset:
            at = "it has not stopped" if stopped is None else f"it has stopped at {stopped.offset}"
            raise LookupError(f"{status.place.at(offset)} is not the record at which its partition has stopped: {at}")
        self._accept(status, SourceRequest(SKIP, reason, operator_name(), _now_ms(), offset), wait_s)

    def skip_lost(self, status: SourceStatus, reason: str, wait_s: float = 30.0) -> None:
        """Go on behind records that retention took before they were relayed. As ``retry``."""
        self._accept(status, SourceRequest(SKIP_LOST, reason, operator_name(), _now_ms()), wait_s)

    def adopt(self, status: SourceStatus, reason: str, wait_s: float = 30.0) -> None:
        """Go on in a topic that was created again, with the same records at the same offsets. As ``retry``."""
        self._accept(status, SourceRequest(ADOPT, reason, operator_name(), _now_ms()), wait_s)

    def _accept(self, status: SourceStatus, request: SourceRequest, wait_s: float) -> None:
        """Have something accepted, and look whether it was."""
        if not request.reason.strip():
            raise ValueError("give a reason: it is kept with the position, and shown by sources list and verify")
        wanted = _FOR.get(request.what)
        if wanted is not None and (status.stopped is None or status.stopped.what != wanted):
            why = "it has not stopped" if status.stopped is None else status.stopped.reason
            what = "no record is lost" if wanted == "lost" else "its topic was not created again"
            raise LookupError(f"{status.place.at(-1)}: {what}: {why}")
        self._have_done(status, request, wait_s)
        now = self.find(status.name, status.partition)
        if not any((each.who, each.at_ms) == (request.who, request.at_ms) for each in now.accepted):
            raise LookupError(f"{status.place.at(-1)} has changed meanwhile, and nothing was accepted: look again")

    def _have_done(self, status: SourceStatus, request: SourceRequest, wait_s: float) -> None:
        """Append a request, and wait until the relay has taken it: its transaction deletes the request."""
        place, deadline_s = status.place, time.monotonic() + wait_s
        topic = topics.sources_topic(self._system.name)
        (offset,) = self._appender.append([Output(topic, place.relay, place.request_key, encode_source(request))])
        while (left_s := deadline_s - time.monotonic()) > 0:
            for record in self._reader.follow(topic, {place.relay: offset + 1}, left_s):
                offset = record.offset
                if record.key == place.request_key and record.value is None:
                    return
                if time.monotonic() > deadline_s:
                    break
        raise LogUnavailable(
            f"no node of {self._system.name} has done it within {wait_s:g} s; the request is in the log, and is done "
            f"when one relays {place.at(-1)}"
        )

    def close(self) -> None:
        """Release what it holds."""
        self._logs.close()
        self._appender.close()
        self._reader.close()


# --- dead letters ---------------------------------------------------------------------------------------------


def is_of_a_source(system: SystemDefinition, letter: DeadLetter) -> bool:
    """Return whether a dead letter is a record of a foreign topic, and no command."""
    return value(letter.headers, SOURCE) is not None and letter.source_topic not in system.commands_topics()


def decoded_again(system: SystemDefinition, letter: DeadLetter, retry_to: Header) -> list[Output]:
    """Return the commands that this build makes of a dead letter's record. Raises LookupError if it makes none."""
    name = (value(letter.headers, SOURCE) or b"").decode("utf-8", "replace").partition("/")[0]
    source = system.sources.get(name)
    if source is None:
        raise LookupError(f"{letter.address} came from the source {name!r}, which {system.name} does not have")
    record = _foreign_record(letter)
    found = relay(
        SourcePlace(name, record.topic, record.partition), source.decode, SourcePosition(record.offset, "", 0),
        [record], routing_of(system), refused={}, stuck={}, is_full=lambda each: each.records > 0,
        handling=lambda _: None, now_ms=0,
    )  # fmt: skip
    stopped = found.position.stopped
    if found.letters or stopped is not None:
        why = found.letters[0][1].message if found.letters else stopped.reason if stopped is not None else ""
        raise LookupError(f"{letter.address} cannot be relayed by this code either: {why}")
    if not found.outputs:
        raise LookupError(f"{letter.address} means nothing to this code: it makes no command of {letter.source}")
    added = ((RETRY_OF, letter.retry_of), retry_to)
    return [Output(each.topic, each.partition, each.key, each.value, (*each.headers, *added)) for each in found.outputs]


def _foreign_record(letter: DeadLetter) -> Record:
    """Return the record that became a dead letter, as its topic had it."""
    written = letter.record
    last = max(nth for nth, (name, _) in enumerate(letter.headers) if name == SOURCE)  # Ours; a record may have others.
    try:
        timestamp_ms = written.number(SOURCE_TIMESTAMP)
    except DecodeError:  # An earlier version did not keep it.
        timestamp_ms = written.timestamp_ms
    return Record(
        letter.source_topic, letter.source_partition, letter.source_offset, written.key, written.value,
        (*letter.headers[:last], *letter.headers[last + 1 :]), timestamp_ms,
    )  # fmt: skip


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
