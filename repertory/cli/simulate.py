"""``repertory simulate``: run a system under seeded faults in virtual time, and check its promises."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated

import msgspec
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from repertory.bridge.system.system import ActorSystem, load_system
from repertory.bridge.system.target import TargetError
from repertory.cli.shared import EX_SOFTWARE, HandlerOutput, Target, TextTable, console, errors, sentences
from repertory.simulation.api import DIFFERS, silence
from repertory.simulation.failure import failed
from repertory.simulation.generate import generated
from repertory.simulation.invariant import no_invariant, user_frames
from repertory.simulation.jobs import cores, running
from repertory.simulation.runs import Scenario, Totals
from repertory.simulation.swarm import FAULTS, KINDS, PROBES

#: From this number of seeds on, a rare branch that was never reached is a failure.
_LONG = 2_000
#: The most seeds of one call that are run again in another process.
_GUARDED_MAX = 200
_OTHER_HASH_SEED = "4711"
#: What the line begins with that has the traces.
_TRACES = "traces of repertory simulate: "
_STDERR_CHARS_MAX = 1_000


def simulate(
    target: Target,
    seeds: Annotated[int, typer.Option(min=1, help="Number of runs.")] = 100,
    first_seed: Annotated[int, typer.Option(min=0, help="The seed of the first run.")] = 0,
    scenario: Annotated[
        str | None,
        typer.Option(
            metavar="MODULE",
            help="The module of commands(random) and invariant(outcome) [the module `scenario` beside the system, if "
            "there is one; else commands are drawn from the handlers' types].",
        ),
    ] = None,
    twice_every: Annotated[
        int, typer.Option(min=0, help="Run every N-th seed again in another process; 0: none.")
    ] = 100,
    minimise: Annotated[bool, typer.Option(help="Minimise a failing schedule.")] = True,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes [as many as there are cores].")] = None,
    allow_error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TYPE",
            help="An error with which handlers are meant to fail, as a failure shows it: ValueError, bank.Frozen. "
            "May be given several times; allowed_errors of the scenario count too.",
        ),
    ] = None,
    projections: Annotated[
        bool, typer.Option(help="Simulate projections too, in SQLite; not for tables that only PostgreSQL can make.")
    ] = True,
    handler_output: HandlerOutput = False,
    traces: Annotated[
        str, typer.Option(hidden=True, metavar="SEED,…", help="Only print the traces of these seeds, as JSON.")
    ] = "",
) -> None:
    """Simulate a system under faults, one run for each seed; exit 1 with a minimised schedule if a promise breaks.

    The exit code is 1, too, if a key was parked or a command dead-lettered and no injected fault explains it;
    --allow-error names errors that are meant to happen.
    """
    with sentences():
        system = load_system(target)
        system.check()
        module = _scenario_module(target, scenario)
        arguments = _arguments(target, scenario, allow_error or ())
        arguments += [] if projections else ["--no-projections"]
        made = _scenario(system, module, allow_error or (), arguments, silent=not handler_output)
        made = msgspec.structs.replace(made, projections=projections)
    try:
        if traces:
            with silence():
                typer.echo(_TRACES + json.dumps({seed: made.run(int(seed)).trace for seed in traces.split(",")}))
            return
        wanted = range(first_seed, first_seed + seeds)
        code = _run(made, wanted, jobs or cores(), minimise=minimise, twice_every=twice_every, arguments=arguments)
    except Exception as error:
        notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
        errors.print(f"repertory: {type(error).__name__}: {error}\n{user_frames(error)}{notes}", soft_wrap=True)
        raise typer.Exit(EX_SOFTWARE) from error
    raise typer.Exit(code)


def _arguments(target: str, scenario: str | None, allowed: Sequence[str]) -> list[str]:
    """Return the arguments that say what is simulated."""
    arguments = ["simulate", target] + ([] if scenario is None else ["--scenario", scenario])
    return arguments + [part for error in allowed for part in ("--allow-error", error)]


def _scenario_module(target: str, name: str | None) -> ModuleType | None:
    """Return the module with the workload and the invariant, None if there is none."""
    name = name or _beside(target.partition(":")[0])
    if name is None:
        return None
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TargetError(f"the scenario {name} cannot be imported: {error}") from error


def _beside(target: str) -> str | None:
    """Return the module ``scenario`` in the folder of a system's module, which is imported; None if there is none."""
    module = sys.modules.get(target) or sys.modules.get(Path(target).stem)
    file = getattr(module, "__file__", None)
    if module is None or file is None:
        return None
    package = module.__name__ if hasattr(module, "__path__") else module.__name__.rpartition(".")[0]
    name = f"{package}.scenario" if package else "scenario"
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    folder = Path(file).resolve().parent
    return (
        name if Path(spec.origin).resolve() in (folder / "scenario.py", folder / "scenario" / "__init__.py") else None
    )


