"""The header names of records, and how a header is looked up. Names and values are UTF-8.

Every record that a shard writes has a `CAUSE`: ``topic/partition/offset/index`` of the command that made it and its
index among that command's outputs. A cause is unique within a system.
"""

from __future__ import annotations

from typing import Final

#: Names and values, in order; names are UTF-8 without NUL (librdkafka takes them as C strings), and may repeat.
Headers = tuple[tuple[str, bytes], ...]
Header = tuple[str, bytes]

CAUSE: Final = "cause"

# Journal and state records: the number of the record within its shard, and within its entity's life.
SEQ: Final = "seq"
VERSION: Final = "version"

# Asked commands and their replies. A reply repeats these headers of its command.
MESSAGE_ID: Final = "message-id"
REPLY_TO: Final = "reply-to"
REPLY_KEY: Final = "reply-key"
CORRELATION_ID: Final = "correlation-id"
ABOUT: Final = "about"
#: The id of an ask from outside: ``{made_at_ms}/{id}``, or ``auto/{uuid7}`` for one that the client makes.
ASK_ID: Final = "ask-id"
#: Of a command that a timer sent: ``offset/index/due_ms/name`` (`FiredTimer`).
TIMER: Final = "timer"
#: Of a command that brings the result of an effect: the name of the effect.
EFFECT: Final = "effect"
#: Of what a shard sends later: the cause of what scheduled it. Its own cause is that of a changelog record.
BECAUSE: Final = "because"
#: Of a command that a source's relay appended, ``name/partition/offset/index`` of the foreign record; of a record that
#: could not be relayed, without the index. It has no cause.
SOURCE: Final = "source"
#: Of an answer to the step of a saga: it says that nothing was applied.
REJECTED: Final = "rejected"
#: A command with one of these headers is an ask.
ASKED: Final = frozenset({REPLY_TO, REPLY_KEY})

# Replies to clients: up to where the shard had come with the command, and whether the answer was given before.
POSITION: Final = "position"
AGAIN: Final = "again"

# Dead letters, beside the headers of the command that failed.
ERROR_TYPE: Final = "error-type"
ERROR_MESSAGE: Final = "error-message"
#: Left out if no user code failed.
ERROR_TRACEBACK: Final = "error-traceback"
ATTEMPTS: Final = "attempts"
SOURCE_TOPIC: Final = "source-topic"
SOURCE_PARTITION: Final = "source-partition"
SOURCE_OFFSET: Final = "source-offset"
#: Of a foreign record that could not be relayed: since 1970 (UTC), in ms.
SOURCE_TIMESTAMP: Final = "source-timestamp"
#: The headers that a dead letter adds.
_ORIGIN_OF_LETTER = (SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET, SOURCE_TIMESTAMP)
DEAD_LETTER: Final = frozenset({CAUSE, ERROR_TYPE, ERROR_MESSAGE, ERROR_TRACEBACK, ATTEMPTS, *_ORIGIN_OF_LETTER})
KEPT_PREFIX: Final = "source-"
#: A dead letter that an operator retries: ``topic/partition/offset`` of the dead letter.
RETRY_OF: Final = "retry-of"
#: Beside it: ``topic/partition/correlation-id`` of the operator who waits for the outcome, in the replies topic.
RETRY_TO: Final = "retry-to"

#: The headers that say where a command comes from: who asked, which operator retried it, which timer sent it.
ORIGIN: Final = frozenset({REPLY_TO, REPLY_KEY, CORRELATION_ID, ABOUT, RETRY_TO, RETRY_OF, ASK_ID, TIMER, REJECTED})

# At least once (``bridge.nontransactional``): the number of the owner that wrote a record, and the position of a
# journal record within its turn, ``index/count``. The last record of a turn names the next command.
EPOCH: Final = "epoch"
TURN: Final = "turn"
NEXT: Final = "next"


def value(headers: Headers, name: str) -> bytes | None:
    """Return the value of the last header of that name (Kafka's rule for repeated names), else None."""
    found = None
    for header, each in headers:
        if header == name:
            found = each
    return found


def kept(name: str) -> str:
    """Return the name under which a dead letter keeps a header of its command; :func:`restored` undoes it.

    A name that the dead letter needs itself gets `KEPT_PREFIX`, and so does one that would be taken for such a name.
    Like the cause, the epoch is that of the command's sender.
    """
    return f"{KEPT_PREFIX}{name}" if _is_renamed(name) else name


def restored(name: str) -> str:
    """Return the name of a command's header that its dead letter keeps under another name."""
    short = name.removeprefix(KEPT_PREFIX)
    return short if short != name and _is_renamed(short) else name


def _is_renamed(name: str) -> bool:
    while name not in DEAD_LETTER and name != EPOCH:
        if not name.startswith(KEPT_PREFIX):
            return False
        name = name.removeprefix(KEPT_PREFIX)
    return True
