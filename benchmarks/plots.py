"""The plots of ``docs/performance.rst``, as PNG. Only ``make bench`` installs matplotlib."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib import pyplot

if TYPE_CHECKING:
    from benchmarks.report import Results

mpl.use("agg")

_SIZE = (9.0, 4.0)


def draw(results: Results, folder: Path) -> list[tuple[Path, str]]:
    """Draw what was measured; return each file with what it shows."""
    folder.mkdir(exist_ok=True)
    drawn = []
    for name, alt, draw_one in (
        ("ledger", "Throughput and CPU of each program", _ledger),
        ("latency", "Latency of an ask by the load", _latency),
        ("restore", "SIGKILL to the next commit, by the number of entities", _restore),
        ("entities", "CPU of a command, by the number of entities", _entities),
    ):
        if not getattr(results, name):
            continue
        draw_one(results)
        path = folder / f"{name}.png"
        pyplot.tight_layout()
        pyplot.savefig(path, dpi=110)
        pyplot.close()
        drawn.append((path, alt))
    return drawn


def _ledger(results: Results) -> None:
    names = [*reversed(results.ledger)]
    _, (left, right) = pyplot.subplots(1, 2, figsize=_SIZE, sharey=True)
    left.barh(names, [statistics.median(each.commands_s for each in results.ledger[name]) / 1e3 for name in names])
    left.set_xlabel("thousand commands/s")
    right.barh(names, [statistics.median(each.cpu_us for each in results.ledger[name]) for name in names], color="C1")
    right.set_xlabel("CPU of a command, µs (log)")
    right.set_xscale("log")


def _latency(results: Results) -> None:
    _, axes = pyplot.subplots(1, 2, figsize=_SIZE, sharey=True)
    for part, axis in zip(("p50", "p99"), axes, strict=True):
        for name, rounds in results.latency.items():
            loads = [*rounds[0]]
            medians = [statistics.median(getattr(each[load], part) for each in rounds) for load in loads]
            axis.plot(loads, medians, marker="o", label=name)
        axis.set_title(f"{part} of an ask, ms (log)")
        axis.set_yscale("log")
        axis.set_xlabel("load")
    axes[0].legend(fontsize=7)


def _restore(results: Results) -> None:
    fresh = {int(name.replace(",", "")): rounds for name, rounds in results.restore.items() if "after" not in name}
    _, axis = pyplot.subplots(figsize=_SIZE)
    for number in range(max(map(len, fresh.values()))):
        axis.plot([*fresh], [rounds[number].all_s for rounds in fresh.values()], "o", color="C0", alpha=0.4)
    axis.plot([*fresh], [statistics.median(each.all_s for each in rounds) for rounds in fresh.values()], color="C0")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("entities (log)")
    axis.set_ylabel("s to the commit of all shards (log)")


def _entities(results: Results) -> None:
    _, axis = pyplot.subplots(figsize=_SIZE)
    axis.plot([each.entities for each in results.entities], [each.cpu_us for each in results.entities], marker="o")
    axis.set_xscale("log")
    axis.set_ylim(bottom=0)
    axis.set_xlabel("entities of a shard (log)")
    axis.set_ylabel("CPU of a command, µs")
