"""``@effect``: what a definition says, its mistakes, and ``ctx.perform``."""

from __future__ import annotations

from typing import Any

import pytest

from repertory import (
    Backoff,
    Command,
    Context,
    ContractViolation,
    DefinitionError,
    Effect,
    EffectContext,
    Entity,
    Event,
    Perform,
    Rejection,
    Request,
    TestKit,
    Undelivered,
    command,
    effect,
    event,
    reply,
)
from repertory.actors import effect as module
from repertory.actors.wire import DecodeError, encode


class Send(Request):
    """Send a mail."""

    to: str


class Other(Request):
    """Something else."""


class Sent(Event):
    """It was sent."""


class Bounced(Rejection):
    """Nobody lives there."""


class Fake(EffectContext):
    """What a test gives an effect."""

    id, epoch, attempt, key = "t.mailer.commands/0/1/0", 1, 1, "k"

    def get(self, kind: type[Any]) -> Any:
        """There is nothing."""
        raise LookupError(kind.__name__)


@effect(timeout_s=10)
async def send(do: Send, fx: EffectContext) -> Sent | Bounced | None:
    """Send it."""
    if do.to == "nobody":
        return Bounced()
    return Sent() if do.to == fx.key else None


@effect(timeout_s=1, attempts=3, backoff=Backoff(first_s=1, factor=1, max_s=1, jitter=0), name="ping-it")
async def ping(do: Other) -> None:
    """Need no context."""


class Mail(Command):
    """Send a mail."""

    to: str
    about: str = ""


class Mailed(Event):
    """It is over."""

    about: str


class Stop(Command):
    """Send a mail and stop."""


class Mailer(Entity):
    """Sends mails."""

    done: int = 0

    @command
    def mail(self, cmd: Mail, ctx: Context) -> None:
        """Perform."""
        ctx.perform(send, Send(to=cmd.to), about=cmd.about)
        ctx.perform(ping, Other())

    @command
    def stop(self, cmd: Stop, ctx: Context) -> None:
        """Perform in the last turn."""
        ctx.perform(send, Send(to="end"))
        ctx.stop()

    @reply
    def mailed(self, evt: Sent | Bounced | Undelivered, ctx: Context) -> Mailed:
        """Take the result."""
        return Mailed(about=ctx.about)

    @event
    def was_mailed(self, evt: Mailed) -> Mailer:
        """Count it."""
        return self.replace(done=self.done + 1)


def finish(made: Any) -> object:
    """Run a coroutine that waits for nothing."""
    with pytest.raises(StopIteration) as ended:
        made.send(None)
    return ended.value.value


# --- definitions ----------------------------------------------------------------------------------------------


def test_an_effect_says_what_it_takes_and_returns() -> None:
    """By its annotations; its name is that of its function, and so it is found."""
    assert (send.name, send.timeout_s, send.attempts) == ("send", 10, 20)
    assert send.signature[:3] == (Send, (Sent, Bounced, type(None)), True)
    assert send.signature.answers == (Sent, Bounced, Undelivered)
    assert (ping.name, ping.attempts, ping.signature.takes_context) == ("ping-it", 3, False)
    assert ping.signature.answers == (Undelivered,)
    assert module.registered("send") is send
    assert module.registered("ping-it") is ping
    assert module.registered("pong") is None


def test_it_is_called_as_its_function() -> None:
    """And begun by the runtime with the bytes of a request."""
    assert finish(send(Send(to="k"), Fake())) == Sent()
    assert finish(ping(Other())) is None
    assert finish(send.begin(encode(Send(to="nobody")), Fake())) == Bounced()
    assert finish(ping.begin(encode(Other()), Fake())) is None
    with pytest.raises(DecodeError):
        send.begin(encode(Other()), Fake())


def test_its_annotations_can_name_what_is_defined_later() -> None:
    """Also in a function."""

    @effect(timeout_s=1)
    async def late(do: Late) -> Later | None:
        return None

    with pytest.raises(DefinitionError, match=r"@effect late has an annotation that names 'Late', which does not"):
        _ = late.signature

    class Late(Request):
        pass

    class Later(Event):
        pass

    assert late.signature.results == (Later, type(None))
    assert late.signature.request is Late


async def no_request(do: Sent) -> None:
    """Take an event."""


async def bare_request(do: Request) -> None:
    """Take anything."""


async def no_annotation(do) -> None:  # type: ignore[no-untyped-def]
    """Take anything."""


async def no_return(do: Send):  # type: ignore[no-untyped-def]
    """Return anything."""


async def bad_return(do: Send) -> int:
    """Return a number."""
    return 1


async def bare_return(do: Send) -> Event:
    """Return any event."""
    return Sent()


async def bad_context(do: Send, fx: Context) -> None:
    """Take an entity's context."""


async def too_many(do: Send, fx: EffectContext, more: int) -> None:
    """Take more."""


async def good(do: Send) -> None:
    """Nothing is wrong."""


def sync(do: Send) -> None:
    """Block."""


