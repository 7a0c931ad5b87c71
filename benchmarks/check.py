"""Compares a few ratios with those that were kept: ``make bench-check``, or ``python -m benchmarks.check``.

Each ratio is of two things measured in turn in one run, so that a faster machine changes it little. A ratio that became
worse by more than a tenth is named, and the exit code is 1. ``make bench`` measures the same and keeps them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import ask, later, path, report, sagas
from benchmarks.asker import Kind
from benchmarks.latency import latencies
from benchmarks.processes import bare, repertory
from benchmarks.throughput import ledger
from tests.support.kafka.broker import Broker

console = Console(highlight=False)

_ROUNDS = 3
_COMMANDS = 500_000
_SECONDS = 10.0
_ASKS = 20_000
#: They need no broker, so there is time for more.
_LATER, _LATER_ROUNDS = 50_000, 7
_TRANSFERS, _SAGA_STEPS = 5_000, (10, 100)
_ENTITIES = 1_000, 100_000
_WORSE = 0.10
#: Of these the higher is the better; of all others, the lower.
_HIGHER = {"commands/s to the bare loop's"}


def measured(broker: Broker) -> dict[str, float]:
    """Return each ratio that needs a broker or is measured beside one: the median of its rounds."""
    found: list[dict[str, float]] = []
    for _ in range(_ROUNDS):
        floor, ours = (ledger(broker, program, _COMMANDS) for program in (bare(), repertory()))
        asked_floor, asked = (latencies(broker, program, _SECONDS) for program in (bare(), repertory()))
        small, large = (sum(path.measure(entities, path.BATCH * 100).values()) for entities in _ENTITIES)
        restored = path.restored(_ENTITIES[1], 6 * _ENTITIES[1])[0]
        asks = ask.kinds(broker, _ASKS)
        plain, http = asks[ask.NAMES[Kind.PLAIN]], asks[ask.HTTP]
        ratios = {
            "commands/s to the bare loop's": ours.commands_s / floor.commands_s,
            "CPU of a command to the bare loop's": ours.cpu_us / floor.cpu_us,
            "p50 of an idle ask to the bare loop's": asked["idle"].p50 / asked_floor["idle"].p50,
            "CPU of an ask with an id to one without": asks[ask.NAMES[Kind.GIVEN]].cpu_us / plain.cpu_us,
            "CPU of a query to an ask without an id": asks[ask.NAMES[Kind.QUERY]].cpu_us / plain.cpu_us,
            "CPU of an HTTP request in the gateway to an ask in the worker": http.gateway_us / plain.cpu_us,
            "pure path with 100,000 entities to 1,000": large / small,
            "restore of an entity to a command of the pure path": restored / small,
        }
        found.append(ratios)
    return {name: statistics.median(each[name] for each in found) for name in found[0]}


def measured_later() -> dict[str, float]:
    """Return the ratios of what happens later, which need no broker and take seconds: of the best of their rounds."""
    rounds = [[later.measure(kind, _LATER) for kind in later.KINDS] for _ in range(_LATER_ROUNDS)]
    plain, timer, effect = map(min, zip(*rounds, strict=True))
    return {
        "CPU of a timer to a command, on the pure path": timer / plain,
        "CPU of an effect to a command, on the pure path": effect / plain,
    }


def measured_sagas() -> dict[str, float]:
    """Return the ratios of sagas, which need no broker either: of the best of their rounds."""
    kinds, lengths = (sagas.Transfer, sagas.ByHand), _SAGA_STEPS
    rounds = [
        [
            *(sagas.measure(kind, _TRANSFERS) for kind in kinds),
            *(sagas.walk(steps, 1_000 // steps) for steps in lengths),
        ]
        for _ in range(_LATER_ROUNDS)
    ]
    saga, by_hand, short, long = map(min, zip(*rounds, strict=True))
    return {
        "CPU of a transfer as a saga to one by hand, on the pure path": saga / by_hand,
        "CPU of a step of a saga of 100 to one of 10, on the pure path": long / short,
    }


def regressions(kept: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """Return by which part each ratio became worse, of those that did by more than a tenth."""
    worse = {
        name: (kept[name] / ratio if name in _HIGHER else ratio / kept[name]) - 1
        for name, ratio in now.items()
        if name in kept
    }
    return {name: part for name, part in worse.items() if part > _WORSE}


def main() -> None:
    """Measure, compare, and name what became worse."""
    kept, broker = report.read().check, Broker(jvm=()).start()
    try:
        now = measured(broker) | measured_later() | measured_sagas()
    finally:
        broker.stop()
    worse = regressions(kept, now)
    table = Table("ratio", "kept", "now", "")
    for name, ratio in now.items():
        said = f"[red]worse by {worse[name]:.0%}[/]" if name in worse else ""
        table.add_row(name, f"{kept[name]:.2f}" if name in kept else "-", f"{ratio:.2f}", said)
    console.print(table)
    raise typer.Exit(1 if worse else 0)


if __name__ == "__main__":
    typer.run(main)
