"""What sagas refuse, each in one sentence that says what, where, and what to do. Nothing is recorded of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from repertory import (
    PIVOT,
    ActorSystem,
    Cancelled,
    Command,
    ContractViolation,
    DefinitionError,
    Done,
    Query,
    Saga,
    SagaContext,
    SagaKit,
    SagaRefused,
    Settings,
    TooLate,
    Undelivered,
    command,
    run,
    signal,
)
from tests.actors.saga.domain import (
    Approve,
    Back,
    Begin,
    Ended,
    Failed,
    Hurry,
    Letter,
    Note,
    Short,
    Store,
    Take,
    Taken,
    post,
)


async def whole(self: Any, _cmd: Begin, _ctx: SagaContext) -> Ended | Cancelled:
    """Do nothing."""
    return Ended()


async def of_note(self: Any, _cmd: Note, _ctx: SagaContext) -> Ended | Cancelled:
    """Begin with another command."""
    return Ended()


async def no_return(self, cmd: Begin, ctx: SagaContext):  # type: ignore[no-untyped-def]
    """Return anything."""


async def returns_nothing(self: Any, cmd: Begin, ctx: SagaContext) -> None:
    """Return None."""


async def returns_any(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled | Command:
    """Return anything."""
    return Ended()


async def without_cancelled(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Short:
    """Never be cancelled."""
    return Ended()


async def without_context(self: Any, cmd: Begin) -> Ended | Cancelled:
    """Await nothing."""
    return Ended()


async def other_context(self: Any, cmd: Begin, ctx: int) -> Ended | Cancelled:
    """Take a number."""
    return Ended()


async def takes_an_event(self: Any, cmd: Ended, ctx: SagaContext) -> Ended | Cancelled:
    """Begin with an event."""
    return Ended()


async def yielding(self: Any, cmd: Begin, ctx: SagaContext) -> Any:
    """Yield a step, as if it were a generator."""
    yield ctx.sleep(1)


def plain(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Await nothing."""
    return Ended()


class Ask(Query):
    """A question."""


def made(**names: Any) -> type[Saga]:
    """Define a saga."""
    return type(Saga)("Bad", (Saga,), {"__module__": __name__, **names})


def with_a_field() -> object:
    return made(begin=run(whole), __annotations__={"amount": int}, amount=0)


def with_a_command() -> object:
    def note(self: Any, cmd: Note) -> Ended:
        return Ended()

    return made(begin=run(whole), note=command(note))


def unknown_option() -> object:
    class Bad(Saga, step_max=5):  # type: ignore[call-arg]
        begin = run(whole)

    return Bad


def limited(**limits: Any) -> Callable[[], object]:
    return lambda: type(Saga)("Bad", (Saga,), {"__module__": __name__, "begin": run(whole)}, **limits)


