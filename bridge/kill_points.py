"""Named points that a worker passes, at each of which a test can have it killed: ``REPERTORY_KILL_AT=K7``.

``K7:3`` kills at the third passing, ``K7:3,K1,K12`` at one point after the other: each is armed once the one before it
has killed, and passings count from then on. One process of the node dies at each, once: its successors pass unharmed.
Only the environment of the node process arms a point; no record, setting or network input can. The points are listed
in :data:`POINTS`; those of the loop are the simulator's as well.
"""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping

VARIABLE = "REPERTORY_KILL_AT"

POINTS: Mapping[str, str] = {
    "K1": "records were polled",
    "K2": "they are in the mailbox",
    "K3": "within a handler",
    "K4": "a batch is decided, its transaction not begun",
    "K5": "the transaction is begun, nothing is produced",
    "K6": "between its records: those of one topic are produced, those of the next are not",
    "K7": "all is produced, the offset is not sent",
    "K8": "the offset is sent, the commit is not asked for",
    "K9": "the commit is handed to its thread, the loop goes on",
    "K9-sent": "the commit was asked for, its answer is not there",
    "K10": "the loop hears of the commit, and has told no shard",
    "K11": "the broker has acknowledged the commit, the loop does not know",
    "K12": "shards are revoked, their commits are under way",
    "K13": "the commits of revoked shards are decided, the shards not given back",
    "K14": "a shard is assigned, not claimed",
    "K15": "it is claimed, nothing is restored",
    "K16": "within its restore",
    "K17": "it is restored, and has begun nothing",
    "K18": "the state topic's records are about to be produced: snapshots and the shard record",
    "K19": "a dead letter is about to be produced",
    "K20": "a shard is stopped and waits for its restart",
    "K21": "the worker is told to stop, and has drained nothing",
    "K22": "a producer is about to be thrown away",
}

#: Those of a turn without a transaction (``bridge.nontransactional``), on Kafka.
NONTRANSACTIONAL_POINTS: Mapping[str, str] = {
    "P1": "nothing of it is appended",
    "P2": "its outputs are acknowledged, nothing of its journal is appended",
    "P2-sent": "its journal is on its way",
    "P3": "all is acknowledged, the loop does not know",
}


class _Trap:
    """Kills the process at one passing of one point, if no other process of the node was quicker.

    ``token`` reads from a pipe that all processes of the node inherit, with one byte in it: who gets it dies.
    ``before`` is the token of the trap that has to have killed first.
    """

    def __init__(self, name: str, passing: int, token: int, before: int | None) -> None:
        self._name, self._passing, self._token, self._before = name, passing, token, before
        self._passings = itertools.count(1)  # claims pass on threads of their own

    def passed(self, name: str, later_s: float) -> None:
        if name == self._name and self._has_turn() and next(self._passings) == self._passing and self._is_ours():
            _Armed.dying = True
            if later_s:
                threading.Thread(target=self._kill, args=(later_s,), daemon=True).start()
            else:
                self._kill(0.0)

    def _has_turn(self) -> bool:
        if _Armed.dying or self._before is None:
            return not _Armed.dying
        poll = select.poll()
        poll.register(self._before, select.POLLIN)
        return not poll.poll(0)

    def _is_ours(self) -> bool:
        try:
            return bool(os.read(self._token, 1))
        except BlockingIOError:
            return False

    def _kill(self, later_s: float) -> None:
        time.sleep(later_s)
        sys.stderr.write(f"repertory: killed at {self._name}, passing {self._passing}, by {VARIABLE}\n")
        os.kill(os.getpid(), signal.SIGKILL)


class _Armed:
    """What the node's environment asked for, and whether this process has taken a token: it dies of no other."""

    traps: tuple[_Trap, ...] = ()
    dying = False


def point(name: str, later_s: float = 0.0) -> None:
    """Pass a point; nothing happens unless a test armed it. ``later_s``: what is called next gets so long to begin."""
    if _Armed.traps:
        for trap in _Armed.traps:
            trap.passed(name, later_s)


def within_handler() -> Callable[[str, int], None] | None:
    """Return what has to be called within each handler (`bridge.hooked`); None in production, where it would cost."""
    return (lambda _cause, _attempt: point("K3")) if _Armed.traps else None


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
    _Armed.traps = tuple(traps)
