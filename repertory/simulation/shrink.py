"""Minimise a failing run: remove choices and commands as long as the same promise is broken.

Delta debugging (Zeller and Hildebrandt 2002) over the steps with choices, then over the commands, then over choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from repertory.simulation.choices import Tape
from repertory.simulation.clients import ClientCommand
from repertory.simulation.runs import Result, Scenario

#: The most runs of a minimisation; each is shorter than the first run.
RUNS_MAX = 400

_T = TypeVar("_T")


class Minimised:
    """The minimisation of a failing run. ``result`` is the smallest failing run so far."""

    def __init__(self, scenario: Scenario, result: Result, *, runs_max: int = RUNS_MAX) -> None:
        self._scenario, self._rule, self._left = scenario, result.rule, runs_max
        self.result = result
        self.tape: Tape = dict(result.tape)
        self.commands: Sequence[ClientCommand] = scenario.workload(result.seed)
        steps = sorted({step for step, _, _ in self.tape})
        self._reduce(steps, lambda kept: self._fails(self._only(kept), self.commands))
        self._reduce(list(self.commands), lambda kept: self._fails(self.tape, kept))
        choices = dict(self.tape)
        self._reduce(list(choices), lambda kept: self._fails({place: choices[place] for place in kept}, self.commands))

    def repeat(self) -> None:
        """Run the smallest run once more: where tracebacks are shown, its result has those of the handlers."""
        self._left = 1
        self._fails(self.tape, self.commands)

    def _only(self, steps: Sequence[int]) -> Tape:
        kept = frozenset(steps)
        return {place: chosen for place, chosen in self.tape.items() if place[0] in kept}

    def _fails(self, tape: Tape, commands: Sequence[ClientCommand]) -> bool:
        """Run, and keep the run if it breaks the same promise."""
        if self._left <= 0:
            return False
        self._left -= 1
        result = self._scenario.replay(self.result.seed, commands, tape)
        if result.violation is None or result.rule != self._rule:
            return False
        self.result, self.commands = result, commands
        self.tape = {place: chosen for place, chosen in tape.items() if place in result.tape}
        return True

    def _reduce(self, parts: list[_T], fails: Callable[[list[_T]], bool]) -> None:
        """Remove parts, half of them at first, then fewer at a time, as long as the rest still fails."""
        size = max(1, len(parts) // 2)
        while parts and self._left > 0:
            at, taken = 0, False
            while at < len(parts):
                rest = parts[:at] + parts[at + size :]
                if fails(rest):
                    parts, taken = rest, True
                else:
                    at += size
            if size == 1 and not taken:
                return
            size = max(1, size // 2)