@pytest.mark.parametrize(
    ("define", "sentence"),
    [
        (made, "Bad has no @run method, so it can do nothing; write one."),
        (
            lambda: made(one=run(whole), two=run(whole)),
            "@run Bad.two is version 1, and so is Bad.one; give it another.",
        ),
        (
            lambda: made(one=run(whole), two=run(version=2)(of_note)),
            "@run Bad.two takes Note and Bad.one Begin; all versions of a saga begin with one command.",
        ),
        (lambda: made(begin=run(version=0)(whole)), "@run Bad.begin has version=0; use a number from 1 on."),
        (lambda: made(begin=run(plain)), "@run Bad.begin is not async; a saga awaits its steps, so make it an async d"),
        (lambda: made(begin=run(yielding)), "@run Bad.begin yields; a saga awaits its steps, and returns how it ends."),
        (lambda: made(begin=run(run(whole))), "@run Bad.begin is not a plain method; make it an async def."),
        (lambda: made(begin=run(without_context)), r"@run Bad.begin must take \(self, cmd, ctx\)."),
        (lambda: made(begin=run(other_context)), "@run Bad.begin takes 'ctx' as its second argument, which must be a "),
        (lambda: made(begin=run(takes_an_event)), "@run Bad.begin takes Ended as 'cmd', which is not a Command class."),
        (
            lambda: made(begin=run(no_return)),
            "@run Bad.begin has no return annotation; add one, it is what the saga ma",
        ),
        (
            lambda: made(begin=run(returns_nothing)),
            r"@run Bad.begin is annotated to return NoneType; a saga returns Ev",
        ),
        (lambda: made(begin=run(returns_any)), r"@run Bad.begin is annotated to return Command; a saga returns Event"),
        (
            lambda: made(begin=run(without_cancelled)),
            "@run Bad.begin must name Cancelled in its return annotation: every saga can be cancelled.",
        ),
        (with_a_field, "Bad.amount: a saga has no fields; what it knows is in the variables of its code."),
        (with_a_command, "Bad.note is a @command method; a saga has @run methods and signals only."),
        (lambda: made(begin=run(whole), a=signal(Ended)), "signal Bad.a takes Ended, which is no Command class."),
        (lambda: made(begin=run(whole), a=signal(Begin)), "signal Bad.a takes Begin, and so does Bad.begin; a message"),
        (
            lambda: made(begin=run(whole), a=signal(Hurry), b=signal(Hurry)),
            "signal Bad.b takes Hurry, and so does Bad.a; a message has one handler.",
        ),
        (limited(steps_max=0), "Bad: steps_max=0 is no limit; use a whole number above 0."),
        (limited(signals_max=True), "Bad: signals_max=True is no limit; use a whole number above 0."),
        (limited(steps_max=1.5), "Bad: steps_max=1.5 is no limit; use a whole number above 0."),
        (limited(results_kept_s="a day"), "Bad: results_kept_s='a day' is no limit; use a number above 0."),
        (
            unknown_option,
            "Bad: step_max is no option of a saga; it may say steps_max, signals_max, answer_bytes_max, res",
        ),
    ],
)
def test_a_definition_is_refused(define: Callable[[], object], sentence: str) -> None:
    """When the class is defined."""
    with pytest.raises(DefinitionError, match=rf"^{sentence}") as raised:
        define()
    assert str(raised.value).endswith(".")


def test_a_saga_is_not_hosted_at_least_once() -> None:
    """What a turn has sent may leave before its events there, and be sent again."""
    system = ActorSystem("flows", settings=Settings(delivery="at-least-once"))
    system.host(made(begin=run(whole)), partitions=1)
    with pytest.raises(
        ValueError, match=r"flows hosts the saga Bad, which undoes exactly what was applied and .*exact"
    ):
        system.check()


# --- what the code does ---------------------------------------------------------------------------------------


async def elsewhere(seconds: float) -> None:
    """Wait as a coroutine of asyncio does."""
    await asyncio.sleep(seconds)


async def set_elsewhere() -> None:
    """Wait as a coroutine of asyncio does, without a timer."""
    await asyncio.Event().wait()


class Foreign:
    """Can be awaited, and is no step."""

    def __await__(self) -> Any:
        """Yield something."""
        yield 5


async def awaits_what_is_foreign(ctx: SagaContext) -> None:
    await Foreign()


async def awaits_asyncio(ctx: SagaContext) -> None:
    await elsewhere(0)


async def awaits_a_timer_of_asyncio(ctx: SagaContext) -> None:
    await elsewhere(1)


async def asks_itself(ctx: SagaContext) -> None:
    await ctx.ask(Bending.bending, ctx.key, Begin(), undo=None)


async def undoes_by_itself(ctx: SagaContext) -> None:
    await ctx.ask(Store.take, "a", Take(), undo=ctx.call(Bending.bending, ctx.key, Begin()))


async def undoes_by_its_own_signal(ctx: SagaContext) -> None:
    await ctx.ask(Store.take, "a", Take(), undo=ctx.call(Bending.approve, ctx.key, Approve()))


async def calls_without_a_key(ctx: SagaContext) -> None:
    ctx.call(Store.back, Back())  # type: ignore[call-overload]


async def calls_an_effect_with_a_key(ctx: SagaContext) -> None:
    ctx.call(post, "a", Letter())  # type: ignore[call-overload]


async def awaits_an_event_of_asyncio(ctx: SagaContext) -> None:
    await set_elsewhere()


async def catches_the_end_of_a_run(ctx: SagaContext) -> None:
    with contextlib.suppress(BaseException):
        ctx.again(Begin())


async def goes_on_behind_the_end_of_a_run(ctx: SagaContext) -> None:
    with contextlib.suppress(BaseException):
        ctx.again(Begin())
    await ctx.sleep(1)


