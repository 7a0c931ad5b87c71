"""From records of a foreign topic to the records that are appended for them: commands, or dead letters. Pure.

A record for which the source's function raises ValueError (msgspec.DecodeError is one) is a dead letter, with its
bytes. Any other exception stops the partition, for it says nothing about the record; so do too many dead letters in a
row, which say that the topic is not what the function takes it for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from repertory.actors import headers as names
from repertory.actors.context import OutputRefused
from repertory.actors.headers import Headers
from repertory.actors.message import Command
from repertory.actors.placement import partition_of
from repertory.actors.source import DecodeRecord, Route, SourceRecord
from repertory.actors.wire import encode
from repertory.bridge.log.record import Output, Record
from repertory.bridge.sources.position import SourcePlace, SourcePosition, SourceStop
from repertory.supervision.directive import Failure, qualified_name
from repertory.supervision.traceback_text import user_traceback

#: So many records in a row may become dead letters; then the partition stops at the next one that would.
DEAD_LETTERS_MAX: Final = 100
#: An error message in a header of a dead letter is cut to this length.
_REASON_CHARS_MAX = 1_000


class RelayTarget(NamedTuple):
    """A hosted entity as commands reach it: its commands topic, its partitions, and what reads its commands."""

    topic: str
    partitions: int
    decode: Callable[[bytes], object]


class RelayLimits(msgspec.Struct, frozen=True):
    """What one transaction of a relay holds at most, and the largest command. ``records_max``: of the foreign topic."""

    records_max: int
    bytes_max: int
    command_bytes_max: int
    output_bytes_max: int


class Routing(msgspec.Struct, frozen=True):
    """What a system's relays need to know of it. ``targets``: by entity class."""

    targets: Mapping[type, RelayTarget]
    dead_letters: str
    limits: RelayLimits


class Relayed(msgspec.Struct):
    """What becomes of records of one partition: the records to append, and the position behind them.

    ``letters``: the offsets of the dead letters, with their errors. Mutable while records are added.
    """

    place: SourcePlace
    position: SourcePosition
    outputs: list[Output] = []
    letters: list[tuple[int, Failure]] = []
    records: int = 0
    size_bytes: int = 0


def relay(
    place: SourcePlace,
    decode: DecodeRecord,
    position: SourcePosition,
    records: Sequence[Record],
    routing: Routing,
    *,
    refused: Mapping[int, str],
    stuck: Mapping[int, SourceStop],
    is_full: Callable[[Relayed], bool],
    handling: Callable[[int], object],
    now_ms: int,
) -> Relayed:
    """Decide about records in their order, until ``is_full``, or the partition stops at one: ``position.stopped``.

    ``refused``: the offsets of records whose commands the log refuses for good, with the reason; ``stuck``: those at
    which the partition stops without a try. ``handling`` is called with each offset
    before its record is decoded.
    """
    relayed = Relayed(place, position)
    for record in records:
        if is_full(relayed):
            break
        if (stop := stuck.get(record.offset)) is not None:
            stop = msgspec.structs.replace(stop, since_ms=now_ms)
            relayed.position = msgspec.structs.replace(relayed.position, stopped=stop)
            break
        handling(record.offset)
        try:
            outputs = _commands(place, decode, record, routing, refused)
            dead_letters = 0
        except MemoryError:
            raise
        except (ValueError, _Undeliverable) as error:
            dead_letters = relayed.position.dead_letters + 1
            failure = _failure(error, record)
            if dead_letters > DEAD_LETTERS_MAX:
                why = f"{DEAD_LETTERS_MAX} records in a row became dead letters, and so would {record.place}"
                _stop(relayed, "dead-letters", f"{why}: {failure.message}", failure, record.offset, now_ms)
                break
            outputs = [_dead_letter(place, record, failure, error, routing.dead_letters)]
            relayed.letters.append((record.offset, failure))
        except Exception as error:  # noqa: BLE001  user code
            failure = Failure.of(error, record.place)
            _stop(relayed, "failed", failure.message, failure, record.offset, now_ms)
            break
        _add(relayed, record, outputs, dead_letters)
    return relayed


class _Undeliverable(Exception):
    """The log refuses the commands of a record."""


def _add(relayed: Relayed, record: Record, outputs: Sequence[Output], dead_letters: int) -> None:
    relayed.outputs += outputs
    relayed.records += 1
    relayed.size_bytes += sum(output.size_bytes for output in outputs)
    relayed.position = msgspec.structs.replace(
        relayed.position, next=record.offset + 1, dead_letters=dead_letters, stopped=None
    )


