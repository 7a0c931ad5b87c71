"""What the machine does in the cases that its documentation names, one by one."""

import pytest

from repertory.supervision import (
    Add,
    Backoff,
    ChildPhase,
    Directive,
    Due,
    Escalate,
    Exited,
    Failed,
    Failure,
    Remove,
    Start,
    Started,
    Stop,
    StopRequested,
    Strategy,
    Tree,
    TreeCommand,
    TreeEvent,
    TreePhase,
    WakeAfter,
    restart,
    step,
)
from tests.supervision.driving import BROKEN, crash, drain, family

ONE = Strategy.ONE_FOR_ONE
ALL = Strategy.ALL_FOR_ONE
REST = Strategy.REST_FOR_ONE
STEADY = Backoff(jitter=0)


def failure(directive: Directive | None = None, error_type: str = "ValueError") -> Failure:
    return Failure(error_type, "broken", "here", directive=directive)


def play(tree: Tree, *events: TreeEvent, now_s: float = 0.0) -> tuple[Tree, tuple[TreeCommand, ...]]:
    """Hand over events; give the tree and the commands of the last."""
    commands: tuple[TreeCommand, ...] = ()
    for event in events:
        tree, commands = step(tree, event, now_s)
    return tree, commands


def test_an_added_child_starts_at_once_beside_its_starting_siblings() -> None:
    """Add starts a child without waiting for the Started of those before it."""
    tree, commands = play(Tree(restart()), Add("a"), Add("b"))
    assert commands == (Start("b", 2),)
    assert [child.phase for child in tree.children] == [ChildPhase.STARTING, ChildPhase.STARTING]


def test_started_is_believed_once() -> None:
    """Started makes a starting child run, and nothing else."""
    tree, commands = play(Tree(restart()), Add("a"), Started("a", 1))
    assert (tree.child("a").phase, commands) == (ChildPhase.RUNNING, ())
    tree, _ = crash(tree, "a")
    assert play(tree, Started("a", 1))[0].child("a").phase is ChildPhase.WAITING


def test_a_child_may_take_its_place_in_the_order() -> None:
    """Add puts a child before the sibling that it names, at the end if there is none of that name."""
    tree, _ = play(family(ONE, 2), Add("x", before="b"), Add("y", before="gone"), Add("z"))
    assert tree.names() == ("a", "x", "b", "y", "z")


def test_adding_a_child_that_is_up_changes_nothing() -> None:
    """Add leaves a child alone that is up, waits, or is to be started again."""
    for tree in (family(ALL), crash(family(ALL), "b")[0]):
        for name in tree.names():
            assert play(tree, Add(name, before="a")) == (tree, ())


def test_adding_a_stopped_child_gives_it_a_new_life() -> None:
    """Add starts a child again that was stopped for good, and what its old life still says is ignored."""
    tree, _ = play(family(ONE), Failed("b", 2, failure(Directive.STOP)))
    tree, commands = play(tree, Add("b"))
    assert commands == (Start("b", 5),)
    assert play(tree, Failed("b", 2, failure(Directive.STOP))) == (tree, ())


def test_a_new_life_begins_a_new_streak() -> None:
    """The failures of its old life do not make a child wait longer in its new one."""
    tree, _ = drain(crash(family(ONE), "b")[0])
    assert tree.child("b").attempts == 1
    tree, _ = play(tree, Failed("b", 5, failure(Directive.STOP)), Add("b"))
    assert tree.child("b").attempts == 0
    assert crash(tree, "b")[0].child("b").attempts == 1


def test_adding_a_child_on_its_way_out_brings_it_back() -> None:
    """A child that comes back while it is being removed starts when it has stopped."""
    tree, _ = play(family(ONE), Remove("b"))
    tree, commands = play(tree, Add("b"))
    assert (tree.child("b").phase, commands) == (ChildPhase.RESTARTING, ())
    assert play(tree, Exited("b", 2))[1] == (Start("b", 5),)


def test_a_removed_child_is_forgotten_after_its_exit() -> None:
    """Remove stops a live child first and forgets it after."""
    tree, commands = play(family(ONE), Remove("b"))
    assert commands == (Stop("b", 2),)
    tree, commands = play(tree, Exited("b", 2))
    assert (tree.names(), commands) == (("a", "c", "d"), ())
    assert tree.child("b").phase is ChildPhase.ABSENT


