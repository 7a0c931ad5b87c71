"""The machine against an independent model of OTP's supervisor, written from ``lib/stdlib/src/supervisor.erl``.

The model is deliberately naive and built differently: it acts at once, as OTP does, which waits inside its calls for
each child to stop and to start; it keeps all restarts for ever and counts the recent ones anew each time; it knows no
phases and no incarnations. Children are permanent. Where we differ on purpose, the model says so.
"""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from repertory.supervision import (
    Add,
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
    restart,
    step,
)
from tests.supervision.driving import BACKOFF, BROKEN, LEAVING, LIVE, NAMES, drain


class Otp:
    """One supervisor process. ``log`` is what it did: ``+a`` started, ``-a`` stopped, ``!`` left by itself."""

    def __init__(self, strategy: Strategy, intensity: int, period: int) -> None:
        self.strategy = strategy
        self.intensity = intensity
        self.period = period
        self.ids: list[str] = []
        self.alive: list[str] = []
        self.resting: list[str] = []
        self.restarts: list[float] = []
        self.exited = ""
        self.log: list[str] = []

    def start_child(self, name: str) -> None:
        """handle_start_child/2; starts one that rests too, which in OTP is restart_child/2."""
        if self.exited or name in self.alive:
            return
        if name not in self.ids:
            self.ids.append(name)
        if name in self.resting:
            self.resting.remove(name)
        self.start([name])

    def terminate_and_delete(self, name: str) -> None:
        """terminate_child/2 and delete_child/2."""
        if name in self.ids:
            self.terminate([name])
            self.ids.remove(name)
        if name in self.resting:
            self.resting.remove(name)

    def lose(self, name: str) -> None:
        """Forget a child that others took away; OTP knows nothing like it."""
        if name in self.alive:
            self.alive.remove(name)
        self.terminate_and_delete(name)

    def exit(self, name: str, now: float, directive: Directive = Directive.RESTART) -> None:
        """restart_child/3 of handle_info({'EXIT', ...}).

        STOP is the end of a temporary child that stays listed. In OTP a later one_for_all would start a transient child
        again that had ended normally; ours stays down. ESCALATE is a spent budget.
        """
        if self.exited or name not in self.alive:
            return
        self.alive.remove(name)
        if directive is Directive.STOP:
            self.resting.append(name)
            return
        self.restarts.append(now)
        recent = [at for at in self.restarts if at >= now - self.period]
        if directive is Directive.ESCALATE or len(recent) > self.intensity:
            self.shutdown("!")
            return
        at = self.ids.index(name)
        group = {
            Strategy.ONE_FOR_ONE: [name],
            Strategy.ALL_FOR_ONE: self.ids[:],
            Strategy.REST_FOR_ONE: self.ids[at:],
        }[self.strategy]
        self.terminate(group)
        self.start([each for each in group if each not in self.resting])

    def shutdown(self, how: str) -> None:
        """terminate/2."""
        if not self.exited:
            self.terminate(self.ids)
            self.exited = how
            self.log += [how] if how == "!" else []

    def start(self, names: list[str]) -> None:
        """start_children/2."""
        for name in names:
            self.alive.append(name)
            self.log.append(f"+{name}")

    def terminate(self, names: list[str]) -> None:
        """terminate_children/2."""
        for name in names[::-1]:
            if name in self.alive:
                self.alive.remove(name)
                self.log.append(f"-{name}")


def read(commands: list[TreeCommand]) -> list[str]:
    """Write commands as the model's log does."""
    in_flight: list[str] = []
    for command in commands:
        match command:
            case Start(name):
                in_flight.append(f"+{name}")
            case Stop(name):
                in_flight.append(f"-{name}")
            case Escalate():
                in_flight.append("!")
            case _:
                pass
    return in_flight


def same(tree: Tree, otp: Otp) -> None:
    """Compare a tree at rest with the model."""
    assert [child.name for child in tree.children if child.phase in LIVE] == [n for n in otp.ids if n in otp.alive]
    assert list(tree.names()) == otp.ids
    assert tree.phase is {"": TreePhase.RUNNING, "!": TreePhase.ESCALATED, ".": TreePhase.STOPPED}[otp.exited]


OPERATIONS = st.tuples(
    st.sampled_from(("crash", "crash", "crash", "add", "add", "remove", "stop for good", "escalate")),
    st.sampled_from(NAMES),
    st.sampled_from((0, 0, 1, 2, 3, 10)),
)


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(Strategy), st.integers(0, 4), st.integers(1, 5), st.lists(OPERATIONS, max_size=40))
def test_commands_are_those_of_otp(
    strategy: Strategy, intensity: int, period: int, operations: list[tuple[str, str, int]]
) -> None:
    """If every stop and every wait takes no time, the starts, stops and the escalation are OTP's, in OTP's order."""
    otp = Otp(strategy, intensity, period)
    tree = Tree(restart(max_restarts=intensity, within_s=period, backoff=BACKOFF), strategy)
    log: list[str] = []
    now_s = 0
    everybody = [("add", name, 0) for name in NAMES]
    for operation, name, elapsed_s in [*everybody, *operations, ("stop", "", 0)]:
        now_s += elapsed_s
        event: TreeEvent
        incarnation = tree.child(name).incarnation
        match operation:
            case "add":
                event = Add(name)
                otp.start_child(name)
            case "remove":
                event = Remove(name)
                otp.terminate_and_delete(name)
            case "stop":
                event = StopRequested()
                otp.shutdown(".")
                otp.exited = "."
            case _:
                directive = {"stop for good": Directive.STOP, "escalate": Directive.ESCALATE}.get(operation)
                event = Failed(name, incarnation, Failure("ValueError", "", "", directive=directive))
                otp.exit(name, now_s, directive or Directive.RESTART)
        tree, commands = step(tree, event, now_s)
        tree, more = drain(tree, now_s)
        log += read([*commands, *more])
        assert log == otp.log
        same(tree, otp)


