"""Each of Jepsen's anomalies is found where it is planted, and histories of a correct log show none."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.checkers.anomalies import Assign, History, Op, Poll, Send, allowed, anomalies, illegal

X, Y = "x", "y"


def sent(process: str, outcome: str, *sends: Send, at: tuple[float, float] | None = None) -> Op:
    times = {} if at is None else {"invoked": at[0], "completed": at[1]}
    return Op(process, outcome, *sends, **times)


def polled(process: str, key: str, *pairs: tuple[int, str], outcome: str = "ok") -> Op:
    return Op(process, outcome, Poll({key: pairs}))


#: Four committed values of one key, with a gap for a transaction marker.
LOG = ((0, "a"), (1, "b"), (3, "c"), (4, "d"))
WRITTEN = sent("w", "ok", *(Send(X, value, offset) for offset, value in LOG))
READ = polled("reader", X, *LOG)

PLANTED: dict[str, tuple[str, History]] = {
    "one value at two offsets": (
        "duplicate",
        [WRITTEN, polled("r", X, *LOG, (5, "d"))],
    ),
    "two values at one offset": (
        "inconsistent-offsets",
        [sent("v", "ok", Send(X, "e", 1)), WRITTEN, READ, polled("q", X, (1, "e"))],
    ),
    "an unknown op that was seen contradicts another": (
        "inconsistent-offsets",
        [sent("v", "info", Send(X, "e", 1), Send(Y, "f", 0)), polled("q", Y, (0, "f")), WRITTEN, READ],
    ),
    "a committed value below one that was read": (
        "lost-write",
        [WRITTEN, polled("r", X, (0, "a"), (1, "b")), polled("q", X, (4, "d"))],
    ),
    "a value that was overwritten": (
        "lost-write",
        [sent("v", "ok", Send(X, "e", 0)), WRITTEN, READ],
    ),
    "one half of an unknown op that was seen": (
        "lost-write",
        [sent("v", "info", Send(X, "e", 2), Send(Y, "f", 0)), polled("q", Y, (0, "f")), WRITTEN, READ],
    ),
    "what was aborted is read": (
        "G1a",
        [sent("v", "fail", Send(Y, "f")), polled("r", Y, (0, "f"))],
    ),
    "an op reads what it sends": (
        "precommitted-read",
        [Op("v", "ok", Send(Y, "f", 0), Poll({Y: [(0, "f")]}))],
    ),
    "a later poll passes one over": (
        "poll-skip",
        [WRITTEN, READ, polled("r", X, *LOG[:2]), polled("r", X, LOG[3])],
    ),
    "a poll does not go back after an op that failed": (
        "poll-skip",
        [WRITTEN, READ, polled("r", X, LOG[0]), polled("r", X, LOG[1], outcome="fail"), polled("r", X, LOG[2])],
    ),
    "a poll of an op that failed does not go back either": (
        "poll-skip",
        [WRITTEN, READ, polled("r", X, LOG[0]), polled("r", X, *LOG[2:], outcome="info")],
    ),
    "an assignment that keeps a key keeps its position": (
        "poll-skip",
        [WRITTEN, READ, polled("r", X, *LOG[:2]), Assign("r", frozenset({X, Y})), polled("r", X, LOG[3])],
    ),
    "a later poll goes back": (
        "nonmonotonic-poll",
        [WRITTEN, READ, polled("r", X, *LOG[:3]), polled("r", X, *LOG[1:])],
    ),
    "a later poll repeats the last": (
        "nonmonotonic-poll",
        [WRITTEN, READ, polled("r", X, *LOG[:3]), polled("r", X, *LOG[2:])],
    ),
    "a poll passes one over": (
        "int-poll-skip",
        [WRITTEN, READ, polled("r", X, LOG[0], LOG[2])],
    ),
    "a poll of an op that failed is to be trusted, too": (
        "int-poll-skip",
        [WRITTEN, READ, polled("r", X, LOG[0], LOG[2], outcome="fail")],
    ),
    "a poll goes back": (
        "int-nonmonotonic-poll",
        [WRITTEN, READ, polled("r", X, LOG[1], LOG[0])],
    ),
    "a poll says one twice": (
        "int-nonmonotonic-poll",
        [WRITTEN, READ, polled("r", X, LOG[1], LOG[1])],
    ),
    "what was sent later stands before": (
        "nonmonotonic-send",
        [sent("v", "ok", Send(Y, "f", 2)), sent("v", "ok", Send(Y, "e", 1)), polled("r", Y, (1, "e"), (2, "f"))],
    ),
    "it may also stand before what nobody knew of": (
        "nonmonotonic-send",
        [sent("v", "info", Send(Y, "f")), sent("v", "ok", Send(Y, "e", 1)), polled("r", Y, (1, "e"), (2, "f"))],
    ),
    "what was sent second stands first": (
        "int-nonmonotonic-send",
        [sent("v", "ok", Send(Y, "f", 2), Send(Y, "e", 1)), polled("r", Y, (1, "e"), (2, "f"))],
    ),
    "another's value between two of one op": (
        "int-send-skip",
        [sent("v", "ok", Send(Y, "e", 0), Send(Y, "g", 2)), sent("u", "ok", Send(Y, "f", 1)),
         polled("r", Y, (0, "e"), (1, "f"), (2, "g"))],
    ),
    "acknowledged, and never read": (
        "unseen",
        [WRITTEN, polled("r", X, *LOG[:3])],
    ),
    "read, and never sent": (
        "unwritten-read",
        [polled("r", X, (0, "a"))],
    ),
    "each of two has read what the other sent": (
        "G1c",
        [Op("v", "ok", Send(X, "a", 0), Poll({Y: [(0, "f")]})), Op("u", "ok", Send(Y, "f", 0), Poll({X: [(0, "a")]}))],
    ),
    "a client reads what it will send": (
        "G1c-process",
        [polled("v", X, (0, "a")), sent("v", "ok", Send(X, "a", 0))],
    ),
    "a poll sees what is sent later": (
        "G1c-realtime",
        [Op("v", "ok", Poll({X: [(0, "a")]}), invoked=1, completed=2), sent("u", "ok", Send(X, "a", 0), at=(3, 4))],
    ),
    "two are before one another": (
        "G0",
        [sent("v", "ok", Send(X, "a", 0), Send(Y, "f", 1)), sent("u", "ok", Send(X, "b", 1), Send(Y, "e", 0)),
         polled("r", X, (0, "a"), (1, "b")), polled("r", Y, (0, "e"), (1, "f"))],
    ),
    "two that did not overlap are before one another": (
        "G0-realtime",
        [sent("v", "ok", Send(X, "b", 1), at=(1, 2)), sent("u", "ok", Send(X, "a", 0), at=(3, 4)),
         polled("r", X, (0, "a"), (1, "b"))],
    ),
    "half of an op is polled": (
        "G2",
        [sent("v", "ok", Send(X, "a", 0), Send(Y, "f", 1)), sent("u", "ok", Send(Y, "e", 0)),
         Op("r", "ok", Poll({X: [(0, "a")], Y: [(0, "e")]})), polled("q", Y, (0, "e"), (1, "f"))],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_found(name: str) -> None:
    """The planted anomaly is found; related anomalies may be found as well."""
    kind, history = PLANTED[name]
    found = anomalies(history, ww=kind.startswith("G0"))
    assert kind in found, found


def test_every_kind_is_planted() -> None:
    """Every checker has a planted anomaly."""
    kinds = {kind for kind, _ in PLANTED.values()}
    assert kinds >= {
        "duplicate", "inconsistent-offsets", "lost-write", "G1a", "precommitted-read", "poll-skip", "nonmonotonic-poll",
        "int-poll-skip", "int-nonmonotonic-poll", "nonmonotonic-send", "int-nonmonotonic-send", "int-send-skip",
        "unseen", "G0", "G1c", "G2",
    }  # fmt: skip


LEGAL: dict[str, History] = {
    "an unknown op that was not seen proves nothing": [
        sent("v", "info", Send(X, "e", 1), Send(Y, "f", 0)), WRITTEN, READ,
    ],
    "what failed and was not seen": [sent("v", "fail", Send(X, "e", 1)), WRITTEN, READ],
    "the position goes back after an op that failed": [
        WRITTEN, READ, polled("r", X, LOG[0]), polled("r", X, *LOG[1:3], outcome="fail"),
        polled("r", X, *LOG[1:3], outcome="info"), polled("r", X, *LOG[1:]),
    ],
    "a key that was revoked may come back at any position": [
        WRITTEN, READ, polled("r", X, *LOG[:2]), Assign("r", frozenset({Y})), polled("r", X, LOG[3]),
        Assign("r", frozenset()), polled("r", X, *LOG),
    ],
    "a key that was rebalanced meanwhile": [
        WRITTEN, READ, Op("r", "ok", Poll({X: [LOG[2], LOG[0]]}), rebalanced={X}),
    ],
    "an offset that is unknown": [
        sent("v", "ok", Send(X, "a"), Send(X, "b")), polled("r", X, (7, "a"), (9, "b")),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", LEGAL)
def test_what_is_legal_is_not_found(name: str) -> None:
    """These histories are legal in Jepsen's tests."""
    assert illegal(LEGAL[name]) == {}