def test_a_lost_child_is_forgotten_at_once() -> None:
    """Remove with gone=True sends no Stop, and nobody waits for the exit of what is gone."""
    tree, commands = play(family(ONE), Remove("b", gone=True))
    assert (tree.names(), commands) == (("a", "c", "d"), ())
    tree, _ = play(family(ONE), StopRequested())
    tree, commands = play(tree, Remove("d", gone=True), Exited("c", 3), Exited("b", 2), Exited("a", 1))
    assert (tree.phase, commands) == (TreePhase.STOPPED, ())


def test_a_lost_sibling_releases_the_group() -> None:
    """When the child whose backoff holds a group is taken away, the group starts without it."""
    tree, _ = crash(family(ALL, 3), "b")
    tree, _ = play(tree, Exited("c", 3), Exited("a", 1))
    assert play(tree, Remove("b", gone=True))[1] == (Start("a", 4), Start("c", 5))


def test_resume_changes_nothing() -> None:
    """A failure with RESUME leaves child, budget and report alone; its exit would be a failure of its own."""
    tree = family(ONE)
    assert play(tree, Failed("b", 2, failure(Directive.RESUME))) == (tree, ())
    assert play(tree, Exited("b", 2))[0].child("b").phase is ChildPhase.WAITING


def test_what_is_gone_cannot_resume() -> None:
    """An exit without a report is answered by a restart where the policy's default is RESUME."""
    tree = family(ONE, default=Directive.RESUME)
    assert play(tree, Exited("b", 2))[0].child("b").phase is ChildPhase.WAITING


@pytest.mark.parametrize("strategy", Strategy)
def test_stop_leaves_the_siblings_alone(strategy: Strategy) -> None:
    """STOP keeps a child down with its failure, uses no budget, and touches no sibling, also in later restarts."""
    before = family(strategy)
    tree, commands = play(before, Failed("b", 2, failure(Directive.STOP)), Exited("b", 2))
    assert (commands, tree.restarts) == ((), ())
    assert tree.child("b").phase is ChildPhase.STOPPED
    assert tree.child("b").failure == failure(Directive.STOP)
    assert [tree.child(name) for name in "acd"] == [before.child(name) for name in "acd"]
    tree, _ = drain(crash(tree, "a")[0])
    assert tree.child("b").phase is ChildPhase.STOPPED


def test_policy_names_types_also_for_failures_that_came_as_data() -> None:
    """The tree's own policy answers by type name, unless the failure brings a directive."""
    tree = family(ONE, on={LookupError: Directive.STOP})
    looked_up = Failure.of(KeyError("x"), "here")
    assert play(tree, Failed("a", 1, looked_up))[0].child("a").phase is ChildPhase.STOPPED
    assert play(tree, Failed("a", 1, failure(Directive.RESTART, "KeyError")))[0].child("a").phase is ChildPhase.WAITING


@pytest.mark.parametrize("strategy", Strategy)
def test_escalate_asks_no_budget(strategy: Strategy) -> None:
    """ESCALATE stops everybody else, last first, and then escalates that failure."""
    tree, commands = play(family(strategy, 3), Failed("b", 2, failure(Directive.ESCALATE)))
    assert commands == (Stop("c", 3), Stop("a", 1))
    assert tree.phase is TreePhase.ESCALATING
    assert play(tree, Exited("c", 3))[1] == ()
    tree, commands = play(tree, Exited("c", 3), Exited("a", 1))
    assert commands == (Escalate(failure(Directive.ESCALATE)),)
    assert (tree.phase, tree.failure) == (TreePhase.ESCALATED, failure(Directive.ESCALATE))


def test_a_stop_in_the_middle_of_an_escalation_wins() -> None:
    """Who asked a tree to stop needs no escalation: the children stop once and the tree ends as stopped."""
    tree, _ = play(family(ONE, 2), Failed("b", 2, failure(Directive.ESCALATE)), StopRequested())
    tree, commands = play(tree, Exited("a", 1))
    assert (tree.phase, commands) == (TreePhase.STOPPED, ())


def test_an_escalated_tree_can_be_stopped() -> None:
    """StopRequested ends an escalated tree as stopped, without a further command."""
    tree, _ = play(family(ONE, 1), Failed("a", 1, failure(Directive.ESCALATE)), StopRequested())
    assert tree.phase is TreePhase.STOPPED


