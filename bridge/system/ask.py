"""One ask under way, from its command to its answer: what is sent, what a reply means, and when it is sent again.

Pure: the client says what the time is. Before it comes ``client_core``, which makes one; after it ``asking``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from repertory.actors.asks import AUTO, AskId, Position
from repertory.actors.headers import AGAIN, ASK_ID, CORRELATION_ID, MESSAGE_ID, POSITION, REPLY_TO, Headers
from repertory.actors.message import Answer, ClockAhead, Event, IdConflict, Message, Rejection, TooOld, Undelivered
from repertory.actors.wire import DecodeError, MessageDecoder
from repertory.bridge.log.errors import ClientClosed, IdTooOld, LogError, LogUnavailable, OutcomeUnknown
from repertory.bridge.log.record import Output, Record, TopicPartition

A_co = TypeVar("A_co", covariant=True)

#: The time that an ask waits for its answer if the caller does not say.
TIMEOUT_S = 5.0
#: Pauses before an append of unknown outcome is repeated.
_DOUBT_FIRST_S, _DOUBT_MAX_S = 0.05, 1.0
#: A missing answer: the command is in the log, and only its reply can be lost. So it is sent again once, after this
#: part of the time-out: a shard that moves has answered by then, and a shard with a backlog gets little more of it.
_MISSING_PART = 0.5

#: What an ask can be answered, whatever its handler returns: the command is not applied.
NotApplied = Undelivered | IdConflict | ClockAhead


class AskOptions(TypedDict, total=False):
    """The options of ``ask`` and ``ask_result``.

    ``timeout_s``: how long to wait for the answer, 5 s by default, ``ask_timeout_max_s`` at most. ``id``: with it, the
    same ask may be made again, by any client, and is applied at most once. ``repeat``: False asks without any id, so
    the client sends the command once only.
    """

    timeout_s: float
    id: AskId | None
    repeat: bool


class AskResult(msgspec.Struct, Generic[A_co], frozen=True):
    """An answer. ``position``: up to where the shard had come with the command, None if the shard does not say.

    ``again``: the shard had given this answer before, to an earlier ask with the same id.
    """

    value: A_co
    position: Position | None = None
    again: bool = False


class Doubt(NamedTuple):
    """What to say where no answer came to a query, or to a request about an ask by its id: both may be repeated.

    ``unknown`` follows the handler and the key; ``then`` is what to do. ``about``: the id of that ask.
    """

    unknown: str
    then: str
    about: AskId | None = None


class IdRefused(Exception):
    """A shard has refused the id that the client made, for its time; ``log_ms`` is one that it would have taken.

    It is not raised: ``ClientCore.steps`` asks again, or raises what ``Ask.refused`` says.
    """

    def __init__(self, value: TooOld | ClockAhead) -> None:
        super().__init__(value.reason)
        self.value, self.log_ms = value, value.log_ms


class AskTerms(msgspec.Struct, frozen=True):
    """The options of one ask, checked. ``made_id``: the id that the client made; at most one of the two is there."""

    timeout_s: float = TIMEOUT_S
    id: AskId | None = None
    made_id: str = ""
    #: It may be repeated without an id.
    doubt: Doubt | None = None

    @property
    def headers(self) -> Headers:
        """The header with the id."""
        if self.id is not None:
            return ((ASK_ID, self.id.header),)
        return ((ASK_ID, f"{AUTO}{self.made_id}".encode()),) if self.made_id else ()


def terms_of(options: Mapping[str, object], timeout_max_s: float, new_id: str) -> AskTerms:
    """Check the options of an ask; ``new_id`` is its id if it has none and may be repeated. Raises ValueError."""
    if strange := options.keys() - AskOptions.__annotations__.keys():
        raise TypeError(f"an ask has no option {min(strange)!r}; it has timeout_s, id and repeat")
    timeout_s, ask_id, repeat = options.get("timeout_s", TIMEOUT_S), options.get("id"), options.get("repeat", True)
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, int | float) or not 0 < timeout_s < math.inf:
        raise ValueError(f"timeout_s is a number of seconds above 0, not {timeout_s!r:.100}")
    if timeout_s > timeout_max_s:
        raise ValueError(
            f"timeout_s={timeout_s:g} is over {timeout_max_s:g} s (ask_timeout_max_s): ask for less, and with an id of "
            "your own ask again later"
        )
    if ask_id is not None and not isinstance(ask_id, AskId):
        raise ValueError(f"id is an AskId(id, made_at=…), not {type(ask_id).__name__}")
    if not isinstance(repeat, bool):
        raise ValueError(f"repeat is True or False, not {repeat!r:.100}")  # noqa: TRY004
    if not repeat and ask_id is not None:
        raise ValueError("repeat=False asks without an id; give one of the two")
    return AskTerms(float(timeout_s), ask_id, new_id if repeat and ask_id is None else "")


class Ask:
    """One ask under way. Its call owns it; the thread that reads replies calls ``take``, and who closes ``fail``.

    ``answer`` is done at the answer, or when the ask has failed. It has had ``attempts`` appends.
    """

    def __init__(self, command: Output, decoder: MessageDecoder, terms: AskTerms, now_s: float, what: str) -> None:
        """``command``: with its message id; ``what`` names handler and key in messages."""
        self.terms, self.what = terms, what
        self.deadline_s = now_s + terms.timeout_s
        self.answer: Future[AskResult[Message]] = Future()
        self.answer.set_running_or_notify_cancel()  # From here on nobody can cancel it.
        self.attempts = 0
        self._command, self._decoder = command, decoder
        self._may_repeat = terms.id is not None or bool(terms.made_id) or terms.doubt is not None
        self._doubts, self._note = 0, ""
        #: When the command is sent again, unless an answer has come.
        self.again_s = math.inf

    def renewed(self, message_id: str, made_id: str) -> Ask:
        """Return the same ask with another id and another reply address: a late reply to this one is not its answer."""
        command = msgspec.structs.replace(self._command, headers=((MESSAGE_ID, message_id.encode()),))
        renewed = Ask(command, self._decoder, msgspec.structs.replace(self.terms, made_id=made_id), 0.0, self.what)
        renewed.deadline_s = self.deadline_s
        return renewed

    @property
    def message_id(self) -> str:
        """The message id of the command, of all its attempts."""
        return (dict(self._command.headers)[MESSAGE_ID]).decode()

    @property
    def correlation_id(self) -> bytes:
        """The id by which its reply is found."""
        return dict(self._command.headers)[MESSAGE_ID]

    def output(self, replies: TopicPartition) -> Output:
        """Return the command, the same at each attempt; the reply goes to the partition ``replies``."""
        asked = ((CORRELATION_ID, self.correlation_id), (REPLY_TO, str(replies).encode()))
        headers = (*self._command.headers, *asked, *self.terms.headers)
        return msgspec.structs.replace(self._command, headers=headers)

    def left_s(self, now_s: float) -> float:
        """Return the seconds until the deadline, 0 after it."""
        return max(0.0, self.deadline_s - now_s)

    # --- the outcome of an append -----------------------------------------------------------------------------

    def appended(self, error: BaseException | None, now_s: float) -> None:
        """Take the outcome of an attempt, and set ``again_s``. Raises ``error`` if no attempt can be in the log."""
        self.again_s = math.inf
        match error:
            case None:
                pause_s = _MISSING_PART * self.terms.timeout_s * self.attempts
            case LogUnavailable() | OutcomeUnknown() if self.attempts > 1 or isinstance(error, OutcomeUnknown):
                self._note = str(error)
                pause_s = min(_DOUBT_FIRST_S * 2**self._doubts, _DOUBT_MAX_S)
                self._doubts = min(self._doubts + 1, 10)
            case LogError() if self.attempts > 1:  # An earlier attempt may be in the log; this one never will.
                self._note = str(error)
                return
            case _:
                raise error
        if self._may_repeat:
            self.again_s = now_s + pause_s

    # --- the reply --------------------------------------------------------------------------------------------

    def take(self, reply: Record) -> None:
        """Take a reply with its correlation id. Anybody may write to the topic: what cannot be decoded is ignored."""
        try:
            value: Message = self._decoder.decode(reply.value or b"")
        except DecodeError as error:
            self._note = f"the reply {reply.place} cannot be read: {error}"
            return
        if isinstance(value, TooOld | ClockAhead) and self.terms.made_id and value.log_ms > 0:
            self.fail(IdRefused(value))
            return
        if isinstance(value, TooOld):
            self.fail(self._too_old(value))
            return
        result = AskResult(value, _position(reply), reply.header(AGAIN) == b"1")
        with suppress(InvalidStateError):  # A second reply, or the client was closed.
            self.answer.set_result(result)

    def fail(self, error: BaseException) -> None:
        """End it without an answer, unless it has one."""
        with suppress(InvalidStateError):
            self.answer.set_exception(error)

    def id_refused(self) -> IdRefused | None:
        """Return the refusal of the id that the client made, if that is how it has ended."""
        error = self.answer.exception() if self.answer.done() else None
        return error if isinstance(error, IdRefused) else None

    def refused(self, refusal: IdRefused) -> OutcomeUnknown:
        """Return the error for an ask whose id is refused, while another attempt with the same id may be applied."""
        if isinstance(refusal.value, TooOld):
            return self._too_old(refusal.value)
        return self._outcome_unknown(f"the shard refused the id that the client made: {refusal}")

    def _too_old(self, value: TooOld) -> IdTooOld:
        why = f": {value.reason}" if value.reason else ""
        text = f"{self.what} may be applied: its id is too old for the shard to remember it{why}"
        about = self.terms.id if self.terms.doubt is None else self.terms.doubt.about
        return IdTooOld(text, self.message_id, about)

    def closed(self) -> None:
        """End it because its client is closed."""
        if not self.attempts:
            self.fail(ClientClosed(f"nothing was appended: the client of {self.what} was closed"))
        self.fail(self._outcome_unknown("its client was closed before the answer"))

    def unsent(self, why: str) -> LogUnavailable:
        """Return the error for an ask whose time is over before its command was sent."""
        return LogUnavailable(f"nothing was appended: {self.what} had {self.terms.timeout_s:g} s, and {why}")

    def interrupted(self, error: BaseException) -> OutcomeUnknown:
        """Return the error for an ask whose system, which its caller drives, has failed."""
        return self._outcome_unknown(f"the worker failed: {error}")

    def unanswered(self) -> OutcomeUnknown:
        """Return the error for an ask whose time is over."""
        note = f" ({self._note})" if self._note else ""
        return self._outcome_unknown(f"no answer came within {self.terms.timeout_s:g} s{note}")

    def misunderstood(self, answer: Message) -> OutcomeUnknown:
        """Return the error for a shard that gave an answer of another kind, as one of another version does."""
        return self._outcome_unknown(f"the shard answered {answer!r:.300}")

    def _outcome_unknown(self, why: str) -> OutcomeUnknown:
        if (doubt := self.terms.doubt) is not None:
            return OutcomeUnknown(f"{self.what} {doubt.unknown}: {why}; {doubt.then}", self.message_id, doubt.about)
        if self.terms.id is not None:
            then = f"ask again with the same id, {self.terms.id.id!r}, and its made_at: it is applied at most once"
        else:
            then = "read the state before asking again, or give each ask an id of your own: id=AskId(…, made_at=…)"
        text = f"{self.what} may be applied, now or later: {why}; {then}"
        return OutcomeUnknown(text, self.message_id, self.terms.id)


def answers_of(messages: Iterable[type[Message]]) -> MessageDecoder:
    """Return the decoder of the answers of an entity, from all its messages.

    A kept sender may be answered by another handler than the one that was asked, so it reads the answers of them all.
    """
    return MessageDecoder(each for each in messages if issubclass(each, (Event, Rejection, Answer, TooOld)))


def _position(reply: Record) -> Position | None:
    try:
        return Position.parse((reply.header(POSITION) or b"").decode())
    except ValueError:  # Not there, or written by somebody else.
        return None
