"""Checks from outside that a supervision tree keeps its rules."""

from __future__ import annotations

from collections import Counter

from repertory.simulation.virtual import Violation
from repertory.supervision import (
    Child,
    ChildPhase,
    Directive,
    Due,
    Escalate,
    Exited,
    Failed,
    Start,
    Started,
    Stop,
    Strategy,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
)

#: Restarts this close to the edge of the window are not checked, because of rounding.
_EDGE_S = 1e-6


class SupervisionMonitor:
    """Checks every step of one tree. Raises Violation for I12 (stale incarnations) and I15 (restart intensity)."""

    def __init__(self, name: str, probes: Counter[str]) -> None:
        self._name, self._probes = name, probes
        self._restarts: list[float] = []
        self._started = 0

    def saw(self, before: Tree, event: TreeEvent, after: Tree, commands: tuple[TreeCommand, ...], now_s: float) -> None:
        """Check one step."""
        if isinstance(event, Started | Failed | Exited | Due):
            self._check_stale(before, event, after, commands)
        for command in commands:
            match command:
                case WakeAfter(failed):
                    self._check_intensity(before, now_s)
                    self._check_scope(before, failed, after)
                case Start(child, incarnation):
                    if incarnation <= self._started:
                        raise Violation(
                            "incarnations are new", f"{self._name}: {child}#{incarnation} was started before"
                        )
                    self._started = incarnation
                case Escalate():
                    self._probes[f"{self._name} tree escalated"] += 1
                case _:
                    pass
        if before.phase is TreePhase.RUNNING and after.phase in (TreePhase.ESCALATING, TreePhase.ESCALATED):
            self._check_spent(before, event, now_s)

    def _check_stale(
        self,
        before: Tree,
        event: Started | Failed | Exited | Due,
        after: Tree,
        commands: tuple[TreeCommand, ...],
    ) -> None:
        child: Child = before.child(event.child)
        if child.incarnation == event.incarnation > 0:
            return
        self._probes["stale event ignored"] += 1
        if after.child(event.child) != child or after.restarts != before.restarts or after.phase is not before.phase:
            raise Violation("stale incarnations are ignored", f"{self._name}: {event} changed {child}")
        if any(not isinstance(command, Start | Stop) for command in commands):
            raise Violation("stale incarnations are ignored", f"{self._name}: {event} caused {commands}")

    def _check_scope(self, before: Tree, failed: str, after: Tree) -> None:
        """Check that exactly those children are stopped with a failed one that the strategy names."""
        names = list(before.names())
        match before.strategy:
            case Strategy.ONE_FOR_ONE:
                fated = {failed}
            case Strategy.ALL_FOR_ONE:
                fated = set(names)
            case Strategy.REST_FOR_ONE:
                fated = set(names[names.index(failed) :])
        for child in before.children:
            if child.name != failed and child.phase in (ChildPhase.STARTING, ChildPhase.RUNNING):
                stopped = after.child(child.name).phase is ChildPhase.RESTARTING
                if stopped != (child.name in fated):
                    what = "was stopped" if stopped else "was not stopped"
                    raise Violation(
                        "the strategy says who is restarted",
                        f"{self._name}: {child.name} {what} when {failed} failed under {before.strategy.value}",
                    )

    def _check_intensity(self, tree: Tree, now_s: float) -> None:
        policy = tree.policy
        self._restarts = [at_s for at_s in self._restarts if at_s >= now_s - policy.within_s + _EDGE_S]
        self._restarts.append(now_s)
        if len(self._restarts) > policy.max_restarts:
            raise Violation(
                "restart intensity",
                f"{self._name}: {len(self._restarts)} restarts in {policy.within_s:g} s, {policy.max_restarts} allowed",
            )

    def _check_spent(self, before: Tree, event: TreeEvent, now_s: float) -> None:
        """Check that a tree gives up only when its restart budget is spent, or if the failure itself escalates."""
        policy = before.policy
        if isinstance(event, Failed) and policy.directive_of(event.failure) is Directive.ESCALATE:
            return
        recent = [at_s for at_s in self._restarts if at_s >= now_s - policy.within_s - _EDGE_S]
        if len(recent) < policy.max_restarts:
            raise Violation(
                "restart intensity",
                f"{self._name} gave up after {len(recent)} restarts in {policy.within_s:g} s, "
                f"{policy.max_restarts} are allowed",
            )
