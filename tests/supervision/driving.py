"""Drives `step` for the tests: random stories, and a shell that does what it owes the machine, at once."""

from typing import NamedTuple

from hypothesis import strategies as st

from repertory.supervision import (
    Add,
    Backoff,
    ChildPhase,
    Directive,
    Due,
    Exited,
    Failed,
    Failure,
    Remove,
    Started,
    StopRequested,
    Strategy,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    restart,
    step,
)

NAMES = ("a", "b", "c", "d")
LIVE = (ChildPhase.STARTING, ChildPhase.RUNNING)
LEAVING = (ChildPhase.STOPPING, ChildPhase.RESTARTING, ChildPhase.REMOVING)
BROKEN = Failure("ValueError", "broken", "here")


class Happening(NamedTuple):
    """One step of a story."""

    before: Tree
    event: TreeEvent
    now_s: float
    after: Tree
    commands: tuple[TreeCommand, ...]


class Move(NamedTuple):
    """One random choice; what event it is depends on the tree that it meets, so that most of them matter."""

    kind: str
    pick: int
    age: int
    directive: Directive | None
    elapsed_s: int


def event_of(tree: Tree, move: Move) -> TreeEvent:
    """Turn a choice into an event: aimed at a child to which it matters if there is one, else noise."""
    phases = {"crash": LIVE, "die": LIVE, "up": (ChildPhase.STARTING,), "wake": (ChildPhase.WAITING,), "obey": LEAVING}
    aimed = [child for child in tree.children if child.phase in phases.get(move.kind, ())]
    name = aimed[move.pick % len(aimed)].name if aimed else NAMES[move.pick % len(NAMES)]
    incarnation = max(0, tree.child(name).incarnation - move.age)
    match move.kind:
        case "add":
            return Add(name, before=NAMES[move.age])
        case "remove" | "lose":
            return Remove(name, gone=move.kind == "lose")
        case "crash" | "report":
            return Failed(name, incarnation, Failure("ValueError", move.kind, name, directive=move.directive))
        case "up":
            return Started(name, incarnation)
        case "wake" | "due":
            return Due(name, incarnation)
        case "stop":
            return StopRequested()
        case _:
            return Exited(name, incarnation)


COMMON = (
    "crash",
    "crash",
    "die",
    "obey",
    "obey",
    "obey",
    "wake",
    "wake",
    "up",
    "report",
    "exit",
    "due",
    "add",
    "remove",
)
MOVES = st.builds(
    Move,
    kind=st.sampled_from((*COMMON, *COMMON, *COMMON, "lose", "lose", "stop")),
    pick=st.integers(0, 11),
    age=st.sampled_from((0, 0, 0, 0, 1, 2)),
    directive=st.sampled_from((None, None, None, None, None, Directive.RESTART, *Directive)),
    elapsed_s=st.sampled_from((0, 0, 0, 1, 2, 5, 30)),
)
BACKOFF = Backoff(first_s=1, max_s=4, jitter=0.5, reset_after_s=20)
TREES = st.builds(
    Tree,
    policy=st.builds(restart, max_restarts=st.integers(0, 5), within_s=st.integers(1, 10), backoff=st.just(BACKOFF)),
    strategy=st.sampled_from(Strategy),
    seed=st.integers(0, 3),
)


def tell(tree: Tree, moves: list[Move], *, children: int = len(NAMES)) -> list[Happening]:
    """Play a story: add some children, then make the moves."""
    story: list[Happening] = []
    now_s = 0.0
    for move in [*(Move("add", i, 0, None, 0) for i in reversed(range(children))), *moves]:
        now_s += move.elapsed_s
        event = event_of(tree, move)
        after, commands = step(tree, event, now_s)
        story.append(Happening(tree, event, now_s, after, commands))
        tree = after
    return story


STORIES = st.builds(tell, TREES, st.lists(MOVES, max_size=40), children=st.integers(0, len(NAMES)))
"""Random stories: the common moves of a supervisor's life, mixed with old, repeated and unknown events."""


def family(strategy: Strategy, count: int = 4, **settings: object) -> Tree:
    """Make a tree of `count` running children, `a` first."""
    tree = Tree(restart(backoff=BACKOFF, **settings), strategy)  # type: ignore[arg-type] # each test names valid ones
    for name in NAMES[:count]:
        tree, _ = step(tree, Add(name), 0.0)
        tree, _ = step(tree, Started(name, tree.child(name).incarnation), 0.0)
    return tree


def drain(tree: Tree, now_s: float = 0.0) -> tuple[Tree, list[TreeCommand]]:
    """Let every stop end and every wait be over, until nothing is under way: the tree then and all its commands."""
    commands: list[TreeCommand] = []
    for _ in range(100):
        waiting = [child for child in tree.children if child.phase is ChildPhase.WAITING]
        leaving = [child for child in tree.children if child.phase in LEAVING]
        if leaving:
            event: TreeEvent = Exited(leaving[-1].name, leaving[-1].incarnation)
        elif waiting:
            event = Due(waiting[0].name, waiting[0].incarnation)
        else:
            return tree, commands
        tree, more = step(tree, event, now_s)
        commands += more
    raise AssertionError(f"still under way after 100 answers: {tree}")


def crash(tree: Tree, name: str, now_s: float = 0.0) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Let the present incarnation of a child report a failure."""
    return step(tree, Failed(name, tree.child(name).incarnation, BROKEN), now_s)


def is_over(tree: Tree) -> bool:
    """Say whether the tree has given up or was stopped."""
    return tree.phase is not TreePhase.RUNNING
