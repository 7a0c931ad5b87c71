"""The decisions of a supervisor: `step(tree, event, now_s)` returns the next tree and the commands to carry out.

Only this module changes the phase of a child. `PHASE_TABLE` lists all changes. `step` determines the changes that an
event means, and `_take_next_steps` then stops and starts children:

- All children that an event stops are told at once, the last child first. OTP waits for the exit of each before it
  tells the next. Here a worker that is told last would first take over the shards that the others give up.
- Starts go in start order and do not wait for each other's Started. OTP waits. Here a child is a process, or a shard
  that restores for seconds, and children must not depend on a sibling while they start.
- Except under one_for_one, no child starts while a sibling is being stopped, or while a sibling waits whose failure it
  shares. So a group is down before it starts again, and it starts in order.
- A failure reported by a child that is being stopped is recorded and not judged (as in OTP).
- After a failure, only the backoff of the failed child delays the group.
"""

import hashlib
from typing import assert_never

from msgspec.structs import replace

from repertory.supervision.directive import Directive, Failure
from repertory.supervision.phase import LEAVING, LIVE, PHASE_TABLE, ChildChange, ChildPhase
from repertory.supervision.strategy import Strategy, affected
from repertory.supervision.tree import (
    Add,
    Child,
    Due,
    Escalate,
    Exited,
    Failed,
    Remove,
    Start,
    Started,
    Stop,
    StopRequested,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
)


def step(tree: Tree, event: TreeEvent, now_s: float) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Handle one event at `now_s` (of a monotonic clock); return the next tree and the commands, to be run in order.

    Events of an old incarnation, events of unknown children, and repeated events have no effect.
    """
    commands: tuple[TreeCommand, ...] = ()
    before = tree
    match event:
        case Add():
            tree = _add(tree, event)
        case Remove(name, gone):
            tree = _change(tree, name, ChildChange.LOSE if gone else ChildChange.REMOVE)
        case Started(name, incarnation):
            if _is_current(tree, name, incarnation):
                tree = _change(tree, name, ChildChange.STARTED)
        case Due(name, incarnation):
            if _is_current(tree, name, incarnation):
                tree = _change(tree, name, ChildChange.DUE)
        case Failed(name, incarnation, failure):
            if _is_current(tree, name, incarnation):
                tree, commands = _failed(tree, tree.child(name), failure, now_s)
        case Exited(name, incarnation):
            if _is_current(tree, name, incarnation):
                tree, commands = _exited(tree, tree.child(name), now_s)
        case StopRequested():
            tree = _halt(tree, TreePhase.STOPPING, tree.failure)
        case _:
            assert_never(event)
    tree, more = _take_next_steps(tree)
    return tree, commands + _stops(before, tree) + more


def _add(tree: Tree, event: Add) -> Tree:
    """Add a child, or start a stopped one again. A tree that is not RUNNING ignores it."""
    if tree.phase is not TreePhase.RUNNING:
        return tree
    child = tree.child(event.child)
    if child.phase is ChildPhase.ABSENT:
        at = next((i for i, sibling in enumerate(tree.children) if sibling.name == event.before), len(tree.children))
        tree = replace(tree, children=(*tree.children[:at], child, *tree.children[at:]))
    elif child.phase is ChildPhase.STOPPED:  # A new life: events of the old one are no longer current.
        tree = _put(tree, Child(child.name, child.phase, failure=child.failure))
    return _change(tree, child.name, ChildChange.ADD)


def _failed(tree: Tree, child: Child, failure: Failure, now_s: float) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Handle a failure report of the current incarnation. It may come before, after or without the exit, or twice."""
    directive = tree.policy.directive_of(failure)
    if directive is Directive.RESUME:
        return tree, ()
    tree = _put(tree, replace(child, failure=failure))
    if child.phase in LIVE:
        return _fail(tree, child.name, failure, directive, now_s)
    late = child.phase in (ChildPhase.WAITING, ChildPhase.READY) and child.failure == _unreported(child)
    if late and directive is not Directive.RESTART:  # The exit has been counted already; only the directive differs.
        return _fail(tree, child.name, failure, directive, now_s)
    return tree, ()


def _exited(tree: Tree, child: Child, now_s: float) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Handle the exit of the current incarnation: awaited, after its failure report, or without any report."""
    if child.phase not in LIVE:
        return _change(tree, child.name, ChildChange.EXITED), ()
    failure = _unreported(child)
    tree = _put(tree, replace(child, failure=failure))
    directive = tree.policy.directive_of(failure)
    if directive is Directive.RESUME:  # An exited child cannot continue.
        directive = Directive.RESTART
    return _fail(tree, child.name, failure, directive, now_s)


def _unreported(child: Child) -> Failure:
    """Describe an exit without a failure report before it."""
    return Failure("Exited", "exited without a report", f"{child.name}#{child.incarnation}")


def _fail(
    tree: Tree, name: str, failure: Failure, directive: Directive, now_s: float
) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Answer one failure with exactly one of: restart after a backoff, stop permanently, escalate."""
    match directive:
        case Directive.RESUME:
            return tree, ()
        case Directive.RESTART:
            restarts, spent = tree.policy.spend(tree.restarts, now_s)
            tree = replace(tree, restarts=restarts)
            if not spent:
                return _retry(tree, name, now_s)
            return _escalate(tree, name, failure), ()
        case Directive.STOP:
            return _change(tree, name, ChildChange.GIVE_UP), ()
        case Directive.ESCALATE:
            return _escalate(tree, name, failure), ()
        case _:
            assert_never(directive)


