"""Jepsen's anomalies of Kafka, as checkers of a history of client operations.

A history lists the operations of clients in the order in which they ended. Each :class:`Op` sends values to keys (a key
is one partition of one topic) and polls them. Its outcome is ``ok``, ``fail`` (did not happen) or ``info`` (unknown).
Values are unique. The definitions are those of Jepsen's ``jepsen.tests.kafka`` (jepsen/src/jepsen/tests/kafka.clj in
jepsen-io/jepsen at c4c7473d), with its allow-list:

===========================  ===========================================================================================
duplicate                    one value is at two offsets
inconsistent-offsets         two values are at one offset
lost-write                   a committed value below one that was read was never read
G1a                          a value of an op that failed was read
precommitted-read            an op read what it sends itself
poll-skip                    between two ops of one client values were skipped; legal if a group assigns the keys
nonmonotonic-poll            a client's op begins at or below the end of its last one; legal if a group assigns the keys
int-poll-skip                within one op values were skipped
int-nonmonotonic-poll        within one op values were read out of order
nonmonotonic-send            a client's later op is before its earlier one in the log
int-nonmonotonic-send        within one op sends are out of order in the log
int-send-skip                a send of another op is between two sends of one op; always legal: sends interleave
unseen                       a value was acknowledged but never read until the end
G0, G0-process, ...          ops are before one another in the log's order (ww); always legal: sends are not isolated
G1c, G1c-process, ...        each op read a value of the other (wr); legal if ww edges count, else never
G2, ...                      one op polled less than another sent before the former (rw); always legal, see below
unwritten-read               a value was read that no op sent (Jepsen stops here)
===========================  ===========================================================================================

``-process`` and ``-realtime`` are cycles that need the order of one client's ops, or of ops that did not overlap.
Jepsen has the rw edges commented out: a poll returns a prefix of the log and not a snapshot, so such cycles are common
and legal. Here they are found and allowed.

Polls count whatever the outcome of their op, because consumers of committed records see nothing else. Positions are
dense: offsets without a known value (transaction markers, aborted records) are not gaps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

Key = Hashable
Value = Hashable


class Send(NamedTuple):
    """An appended value; the offset is None if it is unknown."""

    key: Key
    value: Value
    offset: int | None = None


class Poll(NamedTuple):
    """The result of one poll: for each key, offsets and values in order."""

    reads: Mapping[Key, Sequence[tuple[int | None, Value]]]


class Op:
    """One operation of one client. Compared by identity.

    ``rebalanced``: keys that were assigned or revoked meanwhile, so that their order within the op is not checked. An
    op without times overlaps all others.
    """

    def __init__(
        self,
        process: str,
        outcome: Literal["ok", "fail", "info"],
        *parts: Send | Poll,
        rebalanced: Iterable[Key] = (),
        invoked: float = -math.inf,
        completed: float = math.inf,
    ) -> None:
        self.process, self.outcome, self.parts = process, outcome, parts
        self.rebalanced = frozenset(rebalanced)
        self.invoked, self.completed = invoked, completed
        self.writes: dict[Key, list[Value]] = defaultdict(list)
        self.reads: dict[Key, list[Value]] = defaultdict(list)
        for part in parts:
            if isinstance(part, Send):
                self.writes[part.key].append(part.value)
            else:
                for key, pairs in part.reads.items():
                    self.reads[key] += [value for _, value in pairs]

    def __repr__(self) -> str:
        return f"<{self.process} {self.outcome} {', '.join(map(str, self.parts))}>"


class Assign(NamedTuple):
    """A client reads these keys from now on. Other keys that it read before may continue at any position."""

    process: str
    keys: frozenset[Key]


History = Sequence[Op | Assign]


class Anomaly(NamedTuple):
    """One case of an anomaly."""

    kind: str
    key: Key
    what: str
    ops: tuple[Op, ...] = ()


class Order(NamedTuple):
    """A key's values in the order of its offsets, and the dense position of each."""

    values: Sequence[Value]
    positions: Mapping[Value, int]

    def step(self, before: Value, after: Value) -> int:
        """Return the distance of two values; 1 if a position is unknown."""
        if before in self.positions and after in self.positions:
            return self.positions[after] - self.positions[before]
        return 1

    def between(self, before: Value, after: Value) -> Sequence[Value]:
        """Return the values between two."""
        return self.values[self.positions[before] + 1 : self.positions[after]]


def allowed(*, subscribed: bool, ww: bool) -> frozenset[str]:
    """Return the kinds that a correct Kafka may show. ``subscribed``: a group moves keys between clients."""
    kinds = {"int-send-skip", *_variants("G0"), *_variants("G2")}
    if subscribed:
        kinds |= {"poll-skip", "nonmonotonic-poll"}
    if ww:
        kinds |= set(_variants("G1c"))
    return frozenset(kinds)