async def undoes_by_a_closure(ctx: SagaContext) -> None:
    await ctx.ask(Store.take, "a", Take(), undo=lambda: ctx.call(Store.back, "a", Back()))  # type: ignore[call-overload]


async def requires_what_it_may_not_reject(ctx: SagaContext) -> None:
    await ctx.require(Store.back, "a", Back(), undo=None)


async def forgets_to_await(ctx: SagaContext) -> None:
    ctx.ask(Store.take, "a", Take(), undo=None)
    await ctx.sleep(1)


async def forgets_to_await_the_last(ctx: SagaContext) -> None:
    ctx.sleep(1)


async def forgets_to_await_a_gather(ctx: SagaContext) -> None:
    ctx.gather(ctx.sleep(1), ctx.sleep(2))


async def awaits_twice(ctx: SagaContext) -> None:
    step = ctx.ask(Store.note, "a", Note(), undo=None)
    await ctx.first(step, step)


async def takes_an_undeclared_signal(ctx: SagaContext) -> None:
    await ctx.signal(Hurry)


async def gives_a_pivot_a_time_out(ctx: SagaContext) -> None:
    await ctx.ask(Store.take, "a", Take(), undo=PIVOT, timeout_s=5)  # type: ignore[call-overload]


async def races_a_pivot(ctx: SagaContext) -> None:
    await ctx.first(ctx.ask(Store.take, "a", Take(), undo=PIVOT), ctx.sleep(1))


async def races_a_require(ctx: SagaContext) -> None:
    await ctx.first(ctx.require(Store.take, "a", Take(), undo=None), ctx.sleep(1))  # type: ignore[arg-type]


async def gathers_nothing(ctx: SagaContext) -> None:
    await ctx.gather()


async def gathers_what_is_no_step(ctx: SagaContext) -> None:
    await ctx.gather(ctx.sleep(1), ctx.gather(ctx.sleep(1), ctx.sleep(1)))


async def sleeps_backwards(ctx: SagaContext) -> None:
    await ctx.sleep(-1)


async def performs_a_function(ctx: SagaContext) -> None:
    await ctx.perform(elsewhere, Letter(), undo=None)  # type: ignore[arg-type]


async def performs_another_request(ctx: SagaContext) -> None:
    await ctx.perform(post, Note(), undo=None)  # type: ignore[type-var]


async def begins_again_with_another(ctx: SagaContext) -> None:
    ctx.again(Note())


async def begins_again_at_once(ctx: SagaContext) -> None:
    ctx.again(Begin())


async def goes_on_when_it_is_suspended(ctx: SagaContext) -> None:
    try:
        await ctx.sleep(1)
    except BaseException:  # noqa: BLE001
        await Foreign()


async def cleans_up_by_a_step(ctx: SagaContext) -> None:
    try:
        await ctx.sleep(1)
    finally:
        ctx.sleep(1)


CODES: dict[str, Callable[[SagaContext], Any]] = {}


class What(Command):
    """Begin with one of `CODES`."""

    code: str