def test_the_allow_list_is_jepsens() -> None:
    """Only interleaved sends, keys moved by a group, and cycles in the order of sends are legal."""
    g0, g1c, g2 = ({kind, f"{kind}-process", f"{kind}-realtime"} for kind in ("G0", "G1c", "G2"))
    assert allowed(subscribed=False, ww=False) == {"int-send-skip"} | g0 | g2
    assert allowed(subscribed=True, ww=False) == {"int-send-skip", "poll-skip", "nonmonotonic-poll"} | g0 | g2
    assert allowed(subscribed=False, ww=True) == {"int-send-skip"} | g0 | g1c | g2


# --- a correct log --------------------------------------------------------------------------------------------


class CorrectLog:
    """Kafka's rules in memory: interleaved, aborted and unknown transactions, and consumers of committed records.

    Its histories are legal.
    """

    KEYS = (X, Y)

    def __init__(self, random: Random, *, subscribed: bool) -> None:
        self._random, self._subscribed = random, subscribed
        self._logs: dict[str, list[tuple[str, int]]] = {key: [] for key in self.KEYS}  # (value, transaction)
        self._fates: dict[int, str] = {}  # transaction -> "open", "committed" or "aborted"
        self._now = self._values = 0
        self._open: list[tuple[int, float, str, list[Send]]] = []
        self._polls: dict[int, tuple[str, list[Poll], dict[str, int]]] = {}
        self._positions: dict[str, dict[str, int]] = {name: dict.fromkeys(self.KEYS, 0) for name in ("c1", "c2")}
        self.history: list[Op | Assign] = []

    def run(self, steps: int) -> History:
        """Run random steps, end open transactions, and read everything."""
        moves = [self._begin, self._send, self._send, self._poll, self._poll_alone, self._end, self._assign]
        for _ in range(steps):
            self._now += 1
            self._random.choice(moves)()
        while self._open:
            self._now += 1
            self._end()
        for key in self.KEYS:
            self.history.append(self._op("last", "ok", [Poll({key: self._read(key, 0, 10**9)[0]})], self._now))
        return self.history

    def _op(self, process: str, outcome: str, parts: Sequence[Send | Poll], invoked: float) -> Op:
        self._now += 1
        return Op(process, outcome, *parts, invoked=invoked, completed=self._now)

    def _begin(self) -> None:
        """Begin a transaction of a client that has none."""
        busy = {process for _, _, process, _ in self._open}
        free = [name for name in ("c1", "c2", "p1", "p2") if name not in busy]
        if free:
            number, process = len(self._fates), self._random.choice(free)
            self._fates[number] = "open"
            self._open.append((number, self._now, process, []))
            self._polls[number] = (process, [], dict(self._positions.get(process, {})))

    def _send(self) -> None:
        if not self._open:
            return
        number, _, _, sends = self._random.choice(self._open)
        key, self._values = self._random.choice(self.KEYS), self._values + 1
        value = f"v{self._values}"
        sends.append(Send(key, value, len(self._logs[key]) if self._random.random() < 0.8 else None))
        self._logs[key].append((value, number))

    def _read(self, key: str, start: int, count: int) -> tuple[list[tuple[int, str]], int]:
        """Return committed records below the first open one, and the position after them."""
        found: list[tuple[int, str]] = []
        for offset, (value, number) in enumerate(self._logs[key][start:], start):
            if self._fates[number] == "open" or len(found) == count:
                return found, offset
            if self._fates[number] == "committed" and value:
                found.append((offset, value))
        return found, max(start, len(self._logs[key]))

    def _polled(self, process: str) -> Poll:
        reads = {}
        for key, position in list(self._positions[process].items()):
            pairs, self._positions[process][key] = self._read(key, position, self._random.randint(1, 4))
            if pairs:
                reads[key] = pairs
        return Poll(reads)

    def _poll(self) -> None:
        consumers = [entry for entry in self._open if entry[2] in self._positions]
        if consumers:
            number, _, process, _ = self._random.choice(consumers)
            self._polls[number][1].append(self._polled(process))

    def _poll_alone(self) -> None:
        busy = {process for _, _, process, _ in self._open}
        idle = [name for name in self._positions if name not in busy]
        if idle:
            process, invoked = self._random.choice(idle), self._now
            self.history.append(self._op(process, "ok", [self._polled(process)], invoked))

    def _end(self) -> None:
        if not self._open:
            return
        number, invoked, process, sends = self._open.pop(self._random.randrange(len(self._open)))
        _, polls, before = self._polls[number]
        outcome = self._random.choice(["ok", "ok", "fail", "info"])
        commits = outcome == "ok" or (outcome == "info" and self._random.random() < 0.5)
        self._fates[number] = "committed" if commits else "aborted"
        for key in {send.key for send in sends}:
            self._logs[key].append(("", number))  # the transaction marker
        if outcome != "ok" and process in self._positions:
            self._positions[process] = before  # it reads again what it did not commit
        self.history.append(self._op(process, outcome, [*polls, *sends], invoked))

    def _assign(self) -> None:
        busy = {process for _, _, process, _ in self._open}
        idle = [name for name in self._positions if name not in busy]
        if not idle:
            return
        process = self._random.choice(idle)
        if self._subscribed:  # the group moves keys without an assignment in the history
            for key in self._positions[process]:
                self._positions[process][key] = self._random.randint(0, len(self._logs[key]))
            return
        keys = [key for key in self.KEYS if self._random.random() < 0.5]
        kept = {key: position for key, position in self._positions[process].items() if key in keys}
        fresh = {key: self._random.randint(0, len(self._logs[key])) for key in keys if key not in kept}
        self.history.append(Assign(process, frozenset(kept)))
        self._positions[process] = kept | fresh


