"""Counters by name and labels, in Prometheus's notation: ``repertory_worker_restarts_total{worker="worker-0"}``."""

from __future__ import annotations

from collections.abc import Mapping

#: The most series that are counted separately. Further ones are counted together, under ``{other="true"}``.
SERIES_MAX = 500


class Metrics:
    """Counters that only grow, for the lifetime of a node. Not thread-safe: the owner holds a lock."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, tuple[tuple[str, str], ...]], int | float] = {}

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        """Add ``value`` to a counter."""
        series = (name, tuple(sorted(labels.items())))
        if series not in self._series and len(self._series) >= SERIES_MAX:
            series = (name, (("other", "true"),))
        self._series[series] = self._series.get(series, 0) + value

    def series(self) -> Mapping[str, int | float]:
        """Return all counters by name and labels."""
        return {_text(name, labels): value for (name, labels), value in sorted(self._series.items())}


def series_name(name: str, **labels: str) -> str:
    """Return the name of a series with its labels."""
    return _text(name, tuple(sorted(labels.items())))


def _text(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return name
    escaped = (value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"") for _, value in labels)
    return name + "{" + ",".join(f'{label}="{value}"' for (label, _), value in zip(labels, escaped, strict=True)) + "}"
