"""Named points in a worker's code, at each of which a test can kill it: ``REPERTORY_KILL_AT=decided``.

The code calls :func:`reached` at each point, and there is one listener at a time: the simulator and tests in one
process use :func:`observed_by`; in a node the environment variable arms traps. ``decided:3`` kills the third time that
the point is reached. ``decided:3,polled`` kills at one point after the other: each trap is armed once the one before it
has killed, and counts from then on. Each trap kills one process of the node, once; the processes that replace it pass
the point. Only the environment of the node process arms a trap; no record, setting or network input can.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

VARIABLE = "REPERTORY_KILL_AT"

#: Is called with the name of each point that is reached, and with the delay after which the process is killed there.
Listener = Callable[[str, float], None]


class KillPoint(NamedTuple):
    """A point: its number in ``research/reliability.md``, and what is true there."""

    number: str
    what: str


#: In the order in which a turn, a takeover and a stop reach them. Only this table has the K-numbers.
POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "polled": KillPoint("K1", "records were polled"),
        "queued": KillPoint("K2", "the records are in the mailbox"),
        "handling": KillPoint("K3", "within a handler"),
        "decided": KillPoint("K4", "a batch is decided, its transaction not begun"),
        "begun": KillPoint("K5", "the transaction is begun, nothing is produced"),
        "producing": KillPoint("K6", "the records of one topic are produced, those of the next topic are not"),
        "produced": KillPoint("K7", "all records are produced, the offset is not sent"),
        "offset-sent": KillPoint("K8", "the offset is sent, the commit is not requested"),
        "handed-over": KillPoint("K9", "the commit is handed to its thread, the loop continues"),
        "commit-asked": KillPoint("K9", "the commit was requested, the broker has not answered"),
        "commit-heard": KillPoint("K10", "the loop has received the commit event, the shard has not"),
        "committed": KillPoint("K11", "the broker has acknowledged the commit, the loop has not received it"),
        "revoking": KillPoint("K12", "shards are revoked, their commits are in flight"),
        "revoked": KillPoint("K13", "the commits of revoked shards are decided, the shards are not yet given back"),
        "claiming": KillPoint("K14", "a shard is assigned, not claimed"),
        "claimed": KillPoint("K15", "the shard is claimed, nothing is restored"),
        "restoring": KillPoint("K16", "within the shard's recovery"),
        "restored": KillPoint("K17", "the shard is restored, it has not begun to fetch"),
        "producing-state": KillPoint("K18", "the state topic's records are about to be produced"),
        "producing-dead-letter": KillPoint("K19", "a dead letter is about to be produced"),
        "waiting-for-restart": KillPoint("K20", "a shard is stopped, its restart is scheduled"),
        "stopping": KillPoint("K21", "the worker has been asked to stop, nothing is drained"),
        "discarding-producer": KillPoint("K22", "a producer is about to be discarded"),
    }
)

#: The points of a nontransactional turn (``bridge.nontransactional``) on Kafka.
NONTRANSACTIONAL_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "appending": KillPoint("P1", "nothing of the turn is appended"),
        "appending-journal": KillPoint("P2", "its outputs are acknowledged, no journal record is appended"),
        "journal-sent": KillPoint("P2", "its journal records are sent, not yet acknowledged"),
        "appended": KillPoint("P3", "all records are acknowledged, the loop has not received it"),
    }
)

#: The points around asks with an id (``bridge.owed_points``); a worker without such asks passes none of them.
ANSWER_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "answering": KillPoint("A1", "the answer to an id is decided, its commit is not requested"),
        "answered": KillPoint("A1", "the answer to an id is committed, the shard has not heard of it"),
        "joining": KillPoint("A2", "a repetition waits for the answer to its id, that is not committed"),
        "joined": KillPoint("A2", "a repetition waits for the answer to its id, that is committed"),
        "forgetting": KillPoint("A3", "an answer is evicted, that is not committed"),
        "forgotten": KillPoint("A3", "an answer is evicted, that is committed"),
    }
)

#: The points around timers and delayed messages (``bridge.owed_points``).
TIMER_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "firing": KillPoint("T1", "timers are marked as fired, that is not committed"),
        "fired": KillPoint("T1", "timers are marked as fired and their commands are in the log, none is handled"),
        "settling": KillPoint("T2", "the command of a timer is decided, or a timer cancelled, that is not committed"),
        "settled": KillPoint("T2", "the command of a timer is decided, or a timer cancelled, that is committed"),
    }
)

#: The points around effects (``bridge.owed_points``).
EFFECT_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "performing": KillPoint("E1", "effects are requested, or failed, that is not committed"),
        "performed": KillPoint("E1", "effects are requested, or failed, that is committed, none is started for it"),
        "resulting": KillPoint("E2", "the results of effects are settled, that is not committed"),
        "resulted": KillPoint(
            "E2", "the results of effects are settled and their commands in the log, none is handled"
        ),
    }
)

#: The points of a relay of sources (``bridge.sources.loop``), beside those of its transactions.
SOURCE_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "relay-claiming": KillPoint("S1", "a relay is assigned, not claimed"),
        "relay-claimed": KillPoint("S2", "the relay is claimed, its positions are not read"),
        "relay-restored": KillPoint("S3", "its positions are read, nothing is fetched of the topics"),
        "relay-fetched": KillPoint("S4", "records of the topics may be fetched, none is decoded"),
        "relay-decided": KillPoint("S5", "the source's function has decided, the transaction is not begun"),
        "relay-sent": KillPoint("S6", "the commit is handed to its thread, the loop continues"),
        "relay-committed": KillPoint("S7", "the loop has received the commit event, the relay has not"),
    }
)

#: The points that are reached before the first record of a topic is produced, by the last part of the topic's name.
PRODUCING: Mapping[str, str] = MappingProxyType({"state": "producing-state", "dead-letters": "producing-dead-letter"})


class _State:
    """The listener of this process."""

    listener: Listener | None = None


def reached(point: str, later_s: float = 0.0) -> None:
    """Report that a point is reached; nothing happens without a listener. ``later_s``: delay before the kill.

    With a delay the process runs on, so that the call that follows has begun when the process is killed.
    """
    if _State.listener is not None:
        _State.listener(point, later_s)


@contextlib.contextmanager
def observed_by(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for each point that is reached within the context; it may raise.

    The previous listener is restored at the end.
    """
    before, _State.listener = _State.listener, listener
    try:
        yield
    finally:
        _State.listener = before


