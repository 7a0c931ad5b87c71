"""The results of a run: kept as JSON, shown as tables in ``docs/performance.rst``, and as plots beside it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import msgspec

from benchmarks.ask import Asked
from benchmarks.asker import Latency
from benchmarks.growth import Entities, Shards
from benchmarks.restore import Handover, Restored
from benchmarks.throughput import Throughput

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "performance.json"
PAGE = DOCS / "performance.rst"
BEGIN, END = "..\n   Measured: written by ``make bench``.\n", "..\n   End of what was measured.\n"

T = TypeVar("T")


class Results(msgspec.Struct):
    """What one run measured, by the names of programs and loads."""

    measured: str = ""
    #: Asks a second that Repertory answered when they came as fast as they could.
    rate_max: float = 0.0
    ledger: dict[str, list[Throughput]] = {}
    latency: dict[str, list[dict[str, Latency]]] = {}
    #: By what is asked, round by round.
    asks: dict[str, list[Asked]] = {}
    restore: dict[str, list[Restored]] = {}
    handover: list[Handover] = []
    entities: list[Entities] = []
    shards: list[Shards] = []
    #: The ratios that ``make bench-check`` compares.
    check: dict[str, float] = {}


def read(path: Path = RESULTS) -> Results:
    """Return the results of the last run that was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Results)


def keep(results: Results, path: Path = RESULTS) -> None:
    """Keep the results."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def median(found: Iterable[T], what: Callable[[T], float]) -> float:
    """Return the median of a figure of several rounds."""
    return statistics.median(map(what, found))


def ratio(results: Results, program: str, to: str, what: Callable[[Throughput], float]) -> float:
    """Return the median of the ratios of a figure of two programs, round by round."""
    rounds = zip(results.ledger[program], results.ledger[to], strict=True)
    return statistics.median(what(one) / what(other) for one, other in rounds)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in reStructuredText."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    return "\n".join([title, "", rule, lines[0].rstrip(), rule, *(line.rstrip() for line in lines[1:]), rule, ""])


def _ledger(results: Results) -> str:
    base = next(iter(results.ledger))
    rows = []
    for name, rounds in results.ledger.items():
        rates = [each.commands_s for each in rounds]
        rows.append(
            [
                name,
                f"{statistics.median(rates):,.0f}",
                f"{min(rates):,.0f} to {max(rates):,.0f}",
                f"{ratio(results, name, base, lambda each: each.commands_s):.2f}",
                f"{median(rounds, lambda each: each.cpu_us):.1f}",
                f"{ratio(results, name, base, lambda each: each.cpu_us):.2f}",
                f"{median(rounds, lambda each: each.broker_us):.1f}",
                f"{max(each.foreign for each in rounds):.2f}",
            ]
        )
    header = ["program", "commands/s", "of its rounds", "to bare", "CPU µs", "to bare", "broker µs", "foreign cores"]
    return table("The ledger job (CPU for each command, of all its processes):", header, rows)


def _latency(results: Results) -> str:
    rows = []
    for name, rounds in results.latency.items():
        for load in rounds[0]:
            found = [each[load] for each in rounds]
            figures = [median(found, attrgetter(part)) for part in ("rate", "p50", "p99", "p999")]
            rows.append([name, load, f"{figures[0]:,.0f}", *(f"{figure:.1f}" for figure in figures[1:])])
    title = (
        "Asks, in ms from when each was due. 100 % is what Repertory answered at most, "
        f"{results.rate_max:,.0f} a second; the others got as many:"
    )
    return table(title, ["program", "load", "asks/s", "p50", "p99", "p99.9"], rows)


def _asks(results: Results) -> str:
    rows, loaded = [], []
    for name, rounds in results.asks.items():
        figures = [median(rounds, attrgetter(part)) for part in ("cpu_us", "gateway_us", "broker_us")]
        rows.append([name, f"{median(rounds, attrgetter('rate')):,.0f}", *(f"{figure:,.1f}" for figure in figures)])
        for load in rounds[0].loads:
            found = [each.loads[load] for each in rounds]
            places = [median(found, attrgetter(part)) for part in ("p50", "p99", "p999")]
            loaded.append([name, load, *(f"{place:.1f}" for place in places)])
    header = ["asked", "answers/s", "worker CPU µs", "gateway CPU µs", "broker CPU µs"]
    return (
        table("What is asked of one worker as fast as it goes; for each ask:", header, rows)
        + "\n"
        + table("The latency of each, in ms:", ["asked", "load", "p50", "p99", "p99.9"], loaded)
    )


def _restore(results: Results) -> str:
    rows = []
    for name, rounds in results.restore.items():
        entities = int(name.partition(", after")[0].replace(",", ""))
        cpu_s = median(rounds, lambda each: each.cpu_s)
        rows.append(
            [
                name,
                f"{median(rounds, lambda each: each.first_s):.2f}",
                f"{median(rounds, lambda each: each.all_s):.2f}",
                f"{max(each.all_s for each in rounds):.2f}",
                f"{cpu_s:.2f}",
                f"{entities / cpu_s:,.0f}",
                f"{median(rounds, lambda each: each.memory_mb):,.0f}",
            ]
        )
    header = ["entities", "first shard, s", "all four, s", "at most, s", "CPU s", "entities/CPU s", "memory MB"]
    said = ""
    if results.handover:
        gaps = [
            f"{median(results.handover, attrgetter(part)):.2f} s {when}"
            for part, when in (
                ("joined_s", "as a second node joins"),
                ("left_s", "as it leaves"),
                ("quiet_s", "without"),
            )
        ]
        said = f"\nA planned handover: the longest time without a commit of a shard is {', '.join(gaps)}.\n"
    return table("SIGKILL of the worker, to the next commit:", header, rows) + said


def _growth(results: Results) -> str:
    base = results.entities[0].cpu_us
    pure = [[f"{each.entities:,}", f"{each.cpu_us:.2f}", f"{each.cpu_us / base:.2f}"] for each in results.entities]
    rows = [
        [
            str(each.shards),
            str(each.threads),
            str(each.descriptors),
            f"{each.memory_mb:,.0f}",
            f"{each.segments_s:,.0f}",
            f"{each.idle_cores:.3f}",
            f"{each.commands_s:,.0f}",
            f"{each.cpu_us:.1f}",
        ]
        for each in results.shards
    ]
    header = ["shards", "threads", "descriptors", "MB", "TCP segments/s", "cores", "commands/s", "CPU µs"]
    return (
        table("The pure path in one shard:", ["entities", "CPU µs a command", "ratio"], pure)
        + "\n"
        + table("One worker on Kafka: idle (the first six columns), and at the ledger job:", header, rows)
    )


_SECTIONS = (("ledger", _ledger), ("latency", _latency), ("asks", _asks), ("restore", _restore), ("entities", _growth))


def text(results: Results) -> str:
    """Return all tables, in reStructuredText."""
    tables = [section(results) for name, section in _SECTIONS if getattr(results, name)]
    return f"Measured on {results.measured}.\n\n" + "\n".join(tables)


def show(results: Results) -> None:
    """Print the tables."""
    print(text(results))


def write(results: Results) -> None:
    """Keep the results, and write them into the page."""
    from benchmarks import plots  # noqa: PLC0415  only `make bench` installs matplotlib

    keep(results)
    images = plots.draw(results, DOCS / "performance")
    shown = "\n".join(f".. image:: {path.relative_to(DOCS)}\n   :alt: {alt}\n" for path, alt in images)
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{text(results)}\n{shown}\n{END}{after}", encoding="utf-8")
