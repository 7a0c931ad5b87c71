"""Which bugs each scenario finds: the system of the tests and the bank, each with its workload and a generated one.

``python -m tests.campaigns.mutants`` writes the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from examples.banking import scenario as bank_scenario
from examples.banking import system as bank
from repertory.simulation import Scenario, generated
from repertory.simulation.runs import Commands
from tests.apps import simulated
from tests.campaigns import mutants, output_mutants

#: The seeds that a scenario is given for each bug.
SEEDS = 40


def _of_the_tests(commands: Commands) -> Scenario:
    return Scenario(system=simulated.system, commands=commands, allowed_errors=simulated.allowed_errors)


SCENARIOS: Mapping[str, Callable[[], Scenario]] = {
    "tests": lambda: _of_the_tests(simulated.commands),
    "tests, generated": lambda: _of_the_tests(generated(simulated.system)),
    "bank": lambda: Scenario(system=bank, commands=bank_scenario.commands, invariant=bank_scenario.invariant),
    "bank, generated": lambda: Scenario(system=bank, commands=generated(bank)),
}


def found_by(planted: mutants.Mutant, scenario: Scenario) -> int | None:
    """Return the number of seeds after which a scenario finds a bug, None if it does not.

    The bank's transfers are sagas, which need exactly once: what only at least once has is not for it.
    """
    if planted.scenario.system.settings.delivery == "at-least-once":
        if scenario.system is bank:
            return None
        scenario = Scenario(
            system=mutants.at_least_once(scenario.system),
            commands=scenario.commands,
            invariant=scenario.invariant,
            allowed_errors=scenario.allowed_errors,
        )
    found = mutants.find(planted._replace(scenario=scenario, seeds=SEEDS))
    return None if found is None else found.seeds


def table() -> str:
    """Return the table of the seeds after which each scenario finds each bug."""
    assert output_mutants.__name__, "it registers its mutants when it is imported"
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - mutant", *(f"     - {name}" for name in SCENARIOS)]
    counts = dict.fromkeys(SCENARIOS, 0)
    for planted in mutants.MUTANTS:
        lines.append(f"   * - {planted.name}")
        for name, make in SCENARIOS.items():
            seeds = found_by(planted, make())
            counts[name] += seeds is not None
            lines.append(f"     - {'not' if seeds is None else seeds}")
        sys.stderr.write(f"{planted.name}: {[line.removeprefix('     - ') for line in lines[-len(SCENARIOS) :]]}\n")
    lines += [f"   * - found, of {len(mutants.MUTANTS)}", *(f"     - {count}" for count in counts.values())]
    return "\n".join(lines)