def is_observed() -> bool:
    """Return whether there is a listener: what only tells which points are reached is skipped without one."""
    return _State.listener is not None


def within_handler() -> Callable[[str, int], None] | None:
    """Return the hook (`bridge.hooked`) that reaches "handling"; None without a listener, because it costs time."""
    return (lambda _cause, _attempt: reached("handling")) if is_observed() else None


class _Trap:
    """Kills the process at the n-th passing of one point, unless the trap has already killed another process.

    ``token`` is the read end of a pipe that all processes of the node inherit and that holds one byte: the process that
    reads the byte is killed. ``before`` is the token of the trap that must have killed first.
    """

    def __init__(self, name: str, passing: int, token: int, before: int | None) -> None:
        self._name, self._passing, self._token, self._before = name, passing, token, before
        self._passings = itertools.count(1)  # Atomic: claims reach points on threads of their own.

    def kills(self, name: str) -> bool:
        """Return whether this process is the one to be killed here; takes the token if so."""
        return name == self._name and self._has_turn() and next(self._passings) == self._passing and self._is_ours()

    def kill(self, later_s: float) -> None:
        """End this process as SIGKILL does."""
        time.sleep(later_s)
        sys.stderr.write(f"repertory: killed at {self._name}, passing {self._passing}, by {VARIABLE}\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def _has_turn(self) -> bool:
        if self._before is None:
            return True
        poll = select.poll()
        poll.register(self._before, select.POLLIN)
        return not poll.poll(0)

    def _is_ours(self) -> bool:
        try:
            return bool(os.read(self._token, 1))
        except BlockingIOError:
            return False


class _Traps:
    """The traps of a node. A process takes one token at most: a kill that is delayed is not followed by another."""

    def __init__(self, traps: tuple[_Trap, ...]) -> None:
        self._traps = traps
        self._dying = False

    def __call__(self, point: str, later_s: float) -> None:
        for trap in self._traps:
            if self._dying or not trap.kills(point):
                continue
            self._dying = True
            if later_s:
                threading.Thread(target=trap.kill, args=(later_s,), daemon=True).start()
            else:
                trap.kill(0.0)


def arm() -> None:
    """Arm the traps that the environment variable names; to be called before any worker is forked.

    Raises:
        ValueError: the variable contains an unknown point or an invalid passing.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    traps: list[_Trap] = []
    before = None
    known = (*POINTS, *NONTRANSACTIONAL_POINTS, *ANSWER_POINTS, *TIMER_POINTS, *EFFECT_POINTS, *SOURCE_POINTS)
    for each in wanted.split(","):
        name, _, passing = each.partition(":")
        if name not in known or not (passing or "1").isdecimal() or passing == "0":
            raise ValueError(
                f"{VARIABLE}={wanted} is invalid: write one of {', '.join(known)}, with :3 for its third passing, and "
                "commas between several"
            )
        token, giver = os.pipe()
        os.set_blocking(token, False)
        os.write(giver, b"!")
        traps.append(_Trap(name, int(passing or 1), token, before))
        before = token
    _State.listener = _Traps(tuple(traps))