class Bending(Saga, steps_max=3):
    """Bends the rules."""

    approve = signal(Approve)

    @run
    async def bending(self, _cmd: Begin, ctx: SagaContext) -> Ended | Short | Undelivered | Cancelled:
        """Do what a test wants."""
        await CODES["now"](ctx)
        return Ended()


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (awaits_what_is_foreign, "awaits int, which is no step of a saga; await what ctx returns, and ask the world o"),
        (
            awaits_asyncio,
            "awaits NoneType, which is no step of a saga; await what ctx returns, and ask the world outsid",
        ),
        (
            awaits_a_timer_of_asyncio,
            r"awaits what needs an event loop, and a saga has none; await what ctx returns, suc",
        ),
        (awaits_an_event_of_asyncio, "awaits what needs an event loop, and a saga has none; await what ctx returns"),
        (asks_itself, "asks its own key 'key', which waits for the answer; call a function"),
        (undoes_by_itself, "asks its own key 'key', which waits for the answer; call a function"),
        (undoes_by_its_own_signal, "asks its own key 'key', which waits for the answer; call a function"),
        (calls_without_a_key, "call takes a method, a key and a message, or an effect and a request"),
        (calls_an_effect_with_a_key, "call takes a method, a key and a message, or an effect and a request"),
        (catches_the_end_of_a_run, "catches what ctx.again raises, and goes on; catch Exception at most"),
        (goes_on_behind_the_end_of_a_run, "catches what ctx.again raises, and goes on; catch Exception at most"),
        (
            undoes_by_a_closure,
            r"undo=<function .* is not data that can be written down; use ctx.call\(…\), None or PIV",
        ),
        (
            requires_what_it_may_not_reject,
            "requires Store.back, which may answer Refused; name it in the return annotation, or ask",
        ),
        (
            forgets_to_await,
            r"makes a step that it does not await \(ask store.take 'a'\); await it at once, or in a gather",
        ),
        (forgets_to_await_the_last, r"makes a step that it does not await \(sleep\); await it at once, or in a gather"),
        (forgets_to_await_a_gather, r"makes a step that it does not await \(sleep\); await it at once, or in a gather"),
        (awaits_twice, r"awaits a step twice \(ask store.note 'a'\); make it anew"),
        (takes_an_undeclared_signal, r"Bending has no signal Hurry; declare one: … = signal\(Hurry\)"),
        (gives_a_pivot_a_time_out, "a pivot takes no timeout_s; the saga must know whether it was applied"),
        (races_a_pivot, r"first takes no pivot \(store 'a'\): it could not be undone"),
        (races_a_require, "first takes no require: its rejection would end the saga; use ask"),
        (gathers_nothing, "gather takes at least one step"),
        (gathers_what_is_no_step, r"gather takes steps, such as ctx.ask\(…\), not Gather"),
        (sleeps_backwards, "sleep is a number of seconds from 0 on, not -1"),
        (performs_a_function, "perform takes an @effect function, not <function elsewhere"),
        (performs_another_request, "effect 'tests.post' does not take Note"),
        (begins_again_with_another, "does not take Note, so again cannot begin with it"),
        (begins_again_at_once, "begins again without a step; await one"),
        (goes_on_when_it_is_suspended, "goes on when it is suspended .*; drop its except BaseException and its finall"),
        (cleans_up_by_a_step, "goes on after it was suspended for good; drop its finally and with"),
    ],
)
def test_what_the_code_does_is_refused(
    monkeypatch: pytest.MonkeyPatch, code: Callable[[SagaContext], Any], sentence: str
) -> None:
    """At the step that breaks a rule: nothing is sent and nothing recorded, so mended code can begin."""
    monkeypatch.setitem(CODES, "now", code)
    kit = SagaKit(Bending)
    with pytest.raises(SagaRefused, match=sentence):
        kit.start(Begin())
    assert kit.progress.phase == "new"
    monkeypatch.setitem(CODES, "now", whole_code)
    kit.start(Begin())
    assert kit.outcome == Ended()


async def whole_code(_ctx: SagaContext) -> None:
    """Do nothing."""


def test_a_refusal_cannot_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that catches what it expects would go on as if a step had failed."""

    async def catches(ctx: SagaContext) -> None:
        try:
            await ctx.require(Store.back, "a", Back(), undo=None)
        except Exception:  # noqa: BLE001
            await ctx.sleep(1)

    monkeypatch.setitem(CODES, "now", catches)
    with pytest.raises(SagaRefused, match=r"requires Store.back, which may answer Refused"):
        SagaKit(Bending).start(Begin())


def test_a_value_that_is_not_taken_can_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key may come from who has started the saga."""

    async def catches(ctx: SagaContext) -> None:
        with pytest.raises(ValueError, match="a key has 1 to 255 bytes"):
            ctx.ask(Store.take, "x" * 256, Take(), undo=None)

    monkeypatch.setitem(CODES, "now", catches)
    kit = SagaKit(Bending)
    kit.start(Begin())
    assert kit.outcome == Ended()