def test_an_empty_tree_stops_at_once() -> None:
    """A tree without children is stopped in the step that asks for it, and takes no child any more."""
    tree, commands = play(Tree(restart()), StopRequested())
    assert (tree.phase, commands) == (TreePhase.STOPPED, ())
    assert play(tree, Add("a")) == (tree, ())


@pytest.mark.parametrize(
    ("directive", "phase", "tree_phase"),
    [
        (Directive.STOP, ChildPhase.STOPPED, TreePhase.RUNNING),
        (Directive.ESCALATE, ChildPhase.STOPPED, TreePhase.ESCALATING),
        (Directive.RESTART, ChildPhase.WAITING, TreePhase.RUNNING),
        (Directive.RESUME, ChildPhase.WAITING, TreePhase.RUNNING),
    ],
)
def test_a_late_report_is_heard(directive: Directive, phase: ChildPhase, tree_phase: TreePhase) -> None:
    """A report that comes after its exit is not counted again, but its STOP or ESCALATE holds."""
    tree, _ = play(family(ONE), Exited("b", 2), Failed("b", 2, failure(directive)))
    assert (tree.child("b").phase, tree.phase) == (phase, tree_phase)
    assert tree.restarts == (0.0,)


def test_a_late_report_is_heard_until_the_next_start() -> None:
    """A late STOP holds also when the backoff is over and only the siblings are still on their way down."""
    tree, _ = play(family(ALL, 2), Exited("b", 2), Due("b", 2))
    assert tree.child("b").phase is ChildPhase.READY
    tree, _ = play(tree, Failed("b", 2, failure(Directive.STOP)))
    assert tree.child("b").phase is ChildPhase.STOPPED
    assert play(tree, Exited("a", 1))[1] == (Start("a", 3),)


@pytest.mark.parametrize("first", [Failed("a", 1, failure(Directive.STOP)), Exited("a", 1)])
def test_only_an_exit_that_was_counted_has_a_late_report(first: TreeEvent) -> None:
    """What a child said or says of an end that cost no restart does not stop it, however late and often it comes."""
    tree, _ = crash(family(ALL, 3), "b")
    late = Failed("a", 1, failure(Directive.STOP))
    tree, _ = play(tree, first, late, late, Exited("a", 1), late)
    assert tree.child("a").phase is ChildPhase.READY


def test_only_the_first_late_report_is_judged() -> None:
    """Once an exit is explained, further reports of it change nothing but the status."""
    tree, _ = play(family(ONE), Exited("b", 2), Failed("b", 2, BROKEN), Failed("b", 2, failure(Directive.ESCALATE)))
    assert (tree.child("b").phase, tree.phase) == (ChildPhase.WAITING, TreePhase.RUNNING)


def test_a_report_explains_the_exit_that_came_before_it() -> None:
    """The status shows the report, whichever of report and exit came first."""
    for events in ((Exited("b", 2), Failed("b", 2, BROKEN)), (Failed("b", 2, BROKEN), Exited("b", 2))):
        tree, _ = play(family(ONE), *events)
        assert tree.child("b").failure == BROKEN
    unreported = play(family(ONE), Exited("b", 2))[0].child("b").failure
    assert unreported
    assert (unreported.message, unreported.where) == ("exited without a report", "b#2")


def test_a_report_while_stopping_is_remembered_and_not_judged() -> None:
    """A child that was told to stop is awaited until its exit, whatever it reports, and is restarted with its group."""
    tree, _ = crash(family(ALL, 2), "a")
    tree, commands = play(tree, Failed("b", 2, failure(Directive.ESCALATE)))
    assert (tree.child("b").phase, tree.phase, commands) == (ChildPhase.RESTARTING, TreePhase.RUNNING, ())
    assert tree.child("b").failure == failure(Directive.ESCALATE)
    assert play(tree, Due("a", 1), Exited("b", 2))[1] == (Start("a", 3), Start("b", 4))


def test_all_are_told_to_stop_before_any_has_stopped() -> None:
    """One that is told last would take over what the first gives up; so nobody is told last. Each is told once."""
    assert play(family(ONE), StopRequested())[1] == (Stop("d", 4), Stop("c", 3), Stop("b", 2), Stop("a", 1))
    tree, commands = crash(family(ALL), "b")
    assert commands[1:] == (Stop("d", 4), Stop("c", 3), Stop("a", 1))
    assert play(tree, StopRequested())[1] == ()


