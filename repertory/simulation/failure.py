"""``SimulationFailed``: what a failing seed says, as found and minimised, and the command that runs it again."""

from __future__ import annotations

from collections.abc import Sequence

from repertory.simulation import unexplained
from repertory.simulation.clients import ClientCommand
from repertory.simulation.invariant import HOLDS, RAISES, frames_shown
from repertory.simulation.runs import ENDS, Result, Scenario
from repertory.simulation.shrink import Minimised
from repertory.simulation.unexplained import number

_COMMANDS_SHOWN = 20
#: Broken by user code that fails by itself.
_UNCLEAN = (unexplained.RULE, unexplained.STOPPED)


class SimulationFailed(AssertionError):
    """A seed breaks a promise. ``found`` is the run as it was found, ``result`` the minimised one.

    ``schedule`` and ``commands`` are minimised; ``command`` runs the seed again.
    """

    def __init__(self, scenario: Scenario, found: Result, minimised: Minimised | None) -> None:
        sent: Sequence[ClientCommand] = () if minimised is None else minimised.commands
        if minimised is None and found.rule != ENDS:  # The workload itself may have no end.
            sent = scenario.workload(found.seed)
        self.found, self.result = found, found if minimised is None else minimised.result
        self.seed, self.rule, self.schedule = found.seed, found.rule, tuple(self.result.schedule)
        self.commands, self.command = tuple(sent), scenario.again(found.seed)
        blocks = [_heading(found), str(found.violation)]
        if minimised is not None:
            blocks += _minimised(found, minimised)
        blocks += [
            _listed("the faults:" if minimised is None else "the fewest faults that break it:", self.schedule),
            _listed(
                "the commands:" if minimised is None else "the fewest commands that break it:",
                [f"{handler!r} {key!r} {message!r}" for handler, key, message in sent],
            ),
            *([unexplained.REMEDY] if found.rule in _UNCLEAN else ()),
            f"run it again: {self.command}",
        ]
        super().__init__("\n".join(blocks))


def failed(scenario: Scenario, result: Result, *, minimise: bool) -> SimulationFailed:
    """Return the failure of a seed, minimised if asked for. A run without end is not: each try would take as long."""
    minimised = Minimised(scenario, result) if minimise and result.rule != ENDS else None
    if minimised is not None and result.rule == unexplained.RULE:
        with frames_shown():
            minimised.repeat()
    return SimulationFailed(scenario, result, minimised)


def _heading(found: Result) -> str:
    match found.rule:
        case unexplained.RULE | unexplained.STOPPED:
            return f"seed {found.seed} is no clean run"
        case _ if found.rule == HOLDS:
            return f"seed {found.seed} breaks {HOLDS}"
        case _ if found.rule.startswith(RAISES):
            return f"seed {found.seed}: {found.rule}"
        case _ if found.rule == ENDS:
            return f"seed {found.seed} does not end"
        case _:
            return f"seed {found.seed} breaks a promise: {found.rule}"


def _minimised(found: Result, minimised: Minimised) -> list[str]:
    """Say what is left of the run, and what is wrong with it, if that is something else."""
    faults, commands = len(minimised.result.schedule), len(minimised.commands)
    blocks = [
        f"minimised, from {number(len(found.schedule), 'fault')} to {faults}, and to {number(commands, 'command')}"
    ]
    if minimised.result.violation != found.violation:
        blocks[0] += ", it says:"
        blocks.append(str(minimised.result.violation))
    if not commands and not faults:
        blocks.append(
            "it needs neither: this must hold for any part of the commands, in any number, and so for none at all"
        )
    return blocks


def _listed(title: str, lines: Sequence[str]) -> str:
    shown = [f"  {line}" for line in lines[:_COMMANDS_SHOWN]] or ["  (none)"]
    if len(lines) > _COMMANDS_SHOWN:
        shown.append(f"  and {len(lines) - _COMMANDS_SHOWN} more")
    return "\n".join([title, *shown])