def _retry(tree: Tree, name: str, now_s: float) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Start the backoff of the failed child, and mark the siblings that are restarted with it to be stopped."""
    backoff = tree.policy.backoff
    child = tree.child(name)
    attempts = backoff.next_attempt(child.attempts, child.failed_s, now_s)
    tree = _change(_put(tree, replace(child, attempts=attempts, failed_s=now_s)), name, ChildChange.RETRY)
    for sibling in affected(tree.strategy, tree.names(), name):
        tree = _change(tree, sibling, ChildChange.RESTART)
    delay_s = backoff.delay_s(attempts, _draw(tree.seed, name, child.incarnation))
    return tree, (WakeAfter(name, child.incarnation, delay_s),)


def _escalate(tree: Tree, name: str, failure: Failure) -> Tree:
    """Give up: the failed child is down, and all others stop. `_take_next_steps` escalates when they have exited."""
    return _halt(_change(tree, name, ChildChange.GIVE_UP), TreePhase.ESCALATING, failure)


def _halt(tree: Tree, phase: TreePhase, failure: Failure | None) -> Tree:
    """Mark all children to be stopped and enter `phase`. If all are down already, `_take_next_steps` ends it now."""
    for name in tree.names():
        tree = _change(tree, name, ChildChange.HALT)
    return replace(tree, phase=phase, failure=failure)


def _take_next_steps(tree: Tree) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Do all that the phases now allow: all starts, or the end of the tree."""
    if tree.phase is TreePhase.RUNNING:
        return _start_ready(tree)
    if any(child.phase in LEAVING for child in tree.children):
        return tree, ()
    if tree.phase is TreePhase.STOPPING:
        return replace(tree, phase=TreePhase.STOPPED), ()
    if tree.phase is TreePhase.ESCALATING:
        assert tree.failure is not None, "a tree escalates a failure"
        return replace(tree, phase=TreePhase.ESCALATED), (Escalate(tree.failure),)
    return tree, ()


def _stops(before: Tree, after: Tree) -> tuple[TreeCommand, ...]:
    """Stop the children that an event has marked to be stopped, the last one first."""
    leaving = [child for child in reversed(after.children) if child.phase in LEAVING]
    return tuple(Stop(each.name, each.incarnation) for each in leaving if before.child(each.name).phase not in LEAVING)


def _start_ready(tree: Tree) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Start all READY children that need not wait for a sibling, in start order. No incarnation is used twice."""
    commands: tuple[TreeCommand, ...] = ()
    held = _held(tree)
    for child in tree.children:
        if child.phase is not ChildPhase.READY or child.name in held:
            continue
        incarnation = tree.last_incarnation + 1
        tree = replace(_put(tree, replace(child, incarnation=incarnation)), last_incarnation=incarnation)
        tree = _change(tree, child.name, ChildChange.START)
        commands += (Start(child.name, incarnation),)
    return tree, commands


def _held(tree: Tree) -> frozenset[str]:
    """Name the children that may not start yet: their group is not down, or a sibling restarted with them waits."""
    if tree.strategy is Strategy.ONE_FOR_ONE:
        return frozenset()
    names = tree.names()
    if any(child.phase in LEAVING for child in tree.children):
        return frozenset(names)
    waiting = (child.name for child in tree.children if child.phase is ChildPhase.WAITING)
    return frozenset[str]().union(*(affected(tree.strategy, names, name) for name in waiting))


def _change(tree: Tree, name: str, change: ChildChange) -> Tree:
    """Change a child's phase by `PHASE_TABLE`. An ABSENT child is removed; without an entry nothing changes."""
    child = tree.child(name)
    after = PHASE_TABLE[change].get(child.phase)
    if after is None:
        return tree
    return _put(tree, replace(child, phase=after))


def _put(tree: Tree, child: Child) -> Tree:
    """Replace a child by its new version; an ABSENT one is removed."""
    present = (child if former.name == child.name else former for former in tree.children)
    return replace(tree, children=tuple(each for each in present if each.phase is not ChildPhase.ABSENT))


def _is_current(tree: Tree, name: str, incarnation: int) -> bool:
    """Tell whether an event concerns the newest incarnation of a child; events of older ones are ignored."""
    return 0 < tree.child(name).incarnation == incarnation


def _draw(seed: int, name: str, incarnation: int) -> float:
    """Return a number in [0, 1) that is the same for the same arguments, in every process and version."""
    digest = hashlib.blake2b(f"{seed}/{name}/{incarnation}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53  # A float holds 53 bits exactly.
