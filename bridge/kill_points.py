"""Named points that a worker reaches, at each of which a test can have it killed: ``REPERTORY_KILL_AT=decided``.

There is one way to reach a point, :func:`reached`, and one listener at a time: the simulator and tests in one process
use :func:`observed_by`; in a node the environment arms traps. ``decided:3`` kills at the third time,
``decided:3,polled`` at one point after the other: each trap is armed once the one before it has killed, and counts from
then on. One process of the node dies at each, once: its successors pass unharmed. Only the environment of the node
process arms a trap; no record, setting or network input can.
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

#: Is called with the name of each point that is reached, and how long to wait before the process dies there.
Listener = Callable[[str, float], None]


class KillPoint(NamedTuple):
    """A point: its number in ``research/reliability.md``, and what is true there."""

    number: str
    what: str


#: In the order in which a turn, a takeover and a stop reach them. The K-numbers are named here and nowhere else.
POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "polled": KillPoint("K1", "records were polled"),
        "queued": KillPoint("K2", "they are in the mailbox"),
        "handling": KillPoint("K3", "within a handler"),
        "decided": KillPoint("K4", "a batch is decided, its transaction not begun"),
        "begun": KillPoint("K5", "the transaction is begun, nothing is produced"),
        "producing": KillPoint("K6", "between its records: those of one topic are produced, those of the next are not"),
        "produced": KillPoint("K7", "all is produced, the offset is not sent"),
        "offset-sent": KillPoint("K8", "the offset is sent, the commit is not asked for"),
        "handed-over": KillPoint("K9", "the commit is handed to its thread, the loop goes on"),
        "commit-asked": KillPoint("K9", "the commit was asked for, its answer is not there"),
        "commit-heard": KillPoint("K10", "the loop hears of the commit, and has told no shard"),
        "committed": KillPoint("K11", "the broker has acknowledged the commit, the loop does not know"),
        "revoking": KillPoint("K12", "shards are revoked, their commits are under way"),
        "revoked": KillPoint("K13", "the commits of revoked shards are decided, the shards not given back"),
        "claiming": KillPoint("K14", "a shard is assigned, not claimed"),
        "claimed": KillPoint("K15", "it is claimed, nothing is restored"),
        "restoring": KillPoint("K16", "within its restore"),
        "restored": KillPoint("K17", "it is restored, and has begun nothing"),
        "producing-state": KillPoint("K18", "the state topic's records are about to be produced"),
        "producing-dead-letter": KillPoint("K19", "a dead letter is about to be produced"),
        "waiting-for-restart": KillPoint("K20", "a shard is stopped and waits for its restart"),
        "stopping": KillPoint("K21", "the worker is told to stop, and has drained nothing"),
        "discarding-producer": KillPoint("K22", "a producer is about to be thrown away"),
    }
)

#: Those of a turn without a transaction (``bridge.nontransactional``), on Kafka.
NONTRANSACTIONAL_POINTS: Mapping[str, KillPoint] = MappingProxyType(
    {
        "appending": KillPoint("P1", "nothing of it is appended"),
        "appending-journal": KillPoint("P2", "its outputs are acknowledged, nothing of its journal is appended"),
        "journal-sent": KillPoint("P2", "its journal is on its way"),
        "appended": KillPoint("P3", "all is acknowledged, the loop does not know"),
    }
)

#: What is about to be produced with the first record of a topic, by the end of its name.
PRODUCING: Mapping[str, str] = MappingProxyType({"state": "producing-state", "dead-letters": "producing-dead-letter"})


class _State:
    """Who listens in this process."""

    listener: Listener | None = None


def reached(point: str, later_s: float = 0.0) -> None:
    """Reach a point; nothing happens unless somebody listens. ``later_s``: how long what is called next may begin."""
    if _State.listener is not None:
        _State.listener(point, later_s)


@contextlib.contextmanager
def observed_by(listener: Listener) -> Iterator[None]:
    """Tell ``listener`` of each point that is reached within the context; it may raise. Whoever listened before is back
    then.
    """
    before, _State.listener = _State.listener, listener
    try:
        yield
    finally:
        _State.listener = before


def within_handler() -> Callable[[str, int], None] | None:
    """Return what has to be called within each handler (`bridge.hooked`); None in production, where it would cost."""
    return (lambda _cause, _attempt: reached("handling")) if _State.listener is not None else None


class _Trap:
    """Kills the process at one passing of one point, if no other process of the node was quicker.

    ``token`` reads from a pipe that all processes of the node inherit, with one byte in it: who gets it dies.
    ``before`` is the token of the trap that has to have killed first.
    """

    def __init__(self, name: str, passing: int, token: int, before: int | None) -> None:
        self._name, self._passing, self._token, self._before = name, passing, token, before
        self._passings = itertools.count(1)  # claims pass on threads of their own

    def kills(self, name: str) -> bool:
        """Tell whether this process dies here, and nobody else of the node."""
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
    """The traps of a node. A process that has taken a token dies of no other."""

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
    """Look into the environment; call it before any worker is forked.

    Raises:
        ValueError: the variable names no point or passing.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    traps: list[_Trap] = []
    before, known = None, (*POINTS, *NONTRANSACTIONAL_POINTS)
    for each in wanted.split(","):
        name, _, passing = each.partition(":")
        if name not in known or not (passing or "1").isdecimal() or passing == "0":
            raise ValueError(
                f"{VARIABLE}={wanted}: write one of {', '.join(known)}, :3 for its third passing, commas between"
            )
        token, giver = os.pipe()
        os.set_blocking(token, False)
        os.write(giver, b"!")
        traps.append(_Trap(name, int(passing or 1), token, before))
        before = token
    _State.listener = _Traps(tuple(traps))
