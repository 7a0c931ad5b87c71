"""The kill points around what a shard owes: what a turn does about ids, timers and effects, around its commit.

They are told from the turn's changelog, and only while somebody listens (``bridge.kill_points``).
"""

from __future__ import annotations

from repertory.actors.shard.changelog import ANSWER_KEY, AUTO_KEY, EFFECT_KEY, TIMER_KEY, ChangelogEntry
from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge import kill_points
from repertory.bridge.changelog_codec import decode_answer

#: Each kind of change, with its points before and after the commit.
_POINTS = {
    "decided": ("answering", "answered"),
    "joined": ("joining", "joined"),
    "evicted": ("forgetting", "forgotten"),
    "due": ("firing", "fired"),
    "settled": ("settling", "settled"),
    "performed": ("performing", "performed"),
    "answered": ("resulting", "resulted"),
}
_KEYS = (ANSWER_KEY, AUTO_KEY, TIMER_KEY, EFFECT_KEY)


def reach(result: TurnResult, *, is_committed: bool) -> None:
    """Reach the points of what a turn does about them, each once."""
    if not kill_points.is_observed():
        return
    done = {_kind(entry) for entry in result.changelog if entry.key.startswith(_KEYS)}
    done.update("answered" if fired.effect else "due" for fired in result.fired)
    for kind, points in _POINTS.items():
        if kind in done:
            kill_points.reached(points[is_committed])


def _kind(entry: ChangelogEntry) -> str:
    if entry.key.startswith(EFFECT_KEY):
        return "answered" if entry.value is None else "performed"
    if entry.key.startswith(TIMER_KEY):
        return "settled" if entry.value is None else "scheduled"
    if entry.value is None:
        return "evicted"
    record = decode_answer(entry.value)
    if record.answer is not None:
        return "decided"
    return "joined" if record.waiting else "opened"