def _scenario(
    system: ActorSystem, module: ModuleType | None, allowed: Sequence[str], arguments: Sequence[str], *, silent: bool
) -> Scenario:
    # Twice: what is wrong may be that a seed does not do the same again.
    replay = ["repertory", *arguments, "--seeds", "1", "--twice-every", "1", "--first-seed"]
    return Scenario(
        system=system,
        commands=getattr(module, "commands", None) or generated(system),
        invariant=getattr(module, "invariant", no_invariant),
        allowed_errors=(*getattr(module, "allowed_errors", ()), *allowed),
        silent=silent,
        again=lambda seed: shlex.join([*replay, str(seed)]),
    )


def _run(
    scenario: Scenario, seeds: range, jobs: int, *, minimise: bool, twice_every: int, arguments: Sequence[str]
) -> int:
    totals, guarded, started_s = Totals(), dict[int, str](), time.monotonic()
    columns = (
        TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with (
        silence(),
        running(scenario, seeds, jobs) as results,  # First: it forks, and a progress bar is a thread.
        Progress(*columns, console=errors, transient=True) as progress,
    ):
        task = progress.add_task("", total=len(seeds))
        for result in results:
            totals.add(result)
            progress.advance(task)
            if result.violation is not None:
                progress.stop()
                console.print(str(failed(scenario, result, minimise=minimise)), soft_wrap=True)
                return 1
            if twice_every and (result.seed - seeds.start) % twice_every == 0 and len(guarded) < _GUARDED_MAX:
                guarded[result.seed] = result.trace
    console.print(figures(totals, jobs, time.monotonic() - started_s))
    differing = _differing(arguments, guarded)
    if differing is not None:
        console.print(
            f"seed {differing} did not do the same in another process: {DIFFERS}\nrun it again: "
            f"{scenario.again(differing)}",
            soft_wrap=True,
        )
        return 1
    if guarded:
        console.print(f"{len(guarded)} seeds did the same in another process, with another PYTHONHASHSEED")
    missing = [probe for probe in PROBES if not totals.probes[probe]]
    if missing and len(seeds) >= _LONG:
        console.print(f"never reached: {', '.join(missing)}", soft_wrap=True)
        return 1
    return 0


def _differing(arguments: Sequence[str], guarded: Mapping[int, str]) -> int | None:
    """Run seeds again in another process, and return the first that did not do the same.

    Raises ChildProcessError if that process fails. Its other lines of output are those of handlers and invariants.
    """
    if not guarded:
        return None
    environment = {**os.environ, "PYTHONHASHSEED": _OTHER_HASH_SEED}
    call = [sys.executable, "-c", "from repertory.cli.app import main; main()", *arguments]
    call += ["--traces", ",".join(map(str, guarded))]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)  # noqa: S603
    found = [line for line in done.stdout.splitlines() if line.startswith(_TRACES)]
    if done.returncode or not found:
        raise ChildProcessError(
            f"the process that runs {len(guarded)} seeds again failed (exit code {done.returncode}): "
            f"{done.stderr.strip()[-_STDERR_CHARS_MAX:] or 'it printed nothing'}"
        )
    traces = json.loads(found[-1].removeprefix(_TRACES))
    return next((seed for seed, trace in guarded.items() if traces[str(seed)] != trace), None)


def figures(totals: Totals, jobs: int, seconds: float) -> TextTable:
    """Return the totals as a table."""
    table = TextTable("what", "how many", title="simulated")
    rate = totals.runs / totals.cpu_s if totals.cpu_s else 0.0
    table.row("runs without a broken promise", f"{totals.runs:,}")
    table.row("runs a second of a core (CPU time)", f"{rate:.1f}")
    table.row(f"seconds, with {jobs} jobs", f"{seconds:,.0f}")
    table.row("commands handled", f"{totals.commands:,}")
    table.row("commands a run", f"{totals.commands / max(1, totals.runs):.0f}")
    table.row("virtual hours", f"{totals.virtual_s / 3600:.2f}")
    for kind in KINDS:
        if kind in FAULTS or totals.faults[kind]:
            table.row(f"fault: {kind}", f"{totals.faults[kind]:,}")
    for probe, count in sorted(totals.probes.items()):
        table.row(f"reached: {probe}", f"{count:,}")
    return table