def _stop(relayed: Relayed, what: str, reason: str, failure: Failure, offset: int, now_ms: int) -> None:
    stop = SourceStop(what, reason, failure.error_type, offset, failure.traceback, now_ms)
    relayed.position = msgspec.structs.replace(relayed.position, stopped=stop)


def _failure(error: Exception, record: Record) -> Failure:
    failure = Failure.of(error, record.place)
    if isinstance(error, _Undeliverable):
        failure = msgspec.structs.replace(failure, error_type=qualified_name(OutputRefused))
    return failure


# --- commands -------------------------------------------------------------------------------------------------


def _commands(
    place: SourcePlace, decode: DecodeRecord, record: Record, routing: Routing, refused: Mapping[int, str]
) -> list[Output]:
    """Return the commands of one record.

    Raises ValueError or _Undeliverable if the record cannot be relayed, anything else if the function is wrong.
    """
    if (why := refused.get(record.offset)) is not None:
        raise _Undeliverable(why)
    origin = f"{place.name}/{place.partition}/{record.offset}"
    return [
        command_output(each, ((names.SOURCE, f"{origin}/{index}".encode()),), routing)
        for index, each in enumerate(routes_of(decode, record))
    ]


def routes_of(decode: DecodeRecord, record: Record) -> Iterable[Route]:
    """Return what a source's function makes of a record. Raises what it raises; TypeError for what is no route."""
    found = decode(
        SourceRecord(
            record.topic, record.partition, record.offset, record.key, record.value, record.headers, record.timestamp_ms
        )
    )
    routes = [] if found is None else [found] if isinstance(found, Route) else found
    if not isinstance(routes, list | tuple) or not all(isinstance(each, Route) for each in routes):
        raise TypeError(f"the source's function returns a list of what route(…) returns, not {found!r:.200}")
    return routes


def command_output(each: Route, headers: Headers, routing: Routing) -> Output:
    """Encode a command. ValueError for one that its shard could not read; LookupError if no shard would."""
    owner, name = each.handler.owner, type(each.command).__name__
    target = routing.targets.get(owner)
    if target is None:
        raise LookupError(f"{owner.__name__} is not hosted by this system; add system.host(…)")
    data = _encoded(each.command, name)
    if len(data) > routing.limits.command_bytes_max:
        raise ValueError(f"{name} has {len(data):,} bytes, over input_bytes_max")
    try:
        target.decode(data)
    except ValueError as error:
        raise ValueError(f"{name} cannot be decoded again: {error}") from error
    key = each.key.encode()
    output = Output(target.topic, partition_of(key, target.partitions), key, data, headers)
    if output.size_bytes > routing.limits.output_bytes_max:
        raise ValueError(f"{name} and its key have {output.size_bytes:,} bytes, over output_bytes_max")
    return output


def _encoded(command: Command, name: str) -> bytes:
    try:
        return encode(command)
    except MemoryError:
        raise
    except Exception as error:  # A field may hold anything: what msgspec does not know, a cycle, half a character.
        raise ValueError(f"{name} cannot be encoded: {error}") from error


# --- dead letters ---------------------------------------------------------------------------------------------


def _dead_letter(place: SourcePlace, record: Record, failure: Failure, error: Exception, topic: str) -> Output:
    """Return the dead letter of a record: its key, its bytes and its headers, and why it was not relayed."""
    own: Headers = (
        (names.SOURCE, f"{place.name}/{place.partition}/{record.offset}".encode()),
        (names.ERROR_TYPE, failure.error_type.encode()),
        (names.ERROR_MESSAGE, failure.message[:_REASON_CHARS_MAX].encode("utf-8", "backslashreplace")),
        (names.ATTEMPTS, b"1"),
        (names.SOURCE_TOPIC, record.topic.encode()),
        (names.SOURCE_PARTITION, b"%d" % record.partition),
        (names.SOURCE_OFFSET, b"%d" % record.offset),
        (names.SOURCE_TIMESTAMP, b"%d" % record.timestamp_ms),
    )
    if trace := user_traceback(error):
        own = (*own, (names.ERROR_TRACEBACK, trace.encode()))
    kept = tuple((names.kept(name), value) for name, value in record.headers)
    return Output(topic, 0, record.key, record.value, (*kept, *own))