def illegal(history: History, *, subscribed: bool = False, ww: bool = False) -> dict[str, list[Anomaly]]:
    """Return the anomalies that a correct log does not show, by kind."""
    legal = allowed(subscribed=subscribed, ww=ww)
    return {kind: cases for kind, cases in anomalies(history, ww=ww).items() if kind not in legal}


def anomalies(history: History, *, ww: bool = False) -> dict[str, list[Anomaly]]:
    """Return all anomalies, legal or not, by kind. ``ww``: cycles may also use the order of sends."""
    analysis = _Analysis(history)
    checkers: Sequence[Callable[[_Analysis], Iterator[Anomaly]]] = (
        _unwritten, _inconsistent, _duplicates, _aborted_reads, _precommitted, _lost_writes,
        _polls_within, _sends_within, _polls_between, _sends_between, _unseen,
    )  # fmt: skip
    found: dict[str, list[Anomaly]] = defaultdict(list)
    for check in checkers:
        for anomaly in check(analysis):
            found[anomaly.kind].append(anomaly)
    for anomaly in _cycles(analysis, ww=ww):
        found[anomaly.kind].append(anomaly)
    return dict(found)


# --- indexes --------------------------------------------------------------------------------------------------


class _Analysis:
    """The indexes of a history, made on first use."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.ops = [op for op in history if isinstance(op, Op)]
        self.oks = [op for op in self.ops if op.outcome == "ok"]

    @cached_property
    def ok_reads(self) -> dict[Key, set[Value]]:
        found: dict[Key, set[Value]] = defaultdict(set)
        for op in self.oks:
            for key, values in op.reads.items():
                found[key].update(values)
        return found

    @cached_property
    def writers(self) -> dict[tuple[Key, Value], Op]:
        """The op that sent each value."""
        found: dict[tuple[Key, Value], Op] = {}
        for op in self.ops:
            for key, values in op.writes.items():
                for value in values:
                    assert found.setdefault((key, value), op) is op, f"{value!r} was sent to {key} by two ops"
        return found

    @cached_property
    def readers(self) -> dict[tuple[Key, Value], list[Op]]:
        """The ops that read each value."""
        found: dict[tuple[Key, Value], list[Op]] = defaultdict(list)
        for op in self.ops:
            for key, values in op.reads.items():
                for value in values:
                    found[key, value].append(op)
        return found

    def must_have_committed(self, op: Op) -> bool:
        """Return whether an op happened: it is ok, or it is unknown and one of its values was read."""
        seen = (value in self.ok_reads[key] for key, values in op.writes.items() for value in values)
        return op.outcome == "ok" or (op.outcome == "info" and any(seen))

    @cached_property
    def logs(self) -> dict[Key, dict[int, list[Value]]]:
        """The values at each offset, in order of offsets: from all polls, and from sends that must have happened."""
        logs: dict[Key, dict[int, list[Value]]] = defaultdict(lambda: defaultdict(list))
        for op in self.ops:
            sends_count = self.must_have_committed(op)
            for part in op.parts:
                if isinstance(part, Poll):
                    seen = [(key, *pair) for key, pairs in part.reads.items() for pair in pairs]
                else:
                    seen = [(part.key, part.offset, part.value)] if sends_count else []
                for key, offset, value in seen:
                    if offset is not None and value not in logs[key][offset]:
                        logs[key][offset].append(value)
        return {key: dict(sorted(log.items())) for key, log in logs.items()}

    @cached_property
    def orders(self) -> dict[Key, Order]:
        orders = {}
        for key, log in self.logs.items():
            values = [seen[0] for seen in log.values()]
            orders[key] = Order(values, {value: position for position, value in enumerate(values)})
        return orders

    def order(self, key: Key) -> Order:
        """Return a key's order, which is empty if no offset of it is known."""
        return self.orders.get(key, Order((), {}))


# --- values and offsets ---------------------------------------------------------------------------------------


def _unwritten(analysis: _Analysis) -> Iterator[Anomaly]:
    for (key, value), readers in analysis.readers.items():
        if (key, value) not in analysis.writers:
            yield Anomaly("unwritten-read", key, f"{value!r} was read, but no op sent it", tuple(readers[:1]))


def _inconsistent(analysis: _Analysis) -> Iterator[Anomaly]:
    for key, log in analysis.logs.items():
        for offset, values in log.items():
            if len(values) > 1:
                yield Anomaly("inconsistent-offsets", key, f"offset {offset} has the values {values}")


def _duplicates(analysis: _Analysis) -> Iterator[Anomaly]:
    for key, log in analysis.logs.items():
        offsets: dict[Value, list[int]] = defaultdict(list)
        for offset, values in log.items():
            for value in values:
                offsets[value].append(offset)
        for value, found in offsets.items():
            if len(found) > 1:
                yield Anomaly("duplicate", key, f"{value!r} is at the offsets {found}")


