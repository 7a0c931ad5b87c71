"""Where a partition of a source is read from: its position against the topic as it is, and what operators ask. Pure.

A topic that is gone, was created again, or has lost records is never guessed about: the partition stops, and its stop
says what is wrong and what can be done.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from repertory.actors.shard.changelog import LOST, RECREATED, Accepted
from repertory.bridge.log.follower import Surveyed
from repertory.bridge.sources.definition import LATEST, SourceDefinition
from repertory.bridge.sources.position import (
    ADOPT,
    RETRY,
    SKIP,
    SKIP_LOST,
    SKIPPED,
    SourcePlace,
    SourcePosition,
    SourceRequest,
    SourceStop,
)

#: A partition that stopped for one of these reads on by itself once the topic is as it should be.
OF_THE_TOPIC = frozenset({"gone", "recreated", "lost", "tail-lost", "unreachable", "unreadable"})

replace = msgspec.structs.replace


def first_position(
    source: SourceDefinition, place: SourcePlace, found: Surveyed, began: Callable[[], int]
) -> SourcePosition:
    """Return the position of a partition that was never read.

    ``began``: how many partitions the topic had when the source first read it, 0 if it never did. A partition that was
    added later is read from its beginning, whatever ``from_`` says: the source was there before it.
    """
    low, end = found.bounds[place.partition]
    if source.from_ == LATEST:
        before = began() or len(found.bounds)
        first = end if place.partition < before else low
        return SourcePosition(first, found.topic_id, before, first)
    return SourcePosition(low, found.topic_id, len(found.bounds), low)


def checked(
    place: SourcePlace, position: SourcePosition, found: Surveyed | None, now_ms: int, lost: str = ""
) -> SourcePosition:
    """Return the position, stopped if the topic contradicts it; what stopped it before and is well again is cleared.

    ``lost``: why the log gave the partition up, although the topic may be as it should be.
    """
    wrong = _wrong(place, position, found)
    if wrong is None and lost:
        wrong = SourceStop("unreadable", f"{place.topic}/{place.partition} cannot be read: {lost}")
    if wrong is None:
        stopped = position.stopped
        is_over = stopped is not None and stopped.what in OF_THE_TOPIC
        return replace(position, stopped=None) if is_over else position
    stop = replace(wrong, since_ms=now_ms)
    return position if stop.is_like(position.stopped) else replace(position, stopped=stop)


def unreachable(position: SourcePosition, why: str, now_ms: int) -> SourcePosition:
    """Return the position, stopped because the log of the topic does not answer."""
    if position.stopped is not None:
        return position
    return replace(position, stopped=SourceStop("unreachable", why, "LogUnavailable", since_ms=now_ms))


def is_another(place: SourcePlace, position: SourcePosition, found: Surveyed | None) -> bool:
    """Return whether the partition is not the one that the position counts, or is gone."""
    return found is None or place.partition >= len(found.bounds) or position.topic_id != found.topic_id


def _wrong(place: SourcePlace, position: SourcePosition, found: Surveyed | None) -> SourceStop | None:
    topic, here = place.topic, f"--partition {place.partition} --reason …"
    if found is None or place.partition >= len(found.bounds):
        what = f"there is no topic {topic}" if found is None else f"{topic} has {len(found.bounds)} partitions now"
        return SourceStop("gone", f"{what}, or this user may not see it; restore it, and the source goes on by itself")
    low, end = found.bounds[place.partition]
    if position.topic_id != found.topic_id:
        return SourceStop(
            "recreated",
            f"{topic} was deleted and created again: its offsets are not those of which {position.next} is next. If "
            "its records are other ones, give the source another name; if it was restored with the same records at "
            f"the same offsets: repertory sources adopt … {place.name} {here}",
        )
    if end < position.next:
        return SourceStop(
            "tail-lost",
            f"{topic}/{place.partition} ends at {end} where {position.next} is next: its tail is lost; restore it, or "
            "give the source another name",
        )
    if low > position.next:
        return SourceStop(
            "lost",
            f"records {position.next} to {low - 1} of {topic}/{place.partition} were taken by retention and never "
            f"relayed; restore them, or accept the loss: repertory sources skip-lost … {place.name} {here}; and have "
            "the topic keep them longer",
        )
    return None


def asked(
    place: SourcePlace, position: SourcePosition, found: Surveyed | None, request: SourceRequest
) -> SourcePosition | None:
    """Return the position after what an operator asks for; None if that does not fit, and nothing is done."""
    accepts = Accepted(request.what, request.reason, request.who, request.at_ms)
    stopped = position.stopped
    match request.what:
        case what if what == RETRY:
            return replace(position, stopped=None, dead_letters=0)
        case what if what == SKIP and stopped is not None and stopped.offset == request.offset >= position.next:
            accepts = replace(accepts, what=SKIPPED, first=request.offset, last=request.offset)
            return replace(
                position, next=request.offset + 1, stopped=None, dead_letters=0, accepted=(*position.accepted, accepts)
            )
    if found is None or place.partition >= len(found.bounds):
        return None
    low, end = found.bounds[place.partition]
    is_other = position.topic_id != found.topic_id
    if request.what == SKIP_LOST and not is_other and low > position.next:
        accepts = replace(accepts, what=LOST, first=position.next, last=low - 1)
        return replace(position, next=low, stopped=None, accepted=(*position.accepted, accepts))
    if request.what == ADOPT and is_other and position.next <= end:
        accepts = replace(accepts, what=RECREATED)
        return replace(position, topic_id=found.topic_id, stopped=None, accepted=(*position.accepted, accepts))
    return None
