"""Who waits for whom: the cycles in a graph of keys. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

N = TypeVar("N", bound=Hashable)


def cycles(waits: Mapping[N, Iterable[N]]) -> list[list[N]]:
    """Return a cycle through each group of nodes that all wait for each other, from a node to itself.

    ``waits``: for each node those that it waits for. Tarjan's algorithm, without recursion: chains may be long.
    """
    found = []
    for group in _groups(waits):
        inside = set(group)
        if len(group) > 1 or group[0] in waits.get(group[0], ()):
            found.append(_round(group[0], {node: [each for each in waits[node] if each in inside] for node in group}))
    return found


def _groups(waits: Mapping[N, Iterable[N]]) -> list[list[N]]:
    """Return the strongly connected components."""
    index: dict[N, int] = {}
    low: dict[N, int] = {}
    stack: list[N] = []
    on_stack: set[N] = set()
    groups: list[list[N]] = []
    for root in waits:
        if root in index:
            continue
        path = [(root, iter(waits.get(root, ())))]
        while path:
            node, others = path[-1]
            if node not in index:
                index[node] = low[node] = len(index)
                stack.append(node)
                on_stack.add(node)
            for other in others:
                if other not in index:
                    path.append((other, iter(waits.get(other, ()))))
                    break
                if other in on_stack:
                    low[node] = min(low[node], index[other])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    group: list[N] = []
                    while not group or group[-1] != node:
                        group.append(stack.pop())
                        on_stack.discard(group[-1])
                    groups.append(group[::-1])
    return groups


def _round(start: N, waits: Mapping[N, list[N]]) -> list[N]:
    """Return the shortest way from a node to itself, within its group."""
    before: dict[N, N] = {}
    front = [start]
    while front:
        after: list[N] = []
        for node in front:
            for other in waits[node]:
                if other == start:
                    return [start, *_way(before, start, node), start]
                if other not in before:
                    before[other] = node
                    after.append(other)
        front = after
    raise AssertionError(f"{start!r} is in no cycle of its group")


def _way(before: Mapping[N, N], start: N, end: N) -> list[N]:
    """Return the nodes behind ``start`` up to ``end``."""
    way: list[N] = []
    while end != start:
        way.append(end)
        end = before[end]
    return way[::-1]