def _aborted_reads(analysis: _Analysis) -> Iterator[Anomaly]:
    for op in analysis.oks:
        for key, values in op.reads.items():
            for value in values:
                writer = analysis.writers.get((key, value))
                if writer is not None and writer.outcome == "fail":
                    yield Anomaly("G1a", key, f"{value!r} was read, but its op failed", (writer, op))


def _precommitted(analysis: _Analysis) -> Iterator[Anomaly]:
    for op in analysis.ops:
        for key, values in op.writes.items():
            for value in set(values) & set(op.reads.get(key, ())):
                yield Anomaly("precommitted-read", key, f"{value!r} was read by the op that sends it", (op,))


def _lost_writes(analysis: _Analysis) -> Iterator[Anomaly]:
    """Find unread values below the furthest read one. Reads count at a value's first offset, misses at its last."""
    for key, read in analysis.ok_reads.items():
        first: dict[Value, int] = {}
        last: dict[Value, int] = {}
        for position, values in enumerate(analysis.logs.get(key, {}).values()):
            for value in values:
                first.setdefault(value, position)
                last[value] = position
        furthest = max((first[value] for value in read if value in first), default=-1)
        for value, position in last.items():
            if position <= furthest and value not in read:
                writer = analysis.writers.get((key, value))
                if writer is not None and analysis.must_have_committed(writer):
                    what = f"{value!r} at position {position} was never read, though position {furthest} was"
                    yield Anomaly("lost-write", key, what, (writer,))


def _unseen(analysis: _Analysis) -> Iterator[Anomaly]:
    for op in analysis.oks:
        for key, values in op.writes.items():
            missing = [value for value in values if value not in analysis.ok_reads[key]]
            if missing:
                yield Anomaly("unseen", key, f"{missing} were acknowledged and never read", (op,))


# --- order within an op, and from op to op --------------------------------------------------------------------


def _polls_within(analysis: _Analysis) -> Iterator[Anomaly]:
    for op in analysis.ops:
        for key, values in op.reads.items():
            if key not in op.rebalanced:
                yield from _steps(analysis.order(key), key, values, ("int-poll-skip", "int-nonmonotonic-poll"), op)


def _sends_within(analysis: _Analysis) -> Iterator[Anomaly]:
    for op in analysis.ops:
        for key, values in op.writes.items():
            yield from _steps(analysis.order(key), key, values, ("int-send-skip", "int-nonmonotonic-send"), op)


def _steps(order: Order, key: Key, values: Sequence[Value], kinds: tuple[str, str], op: Op) -> Iterator[Anomaly]:
    for before, after in pairwise(values):
        yield from _step(order, key, (before, after), kinds, op)


def _step(
    order: Order, key: Key, values: tuple[Value, Value], kinds: tuple[str | None, str], *ops: Op
) -> Iterator[Anomaly]:
    """Compare two consecutive values: in the log, the second must be the next, else it is a skip or a step back."""
    before, after = values
    skip, nonmonotonic = kinds
    step = order.step(before, after)
    if step > 1 and skip is not None:
        passed = order.between(before, after)
        yield Anomaly(skip, key, f"from {before!r} to {after!r}, skipping {list(passed)[:20]}", ops)
    elif step < 1:
        yield Anomaly(nonmonotonic, key, f"from {before!r} to {after!r}, {step:+} positions", ops)


def _polls_between(analysis: _Analysis) -> Iterator[Anomaly]:
    """Check that each op begins where the client's last ok op ended; other ops do not move the position."""
    last: dict[str, dict[Key, Op]] = defaultdict(dict)
    for op in analysis.history:
        reads = last[op.process]
        if isinstance(op, Assign):
            last[op.process] = {key: read for key, read in reads.items() if key in op.keys}
            continue
        for key, values in op.reads.items():
            if values and key in reads:
                ends = (reads[key].reads[key][-1], values[0])
                yield from _step(analysis.order(key), key, ends, ("poll-skip", "nonmonotonic-poll"), reads[key], op)
        if op.outcome == "ok":
            reads.update((key, op) for key, values in op.reads.items() if values)


def _sends_between(analysis: _Analysis) -> Iterator[Anomaly]:
    last: dict[str, dict[Key, Op]] = defaultdict(dict)
    for op in analysis.ops:
        if op.outcome == "fail":
            continue
        sends = last[op.process]
        for key, values in op.writes.items():
            if key in sends:
                ends = (sends[key].writes[key][-1], values[0])
                yield from _step(analysis.order(key), key, ends, (None, "nonmonotonic-send"), sends[key], op)
            sends[key] = op


# --- cycles ---------------------------------------------------------------------------------------------------