@settings(max_examples=300, derandomize=True, deadline=None)
@given(random=st.randoms(use_true_random=False), steps=st.integers(5, 120), subscribed=st.booleans())
def test_a_correct_log_shows_no_illegal_anomaly(random: Random, steps: int, *, subscribed: bool) -> None:
    """All interleavings, aborts and unknown outcomes are legal."""
    history = CorrectLog(random, subscribed=subscribed).run(steps)
    assert illegal(history, subscribed=subscribed) == {}
    assert illegal(history, subscribed=subscribed, ww=True) == {}


@settings(max_examples=100, derandomize=True, deadline=None)
@given(random=st.randoms(use_true_random=False))
def test_damage_to_a_legal_history_is_found(random: Random) -> None:
    """A committed value that is not read is lost or unseen; a read value of a failed op is an aborted read."""
    history = CorrectLog(random, subscribed=False).run(150)
    read = {(key, value) for op in history if isinstance(op, Op) for key, vs in op.reads.items() for value in vs}
    happened = [op for op in history if isinstance(op, Op) and op.outcome == "ok" and any(op.writes.values())]
    if not happened:
        return
    victim = random.choice(happened)
    key, values = next((key, values) for key, values in victim.writes.items() if values)
    forgotten = [_without(op, key, values[0]) for op in history]
    assert {"lost-write", "unseen"} & illegal(forgotten).keys()
    assert (key, values[0]) in read
    denied = [
        Op(op.process, "fail", *op.parts, invoked=op.invoked, completed=op.completed) if op is victim else op
        for op in history
    ]
    assert "G1a" in illegal(denied)


def _without(op: Op | Assign, key: str, value: str) -> Op | Assign:
    if isinstance(op, Assign) or value not in op.reads.get(key, ()):
        return op
    parts = [
        Poll({k: [pair for pair in pairs if (k, pair[1]) != (key, value)] for k, pairs in part.reads.items()})
        if isinstance(part, Poll)
        else part
        for part in op.parts
    ]
    return Op(op.process, op.outcome, *parts, invoked=op.invoked, completed=op.completed)