@pytest.mark.parametrize(
    ("function", "options", "sentence"),
    [
        (no_request, {}, "takes Sent as 'do', which must be annotated with a Request class"),
        (bare_request, {}, "takes Request as 'do', which must be annotated with a Request class"),
        (no_annotation, {}, "takes None as 'do', which must be annotated with a Request class"),
        (no_return, {}, "has no return annotation; add one, it is what the entity may be answered"),
        (bad_return, {}, "is annotated to return int; an effect returns Event classes, Rejection classes or None"),
        (bare_return, {}, "is annotated to return Event; an effect returns Event classes, Rejection classes or None"),
        (bad_context, {}, "takes 'fx' as its second argument, which must be annotated EffectContext"),
        (too_many, {}, r"must take \(do\) or \(do, fx\): its request, and an EffectContext"),
        (sync, {}, "is not an async function, and would block the others; make it an async def"),
        (good, {"timeout_s": None}, "has timeout_s=None; give the seconds that one attempt may take, up to 86,400"),
        (good, {"timeout_s": 0}, "has timeout_s=0; give"),
        (good, {"timeout_s": True}, "has timeout_s=True; give"),
        (good, {"timeout_s": 90_000}, "has timeout_s=90000; give"),
        (good, {"attempts": 0}, "has attempts=0; use a number from 1 on"),
        (good, {"attempts": 1.5}, "has attempts=1.5; use a number from 1 on"),
        (good, {"backoff": 5}, "has backoff=5; use a Backoff"),
        (good, {"name": ""}, "has name=''; use 1 to 200 printable characters"),
        (good, {"name": "a\0b"}, r"has name='a\\x00b'; use 1 to 200 printable characters"),
        (send, {}, "is decorated twice; drop one of the two"),
    ],
)
def test_mistakes_are_one_sentence(function: Any, options: dict[str, Any], sentence: str) -> None:
    """It names the effect, and what to do."""
    with pytest.raises(DefinitionError, match=rf"^@effect \w+ {sentence}") as raised:
        effect(**{"timeout_s": 1, **options})(function)
    assert str(raised.value).endswith(".")


def test_the_decorator_without_a_time_out() -> None:
    """As it would be written by mistake."""
    bare: Any = effect
    with pytest.raises(DefinitionError, match=r"@effect good has no time-out; write @effect\(timeout_s=…\)\."):
        bare(good)


def test_two_effects_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module can be loaded again, and a script is loaded under two names; two modules cannot share a name."""
    monkeypatch.setattr(module, "_effects", {})

    def define(of: str) -> Effect[Any, Any]:
        async def twin(do: Send) -> None:
            """Have a twin."""

        twin.__module__ = of
        return effect(timeout_s=1)(twin)

    define("one")
    again = define("one")
    with pytest.raises(DefinitionError, match=r"@effect twin of two has the name 'twin', and so has one of one; give"):
        define("two")
    assert module.registered("twin") is again
    assert module.registered("twin") is not define("__main__")
    define("two")


def test_a_backoff_is_the_same_each_time() -> None:
    """It is drawn from the cause and the attempt, and differs between two effects."""
    assert send.delay_s(3, 17, 0) == send.delay_s(3, 17, 0)
    assert send.delay_s(3, 17, 0) != send.delay_s(3, 18, 0)
    assert 4 <= send.delay_s(3, 17, 0) <= 4.8
    assert send.delay_s(50, 17, 0) <= 360


# --- perform --------------------------------------------------------------------------------------------------


def test_the_test_kit_shows_what_is_performed() -> None:
    """A test gives the results by hand; an entity that stops performs too."""
    kit = TestKit(Mailer())
    outcome = kit.run(Mail(to="ann", about="welcome"))
    performed = [Perform(send, Send(to="ann"), "welcome"), Perform(ping, Other())]
    assert list(outcome.later) == performed
    assert kit.performed == performed
    assert kit.run(Sent(), about="welcome").events == (Mailed(about="welcome"),)
    assert kit.run(Undelivered(reason="dropped")).state.done == 2
    assert kit.run(Stop()).stopped
    assert kit.performed[-1] == Perform(send, Send(to="end"))


class Deaf(Entity):
    """Has no @reply method for what it may be answered."""

    @command
    def mail(self, cmd: Mail, ctx: Context) -> None:
        """Perform what it says."""
        if cmd.to == "send":
            ctx.perform(send, Send(to="ann"))
        elif cmd.to == "other":
            ctx.perform(send, Other())  # type: ignore[misc]
        elif cmd.to == "function":
            ctx.perform(good, Send(to="ann"))  # type: ignore[arg-type]
        else:
            ctx.perform(ping, Other())


@pytest.mark.parametrize(
    ("to", "sentence"),
    [
        ("send", "Deaf performs send, which may answer Sent; write a @reply method that takes it"),
        ("ping", "Deaf performs ping-it, which may answer Undelivered; write a @reply method that takes it"),
        ("other", "Deaf performs send with Other, and it takes Send"),
        ("function", "perform takes an @effect function, not <function good"),
    ],
)
def test_perform_fails_at_once(to: str, sentence: str) -> None:
    """If the entity has no method for a possible result, or the request is not that of the effect."""
    with pytest.raises(ContractViolation, match=sentence):
        TestKit(Deaf()).run(Mail(to=to))


def test_about_is_bounded() -> None:
    """It must fit into a header."""
    with pytest.raises(ContractViolation, match="about has at most 255 bytes"):
        TestKit(Mailer()).run(Mail(to="ann", about="x" * 256))