def test_a_worker_that_waits_for_its_restart_is_not_started_by_a_stop() -> None:
    """A stop ends the backoff: its timer, if it fires, starts nobody."""
    tree, _ = crash(family(ONE, 2), "a")
    tree, commands = play(tree, StopRequested(), Due("a", 1))
    assert (commands, tree.child("a").phase) == ((), ChildPhase.STOPPED)
    assert play(tree, Exited("b", 2))[0].phase is TreePhase.STOPPED


def test_a_sibling_that_fails_while_it_stops_costs_no_restart() -> None:
    """It was told to stop, and how it ends does not matter."""
    for event in (Failed("a", 1, BROKEN), Exited("a", 1)):
        tree, _ = crash(family(ALL, 3), "b")
        tree, commands = play(tree, event, Exited("a", 1))
        assert (tree.child("a").phase, commands) == (ChildPhase.READY, ())
        tree, commands = play(tree, Exited("c", 3))
        assert (commands, tree.restarts) == ((), (0.0,))


def test_a_waiting_sibling_keeps_its_backoff() -> None:
    """A group restart under rest_for_one starts nobody whose own backoff, or that of one before it, is not over."""
    tree, _ = crash(family(REST, 3), "c")
    tree, _ = crash(tree, "a")
    tree, _ = play(tree, Exited("b", 2))
    tree, commands = play(tree, Due("a", 1))
    assert commands == (Start("a", 4), Start("b", 5))
    assert play(tree, Due("c", 3))[1] == (Start("c", 6),)


def test_siblings_of_one_for_one_do_not_wait_for_each_other() -> None:
    """Under one_for_one a child starts again while a sibling is still being stopped."""
    tree, _ = crash(play(family(ONE), Remove("a"))[0], "b")
    assert play(tree, Due("b", 2))[1] == (Start("b", 5),)


def test_nobody_in_a_group_starts_while_another_is_being_stopped() -> None:
    """Under rest_for_one a child that is down already waits for those before it to stop too."""
    tree, _ = crash(family(REST, 4), "b")
    tree, commands = play(tree, Exited("d", 4), Due("b", 2))
    assert commands == ()
    assert play(tree, Exited("c", 3))[1] == (Start("b", 5), Start("c", 6), Start("d", 7))


def test_delays_grow_with_the_streak_and_begin_again_after_quiet() -> None:
    """Each failure of a streak waits longer; reset_after_s after the last one the delay is the first again."""
    tree = Tree(restart(max_restarts=9, within_s=1, backoff=STEADY))
    tree, _ = step(tree, Add("a"), 0.0)
    delays = []
    for now_s in (0.0, 10.0, 20.0, 79.9, 139.9):
        tree, commands = crash(tree, "a", now_s)
        delays += [command.delay_s for command in commands if isinstance(command, WakeAfter)]
        tree, _ = drain(tree, now_s)
    assert delays == [0.05, 0.1, 0.2, 0.4, 0.05]
    assert tree.child("a").attempts == 1


def test_each_child_has_its_own_streak() -> None:
    """The delay grows with the failures of that child, while the budget is shared."""
    tree, _ = crash(family(ONE), "a")
    tree, _ = crash(tree, "b")
    assert (tree.child("a").attempts, tree.child("b").attempts) == (1, 1)
    assert len(tree.restarts) == 2


def test_jitter_is_the_same_in_every_process() -> None:
    """The draw depends on seed, child and incarnation alone: a fixed value, whatever the process's hash seed is."""
    tree, _ = step(Tree(restart(), seed=7), Add("a"), 0.0)
    assert step(tree, Exited("a", 1), 0.0)[1] == (WakeAfter("a", 1, 0.05574372734683583),)


def test_jitter_differs_between_children_incarnations_and_seeds() -> None:
    """Children that fail together do not return together."""
    delays = set()
    for seed in range(3):
        for strikes in range(3):
            tree = Tree(restart(max_restarts=9, backoff=Backoff(first_s=1, max_s=1, jitter=1)), seed=seed)
            tree, _ = play(tree, Add("a"), Add("b"))
            for _ in range(strikes):
                tree, _ = drain(crash(tree, "a")[0])
            for name in "ab":
                delays |= {command.delay_s for command in crash(tree, name)[1] if isinstance(command, WakeAfter)}
    assert len(delays) == 3 * 3 + 3  # `b` is in its first incarnation however often `a` struck.
    assert all(1 <= delay_s < 2 for delay_s in delays)
