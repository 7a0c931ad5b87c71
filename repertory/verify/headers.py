"""The headers of outputs, written down a second time: `verify` does not ask the codec that wrote them.

They also tell an output of a shard from a command of a client. A client may send any headers, also those of a shard;
a command counts as an output if its headers are exactly those that a shard writes. A client that imitates all of them
cannot be told from a shard that has sent too much, and is reported as such.
"""

from __future__ import annotations

import re

from repertory.actors.headers import (
    ABOUT,
    BECAUSE,
    CAUSE,
    CORRELATION_ID,
    EFFECT,
    EPOCH,
    MESSAGE_ID,
    NEXT,
    POSITION,
    REJECTED,
    REPLY_KEY,
    REPLY_TO,
    SEQ,
    TIMER,
    TURN,
    VERSION,
    Headers,
    value,
)
from repertory.actors.saga.inner import STEP_MARK
from repertory.actors.shard.changelog import SHARD_KEY
from repertory.actors.shard.turn_result import Replied, Told, TurnOutput
from repertory.bridge.log.record import Record

_TELL = (CAUSE,)
_ASK = (CAUSE, MESSAGE_ID, CORRELATION_ID, REPLY_TO, REPLY_KEY)
_REPLY = (CAUSE, CORRELATION_ID)
_LATER = (CAUSE, BECAUSE)
_RESULT = (*_LATER, EFFECT)
_SENT_LATER = frozenset({_LATER, (*_LATER, TIMER), _RESULT, (*_RESULT, ABOUT), (*_RESULT, ABOUT, REJECTED)})
_OUTPUTS = frozenset({_TELL, _ASK, (*_ASK, ABOUT), _REPLY, (*_REPLY, ABOUT), (*_REPLY, ABOUT, REJECTED)})
_EVENT = (CAUSE, SEQ, VERSION)
_EVENTS = frozenset({_EVENT, (*_EVENT, EPOCH), (*_EVENT, EPOCH, TURN), (*_EVENT, EPOCH, TURN, NEXT)})
_NUMBER = re.compile(rb"[1-9][0-9]{0,17}")


def names(headers: Headers) -> tuple[str, ...]:
    """Return the names of headers, in order."""
    return tuple(name for name, _ in headers)


def are_of_an_event(headers: Headers) -> bool:
    """Whether a journal record has the headers that a shard writes, in their order."""
    return names(headers) in _EVENTS


def are_of_the_changelog(record: Record) -> bool:
    """Whether a record of a state topic has the headers that a shard writes, in their order."""
    if record.key == SHARD_KEY:
        return names(record.headers) == (CAUSE, SEQ)
    is_state = not (record.key or b"").startswith(b"\0")
    return names(record.headers) == ((CAUSE, SEQ, VERSION) if is_state else (CAUSE,))


def without_epoch(headers: Headers) -> Headers:
    """Return headers without the epoch of their owner at the end: the next owner may send the same output again."""
    return headers[:-1] if headers and headers[-1][0] == EPOCH else headers


def without_position(headers: Headers) -> Headers:
    """Return headers of a reply without the position of its shard, which compaction and other turns may change."""
    return tuple(header for header in headers if header[0] != POSITION)


def epoch_of_output(headers: Headers) -> int:
    """Return the epoch in the headers of an output, 0 if there is none, -1 if no shard writes it like that."""
    found = value(headers, EPOCH)
    return 0 if found is None else int(found) if _NUMBER.fullmatch(found) else -1


def are_of_an_output(headers: Headers, source: str) -> bool:
    """Whether a command has the headers that a shard of the commands topic ``source`` writes, in their order."""
    headers = without_epoch(headers)
    if names(headers) not in _OUTPUTS:
        return False
    found = dict(headers)
    if REJECTED in found and not _says_rejected(headers):
        return False
    if REPLY_TO in found:
        is_own = found[CAUSE] == found[MESSAGE_ID] == found[CORRELATION_ID]
        return is_own and found[REPLY_TO] == source.encode() and found.get(ABOUT) != b""
    return found.get(ABOUT) != b""


def are_sent_later(headers: Headers) -> bool:
    """Whether a command has the headers that a shard writes to what was due and to results, in their order."""
    return names(headers) in _SENT_LATER and (REJECTED not in names(headers) or _says_rejected(headers))


def _says_rejected(headers: Headers) -> bool:
    """Whether a saga is told, as a shard does it, that its step was not applied."""
    return value(headers, REJECTED) == b"1" and (value(headers, ABOUT) or b"").startswith(STEP_MARK.encode())


def are_of_a_publication(headers: Headers) -> bool:
    """Whether a record of a topic outside the system has the headers that a shard writes."""
    return names(without_epoch(headers)) == _TELL


def due(output: TurnOutput, source: str, cause: bytes) -> Headers:
    """Return the headers of a tell, an ask, a reply or a published record of an entity, without an epoch."""
    match output:
        case Told(reply_key=str(key), about=about):
            asked = (cause, cause, cause, source.encode(), key.encode())
            return (*zip(_ASK, asked, strict=True), *_about(about))
        case Replied(to=to, rejected=rejected):
            is_marked = rejected and to.key is not None and to.about.startswith("~")
            marked: Headers = ((REJECTED, b"1"),) if is_marked else ()
            return ((CAUSE, cause), (CORRELATION_ID, to.correlation_id.encode()), *_about(to.about), *marked)
    return ((CAUSE, cause),)


def _about(about: str) -> Headers:
    return ((ABOUT, about.encode()),) if about else ()