def test_returning_nothing() -> None:
    """It is no outcome."""

    async def forgets(self: Any, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
        await ctx.sleep(1)
        return None  # type: ignore[return-value]

    kit = SagaKit(made(begin=run(forgets)))
    kit.start(Begin())
    with pytest.raises(
        ContractViolation, match=r"@run Bad.begin> returned NoneType; its annotation names Ended, Cance"
    ):
        kit.advance(1)
    assert kit.outcome is None


# --- limits ---------------------------------------------------------------------------------------------------


def test_too_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step that is one too many says what to do."""

    async def goes_on(ctx: SagaContext) -> None:
        while True:
            await ctx.sleep(1)

    monkeypatch.setitem(CODES, "now", goes_on)
    kit = SagaKit(Bending)
    kit.start(Begin())
    kit.advance(2)
    with pytest.raises(
        SagaRefused, match=r"would take step 4; steps_max is 3: begin a new run in time, return ctx.again"
    ):
        kit.advance(1)


async def takes_many(self: Any, cmd: Begin, ctx: SagaContext) -> Ended | Failed | Short | Undelivered | Cancelled:
    """Ask many at once."""
    await ctx.gather(*(ctx.ask(Store.take, str(n), Take(), undo=None) for n in range(cmd.number)))
    return Ended()


async def notes_much(self: Any, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
    """Wait for an answer and for signals."""
    answer = await ctx.ask(Store.note, "n", Note(), undo=None)
    return Ended(text=type(answer).__name__)


def limits(code: Any, **given: int) -> type[Saga]:
    """Define a saga with limits."""
    names = {"__module__": __name__, "begin": run(code), "approve": signal(Approve)}
    return type(Saga)("Bad", (Saga,), names, **given)


def test_an_answer_that_is_too_large() -> None:
    """It is named with the step; a build with a higher limit goes on."""
    kit = SagaKit(limits(notes_much, answer_bytes_max=300))
    kit.start(Begin())
    with pytest.raises(
        ContractViolation,
        match=r"answer to step 0 \(store 'n'\) takes 3\d\d bytes; answer_bytes_max of Bad is 300",
    ):
        kit.answer(Undelivered(reason="x" * 300))
    kit.answer(Undelivered(reason="x" * 100))
    assert kit.outcome == Ended(text="Undelivered")


def test_no_room_for_open_answers() -> None:
    """Before a step is sent there is room for its answer; else the step fails, and says what to do."""
    saga = limits(takes_many)
    kit = SagaKit(saga)
    kit.start(Begin(number=15))
    assert len(kit.open) == 15
    with pytest.raises(
        SagaRefused,
        match=r"Bad holds .* waits for 16 answers of up to 65536 bytes \(answer_bytes_max\), more than the .* of a reco"
        r"rd \(output_bytes_max\): begin a new run in time, return ctx.again\(cmd\), or ask fewer at once",
    ):
        SagaKit(saga).start(Begin(number=16))


def test_signals_leave_room_for_open_answers() -> None:
    """One that would not is refused; so is a start that joins, and a cancel that would wait."""
    kit = SagaKit(limits(notes_much, answer_bytes_max=400_000))
    kit.start(Begin())
    large = Approve(by="x" * 100_000)
    for _ in range(5):
        assert kit.signal(large).reply is None
    refused = kit.signal(large).reply
    assert isinstance(refused, TooLate)
    assert "the saga holds as much as it may; 9" in refused.reason
    kit.signal(Approve(by="x" * 95_000))
    while (reply := kit.start(Begin()).reply) is None:
        assert len(kit.progress.starters) < 500
    assert isinstance(reply, TooLate)
    kit.answer(Undelivered(reason="x" * 399_000))
    assert kit.outcome == Ended(text="Undelivered")
    assert kit.reply == Ended(text="Undelivered")


def test_cancels_that_wait_leave_room_for_open_answers() -> None:
    """A pivot under way keeps those who cancel waiting."""

    async def pivots(self: Any, _cmd: Begin, ctx: SagaContext) -> Ended | Cancelled:
        await ctx.ask(Store.take, "p", Take(), undo=PIVOT)
        return Ended()

    kit = SagaKit(limits(pivots, answer_bytes_max=400_000))
    kit.start(Begin())
    for _ in range(11):
        kit.signal(Approve(by="x" * 50_000))
    while (reply := kit.cancel("y" * 5_000).reply) is None:
        assert len(kit.progress.cancellers) < 2_000
    assert len(kit.progress.cancel_reason) == 1_000
    assert isinstance(reply, TooLate)
    kit.answer(Taken())
    assert kit.outcome == Ended()
    assert Done() not in [each for _, each in kit.replies]