#: An op, or an instant between ops.
Vertex = Op | int
Edges = dict[Vertex, set[Vertex]]


def _variants(kind: str) -> tuple[str, str, str]:
    return kind, f"{kind}-process", f"{kind}-realtime"


def _cycles(analysis: _Analysis, *, ww: bool) -> Iterator[Anomaly]:
    """Find cycles. The kind follows from the edges: G0 has only ww edges, G1c also a wr edge, G2 also an rw edge."""
    order = _send_edges(analysis) if ww else {}
    read, unread = _read_edges(analysis), _unread_edges(analysis)
    kinds = (("G0", order, order), ("G1c", _union(order, read), read), ("G2", _union(order, read, unread), unread))
    extras: tuple[Edges, Edges, Edges] = ({}, _process_edges(analysis), _realtime_edges(analysis))
    found: set[Op] = set()
    for kind, edges, needed in kinds:
        for name, extra in zip(_variants(kind), extras, strict=True):
            for component in _components(_union(edges, extra)):
                ops = {node for node in component if isinstance(node, Op)}
                if not ops & found and any(needed.get(op, set()) & component for op in ops):
                    found |= ops
                    yield Anomaly(name, None, f"{len(ops)} ops are in a cycle", tuple(ops))


def _send_edges(analysis: _Analysis) -> Edges:
    """ww: from the sender of a value to the sender of the next value."""
    edges: Edges = defaultdict(set)
    for key, order in analysis.orders.items():
        for before, after in pairwise(order.values):
            _link(edges, analysis.writers.get((key, before)), analysis.writers.get((key, after)))
    return edges


def _read_edges(analysis: _Analysis) -> Edges:
    """wr: from the sender of a value to its readers."""
    edges: Edges = defaultdict(set)
    for sent, readers in analysis.readers.items():
        for reader in readers:
            _link(edges, analysis.writers.get(sent), reader)
    return edges


def _unread_edges(analysis: _Analysis) -> Edges:
    """rw: from the reader of a prefix to the sender of the next value."""
    edges: Edges = defaultdict(set)
    for op in analysis.ops:
        for key, values in op.reads.items():
            order = analysis.order(key)
            furthest = max((order.positions[value] for value in values if value in order.positions), default=-1)
            if 0 <= furthest < len(order.values) - 1:
                _link(edges, op, analysis.writers.get((key, order.values[furthest + 1])))
    return edges


def _process_edges(analysis: _Analysis) -> Edges:
    """From each op of a client to its next one. An ``info`` op has no successor, as it may have happened later."""
    edges: Edges = defaultdict(set)
    last: dict[str, Op] = {}
    for op in analysis.ops:
        _link(edges, last.get(op.process), op)
        if op.outcome != "info":
            last[op.process] = op
    return edges


def _realtime_edges(analysis: _Analysis) -> Edges:
    """From each op to those that began after its end, through the instants between, to keep the edges few."""
    edges: Edges = defaultdict(set)
    begins = [(op.invoked, 0, op) for op in analysis.ops]
    ends = [(op.completed, 1, op) for op in analysis.ops if op.outcome != "info" and op.completed < math.inf]
    moment: int | None = None
    for number, (_, is_end, op) in enumerate(sorted([*begins, *ends], key=lambda event: event[:2])):
        if is_end:
            _link(edges, moment, number)
            _link(edges, op, number)
            moment = number
        else:
            _link(edges, moment, op)
    return edges


def _link(edges: Edges, before: Vertex | None, after: Vertex | None) -> None:
    if before is not None and after is not None and before is not after:
        edges[before].add(after)


def _union(*several: Edges) -> Edges:
    union: Edges = defaultdict(set)
    for edges in several:
        for node, nexts in edges.items():
            union[node] |= nexts
    return union


def _components(edges: Edges) -> Iterator[set[Vertex]]:
    """Yield the strongly connected components of more than one node (Tarjan's algorithm, without recursion)."""
    number: dict[Vertex, int] = {}
    low: dict[Vertex, int] = {}
    stack: list[Vertex] = []
    on_stack: set[Vertex] = set()
    for root in list(edges):
        if root in number:
            continue
        number[root] = low[root] = len(number)
        stack.append(root)
        on_stack.add(root)
        path = [(root, iter(edges.get(root, ())))]
        while path:
            node, nexts = path[-1]
            for following in nexts:
                if following not in number:
                    number[following] = low[following] = len(number)
                    stack.append(following)
                    on_stack.add(following)
                    path.append((following, iter(edges.get(following, ()))))
                    break
                if following in on_stack:
                    low[node] = min(low[node], number[following])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == number[node]:
                    component = set(stack[stack.index(node) :])
                    del stack[-len(component) :]
                    on_stack -= component
                    if len(component) > 1:
                        yield component
