"""The headers that records carry: their names, and how one is looked up. Names and values are UTF-8.

Everything that a shard writes carries `CAUSE`: ``topic/partition/offset/index`` of the command that made it and its
place among that command's outputs. It is unique over all that a system writes.
"""

from __future__ import annotations

from typing import Final

#: Names and values, in order; names are UTF-8 without NUL (librdkafka takes them as C strings), and may repeat.
Headers = tuple[tuple[str, bytes], ...]
Header = tuple[str, bytes]

CAUSE: Final = "cause"

# Of journal and state records: the number of the record within its shard, and within its entity's life.
SEQ: Final = "seq"
VERSION: Final = "version"

# Of commands that are asked, and of their replies. What an asked command carries comes back with the reply.
MESSAGE_ID: Final = "message-id"
REPLY_TO: Final = "reply-to"
REPLY_KEY: Final = "reply-key"
CORRELATION_ID: Final = "correlation-id"
ABOUT: Final = "about"
#: Headers by which somebody waits for a reply.
ASKED: Final = frozenset({REPLY_TO, REPLY_KEY})
#: Headers that say whom a reply goes to.
ADDRESS: Final = frozenset({REPLY_TO, REPLY_KEY, CORRELATION_ID, ABOUT})

# Of dead letters, beside the headers of the command that failed.
ERROR_TYPE: Final = "error-type"
ERROR_MESSAGE: Final = "error-message"
ATTEMPTS: Final = "attempts"
SOURCE_TOPIC: Final = "source-topic"
SOURCE_PARTITION: Final = "source-partition"
SOURCE_OFFSET: Final = "source-offset"
#: What a dead letter has of its own. A header of the command that has one of these names is kept with `KEPT_PREFIX`.
DEAD_LETTER: Final = frozenset(
    {CAUSE, ERROR_TYPE, ERROR_MESSAGE, ATTEMPTS, SOURCE_TOPIC, SOURCE_PARTITION, SOURCE_OFFSET}
)
KEPT_PREFIX: Final = "source-"
#: Of a dead letter that an operator retries: ``topic/partition/offset`` of the dead letter.
RETRY_OF: Final = "retry-of"

# At least once (``bridge.nontransactional``): the number of the owner that wrote a record, and the place of a journal
# record within its turn, ``index/count``; the turn's last one names the next command.
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