class Interleaved(RuleBasedStateMachine):
    """Failures, exits, timers, stops come in any order; the model hears of each failure when it happens."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0
        self.tree = Tree(restart())
        self.otp = Otp(Strategy.ONE_FOR_ONE, 0, 1)
        self.late: list[TreeEvent] = []

    @initialize(strategy=st.sampled_from(Strategy), intensity=st.integers(0, 6), period=st.integers(1, 5))
    def begin(self, strategy: Strategy, intensity: int, period: int) -> None:
        """Begin with all children."""
        self.tree = Tree(restart(max_restarts=intensity, within_s=period, backoff=BACKOFF), strategy)
        self.otp = Otp(strategy, intensity, period)
        for name in NAMES:
            self.add(name)

    def tell(self, event: TreeEvent) -> None:
        """Hand an event to the machine."""
        self.tree, _ = step(self.tree, event, self.now_s)

    def pick(self, phases: tuple[ChildPhase, ...], at: int) -> str | None:
        """Pick a child in one of the phases."""
        names = [child.name for child in self.tree.children if child.phase in phases]
        return names[at % len(names)] if names else None

    @rule(seconds=st.sampled_from((1, 2, 5)))
    def time_passes(self, seconds: int) -> None:
        """Let time pass."""
        self.now_s += seconds

    @rule(at=st.integers(0, 11), first=st.sampled_from((Failed, Exited)), both=st.booleans())
    def crash(self, at: int, first: type[Failed | Exited], both: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        """A live child fails: it reports, exits, or both in either order, the second perhaps much later."""
        if name := self.pick(LIVE, at):
            incarnation = self.tree.child(name).incarnation
            report, end = Failed(name, incarnation, BROKEN), Exited(name, incarnation)
            self.otp.exit(name, self.now_s)
            self.tell(report if first is Failed else end)
            if both:
                self.late.append(end if first is Failed else report)

    @rule(at=st.integers(0, 11), directive=st.sampled_from((Directive.STOP, Directive.ESCALATE)))
    def crash_for_good(self, at: int, directive: Directive) -> None:
        """A live child fails so that it must not be restarted."""
        if name := self.pick(LIVE, at):
            failure = Failure("ValueError", "", "", directive=directive)
            self.otp.exit(name, self.now_s, directive)
            self.tell(Failed(name, self.tree.child(name).incarnation, failure))

    @rule(at=st.integers(0, 11), report=st.booleans())
    def crash_while_stopping(self, at: int, report: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        """A child that is being stopped dies of itself first: OTP's shutdown/1 swallows that."""
        if name := self.pick(LEAVING, at):
            incarnation = self.tree.child(name).incarnation
            self.tell(Failed(name, incarnation, BROKEN) if report else Exited(name, incarnation))

    @precondition(lambda self: self.late)
    @rule()
    def second_half_arrives(self) -> None:
        """The rest of what a dead child had to say arrives."""
        self.tell(self.late.pop(0))

    @rule(at=st.integers(0, 11))
    def started(self, at: int) -> None:
        """A starting child says that it runs."""
        if name := self.pick((ChildPhase.STARTING,), at):
            self.tell(Started(name, self.tree.child(name).incarnation))

    @rule(at=st.integers(0, 11), early=st.booleans())
    def due(self, at: int, early: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        """A timer fires, perhaps one that no longer matters."""
        if name := self.pick(tuple(ChildPhase) if early else (ChildPhase.WAITING,), at):
            self.tell(Due(name, self.tree.child(name).incarnation))

    @rule(at=st.integers(0, 11))
    def stopped(self, at: int) -> None:
        """A child that was told to stop has stopped; others may still be stopping."""
        if name := self.pick(LEAVING, at):
            self.tell(Exited(name, self.tree.child(name).incarnation))

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        """A child comes, or comes back."""
        if self.tree.child(name).phase is ChildPhase.REMOVING:
            return  # Still going: the machine keeps its place in the order, the model has forgotten it.
        self.otp.start_child(name)
        self.tell(Add(name))

    @rule(name=st.sampled_from(NAMES), gone=st.booleans())
    def remove(self, name: str, gone: bool) -> None:  # noqa: FBT001 - Hypothesis names it
        """A child goes, or is taken away."""
        (self.otp.lose if gone else self.otp.terminate_and_delete)(name)
        self.tell(Remove(name, gone=gone))

    @rule()
    def everything_arrives(self) -> None:
        """Whatever is under way arrives: the tree is now as OTP's would be."""
        self.tree, _ = drain(self.tree, self.now_s)
        same(self.tree, self.otp)

    @precondition(lambda self: self.now_s > 20)
    @rule()
    def stop(self) -> None:
        """The tree is stopped."""
        self.otp.shutdown(".")
        self.otp.exited = "."
        self.tell(StopRequested())

    @invariant()
    def at_rest_it_is_as_otp(self) -> None:
        """A tree with nothing under way has OTP's children up and OTP's fate."""
        if self.pick((*LEAVING, ChildPhase.WAITING), 0) is None:
            same(self.tree, self.otp)

    def teardown(self) -> None:
        """Every story ends at rest."""
        self.everything_arrives()


Interleaved.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestInterleaved = Interleaved.TestCase
