"""Rules that hold for every story of a supervisor, whatever happens in whatever order."""

from collections import Counter, defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from repertory.supervision import (
    Child,
    ChildPhase,
    Directive,
    Due,
    Escalate,
    Exited,
    Failed,
    Remove,
    Start,
    Started,
    Stop,
    StopRequested,
    Strategy,
    TreePhase,
    WakeAfter,
    affected,
    step,
)
from tests.supervision.driving import BROKEN, LEAVING, LIVE, NAMES, STORIES, Happening, crash, drain, family, is_over

every_story = given(STORIES)
thorough = settings(max_examples=400, deadline=None)
quick = settings(max_examples=100, deadline=None)


def subject(happening: Happening) -> Child | None:
    """Give the child whose present incarnation an event speaks of, as it was before."""
    event = happening.event
    if not isinstance(event, Started | Failed | Exited | Due):
        return None
    child = happening.before.child(event.child)
    return child if child.incarnation == event.incarnation > 0 else None


@thorough
@every_story
def test_at_most_one_incarnation_lives(story: list[Happening]) -> None:
    """A child is started only when its former incarnation has failed, exited, or was taken away."""
    alive: dict[str, set[int]] = defaultdict(set)
    for happening in story:
        match happening.event:
            case Failed(name, incarnation, failure) if failure.directive is not Directive.RESUME:
                alive[name].discard(incarnation)
            case Exited(name, incarnation):
                alive[name].discard(incarnation)
            case Remove(name, gone=True):
                alive[name].clear()
            case _:
                pass
        for command in happening.commands:
            if isinstance(command, Start):
                assert not alive[command.child]
                alive[command.child].add(command.incarnation)


@thorough
@every_story
def test_incarnations_are_never_used_twice(story: list[Happening]) -> None:
    """Every Start has a higher incarnation than all before it, also for a child that was removed in between."""
    started = [command.incarnation for step_ in story for command in step_.commands if isinstance(command, Start)]
    assert started == sorted(set(started))


@thorough
@every_story
def test_restarts_stay_within_the_intensity(story: list[Happening]) -> None:
    """No period of within_s holds more than max_restarts restarts."""
    policy = story[0].before.policy if story else None
    waits = [step_.now_s for step_ in story for command in step_.commands if isinstance(command, WakeAfter)]
    for now_s in waits:
        assert policy is not None
        assert sum(now_s - policy.within_s <= wait <= now_s for wait in waits) <= policy.max_restarts


@thorough
@every_story
def test_the_budget_is_used_before_it_is_found_spent(story: list[Happening]) -> None:
    """A failure to be restarted escalates only if max_restarts others were restarted within the last within_s."""
    waits: list[float] = []
    for happening in story:
        child, event = subject(happening), happening.event
        restartable = isinstance(event, Exited) or (
            isinstance(event, Failed) and event.failure.directive in (None, Directive.RESTART)
        )
        if child and child.phase in LIVE and restartable and not is_over(happening.before):
            recent = sum(wait >= happening.now_s - happening.before.policy.within_s for wait in waits)
            assert is_over(happening.after) == (recent >= happening.before.policy.max_restarts)
        waits += [happening.now_s for command in happening.commands if isinstance(command, WakeAfter)]


@thorough
@every_story
def test_each_live_failure_has_exactly_one_answer(story: list[Happening]) -> None:
    """A failure of a live child makes it wait, or stops it for good, or escalates; anything else does none of these."""
    for happening in story:
        child, event = subject(happening), happening.event
        failed = isinstance(event, Exited) or (
            isinstance(event, Failed) and event.failure.directive is not Directive.RESUME
        )
        waits = [command for command in happening.commands if isinstance(command, WakeAfter)]
        if child is None or child.phase not in LIVE or not failed:
            assert not waits
            continue
        after = happening.after.child(child.name)
        escalates = happening.after.phase in (TreePhase.ESCALATING, TreePhase.ESCALATED)
        stays_down = after.phase is ChildPhase.STOPPED and not escalates
        assert (bool(waits), stays_down, escalates).count(True) == 1
        if waits:
            assert [(wait.child, wait.incarnation) for wait in waits] == [(child.name, child.incarnation)]
            assert after.phase is ChildPhase.WAITING


@thorough
@every_story
def test_a_failure_counts_once(story: list[Happening]) -> None:
    """However often and in whatever order an incarnation reports and exits, it waits at most once."""
    waits = Counter(
        (command.child, command.incarnation)
        for happening in story
        for command in happening.commands
        if isinstance(command, WakeAfter)
    )
    assert not waits or max(waits.values()) == 1


@thorough
@every_story
def test_nothing_starts_after_the_end_began(story: list[Happening]) -> None:
    """Once a tree escalates or is to stop, it starts nothing, lets nothing wait, and escalates at most once."""
    over = False
    escalations = 0
    for happening in story:
        over = over or is_over(happening.after)
        for command in happening.commands:
            assert not (over and isinstance(command, Start | WakeAfter))
            escalations += isinstance(command, Escalate)
    assert escalations <= 1
    assert over or not escalations


@thorough
@every_story
def test_escalation_comes_last(story: list[Happening]) -> None:
    """Escalate is sent when every child is down, and only then is the tree escalated."""
    for happening in story:
        if any(isinstance(command, Escalate) for command in happening.commands):
            assert happening.after.phase is TreePhase.ESCALATED
            assert not [child for child in happening.after.children if child.phase is not ChildPhase.STOPPED]


@thorough
@given(STORIES, st.sampled_from(NAMES), st.integers(0, 99), st.integers(0, 3))
def test_stale_events_change_nothing(story: list[Happening], name: str, incarnation: int, kind: int) -> None:
    """What another incarnation than the present one says, or an unknown child, changes nothing and commands nothing."""
    for tree in (happening.after for happening in story[-3:]):
        if tree.child(name).incarnation == incarnation:
            continue
        event = (
            Started(name, incarnation),
            Failed(name, incarnation, BROKEN),
            Exited(name, incarnation),
            Due(name, incarnation),
        )[kind]
        assert step(tree, event, 1e6) == (tree, ())


@thorough
@every_story
def test_repeated_events_change_nothing(story: list[Happening]) -> None:
    """The same event a second time changes nothing and commands nothing, except that it may repeat a report."""
    for happening in story:
        if isinstance(happening.event, Started | Failed | Exited | Due | StopRequested):
            again, commands = step(happening.after, happening.event, happening.now_s)
            assert (again, commands) == (happening.after, ())


@thorough
@every_story
def test_every_waiting_child_has_exactly_one_pending_due(story: list[Happening]) -> None:
    """A waiting child has one timer on its way, made for its present incarnation."""
    pending: Counter[tuple[str, int]] = Counter()
    for happening in story:
        if isinstance(happening.event, Due):
            pending[happening.event.child, happening.event.incarnation] = 0
        pending.update((c.child, c.incarnation) for c in happening.commands if isinstance(c, WakeAfter))
        for child in happening.after.children:
            assert child.phase is not ChildPhase.WAITING or pending[child.name, child.incarnation] == 1


@thorough
@every_story
def test_stops_go_at_once(story: list[Happening]) -> None:
    """Whom an event stops is told by that event, the last child first, and each incarnation is told once."""
    told: set[tuple[str, int]] = set()
    for happening in story:
        stops = [(command.child, command.incarnation) for command in happening.commands if isinstance(command, Stop)]
        assert told.isdisjoint(stops)
        told.update(stops)
        leaving = [(child.name, child.incarnation) for child in happening.after.children if child.phase in LEAVING]
        assert told.issuperset(leaving)
        assert [child for child in reversed(leaving) if child in stops] == stops


@thorough
@every_story
def test_starts_go_in_order(story: list[Happening]) -> None:
    """The children that one event starts are started in their order."""
    for happening in story:
        started = [command.child for command in happening.commands if isinstance(command, Start)]
        assert started == [name for name in happening.after.names() if name in started]


@thorough
@every_story
def test_same_input_gives_same_output(story: list[Happening]) -> None:
    """A step depends on its arguments alone."""
    for happening in story:
        assert step(happening.before, happening.event, happening.now_s) == (happening.after, happening.commands)


@thorough
@every_story
def test_nothing_grows_without_bound(story: list[Happening]) -> None:
    """A tree keeps one entry per child and at most one restart over its limit."""
    for happening in story:
        assert len(set(happening.after.names())) == len(happening.after.children)
        assert len(happening.after.restarts) <= happening.after.policy.max_restarts + 1


@thorough
@every_story
def test_stop_always_ends(story: list[Happening]) -> None:
    """A tree asked to stop tells its live children at once, and ends when all have exited."""
    tree = story[-1].after if story else family(Strategy.ONE_FOR_ONE)
    expected = tuple(Stop(child.name, child.incarnation) for child in reversed(tree.children) if child.phase in LIVE)
    tree, commands = step(tree, StopRequested(), 1e6)
    assert commands == expected
    tree, more = drain(tree, 1e6)
    assert more == []
    assert tree.phase is TreePhase.STOPPED
    assert {child.phase for child in tree.children} <= {ChildPhase.STOPPED}


@thorough
@every_story
def test_everybody_gets_where_it_goes(story: list[Happening]) -> None:
    """When all exits and timers have come, no child is left between up and down, and an escalation has been sent."""
    for happening in story[-1:]:
        tree, _ = drain(happening.after, happening.now_s)
        settled = {ChildPhase.STOPPED} if is_over(tree) else {*LIVE, ChildPhase.STOPPED}
        assert {child.phase for child in tree.children} <= settled
        assert tree.phase not in (TreePhase.ESCALATING, TreePhase.STOPPING)


@quick
@given(st.sampled_from(Strategy), st.integers(0, 3), st.randoms(use_true_random=False))
def test_a_group_is_down_before_it_comes_up(strategy: Strategy, failed: int, order: "st.DrawFn") -> None:
    """Siblings stop at once, in any order; when all are down and the wait is over, the group starts in start order."""
    tree = family(strategy)
    group = affected(strategy, NAMES, NAMES[failed])
    tree, commands = crash(tree, NAMES[failed])
    stops = [command for command in commands if isinstance(command, Stop)]
    assert [stop.child for stop in stops] == [name for name in reversed(group) if name != NAMES[failed]]
    answers = [Due(NAMES[failed], failed + 1), *(Exited(stop.child, stop.incarnation) for stop in stops)]
    order.shuffle(answers)  # type: ignore[attr-defined] # a Random, says the strategy
    for number, answer in enumerate(answers, 1):
        tree, commands = step(tree, answer, 0.0)
        assert bool(commands) == (number == len(answers))
    assert [command.child for command in commands if isinstance(command, Start)] == list(group)
