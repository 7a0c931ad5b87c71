"""The input from outside: the commands of a workload, as tells and asks, and records that are not valid commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from repertory.actors.asks import AUTO
from repertory.actors.control import DropParked, FetchAnswer, RetryParked, Revoke
from repertory.actors.handler import CommandHandler
from repertory.actors.headers import ABOUT, ASK_ID, CORRELATION_ID, MESSAGE_ID, REPLY_TO, Headers, value
from repertory.actors.message import Command, Query
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.query import QueryHandler
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.port import Appender
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.choices import Choices
from repertory.simulation.virtual import EPOCH_MS

AddressedHandler = CommandHandler[Any, Any, Any] | QueryHandler[Any, Any, Any]
#: A handler, a key and a command or a query, as ``Client.tell_all`` takes commands.
ClientCommand = tuple[AddressedHandler, str, Command | Query]

_YEAR_MS = 366 * 86_400_000
#: The version and the variant of a UUID that begins with its time.
_VERSION_7 = 7 << 76 | 2 << 62

#: Commands that no entity can read.
_UNREADABLE = (b"\xc1", b"\x81\xa4type\xa7Unknown", b"")
#: The numbers of ids that are made up beside the workload begin here.
_LATER_IDS = 10_000

#: Correlation ids of the operator begin so.
OPERATOR = b"o-"


class Clients:
    """Sends a workload in bursts. Every third command is an ask, and so is every query but one in seven."""

    def __init__(
        self, system: ActorSystem, appender: Appender, commands: Iterable[ClientCommand], *, ids: bool = False
    ) -> None:
        """``ids``: half of the asks have one, some of them made by a clock that is a year ahead."""
        self._ids = ids
        self._system, self._appender = system, appender
        self._left = deque(commands)
        self._sent: list[Output] = []
        self.count = self._operated = self._repeated = 0
        #: Where the records stand that are not valid commands, as ``topic/partition/offset``.
        self.garbage_places: set[str] = set()
        self._hosted = [
            (topics.commands_topic(system.name, hosted.behaviour.name), hosted.partitions)
            for hosted in system.hosted.values()
        ]

    @property
    def done(self) -> bool:
        """Whether all commands are sent."""
        return not self._left

    def add(self, command: ClientCommand) -> None:
        """Add a command to the workload."""
        self._left.append(command)

    def send(self, commands_max: int) -> None:
        """Append the next commands."""
        outputs: list[Output] = []
        while self._left and len(outputs) < commands_max:
            outputs.append(self._output(*self._left.popleft()))
        if outputs:
            self._appender.append(outputs)
            self._sent += outputs

    def again(self, choices: Choices) -> None:
        """Send again a command that was sent before. An ask with an id may be made by another client, elsewhere."""
        if not self._sent:
            return
        output = self._sent[choices.below(len(self._sent), "again")]
        if value(output.headers, ASK_ID) is not None and choices.below(2, "another-client"):
            self._repeated += 1
            address = {REPLY_TO: self._reply_to(self._repeated), CORRELATION_ID: b"r-%d" % self._repeated}
            headers = tuple((name, address.get(name, found)) for name, found in output.headers)
            output = msgspec.structs.replace(output, headers=headers)
        self._append(output)

    def operate(self, place: TopicPartition, key: str, message: Command) -> None:
        """Append a control command of an operator, who waits for the answers."""
        self._operated += 1
        reply_to = f"{topics.replies_topic(self._system.name)}/{self._operated % topics.REPLIES_PARTITIONS}"
        headers: Headers = ((REPLY_TO, reply_to.encode()), (CORRELATION_ID, OPERATOR + b"%d" % self._operated))
        self._appender.append([Output(*place, key.encode(), encode(message), headers)])

    def garbage(self, choices: Choices, input_bytes_max: int) -> None:
        """Append a record that is not a valid command, or a control command that must be ignored."""
        if self._ids and self._sent and choices.below(3, "with-an-id") == 0:
            self._unreadable(choices)
            return
        topic, partitions = self._hosted[choices.below(len(self._hosted), "topic")]
        partition = choices.below(partitions, "partition")
        kinds = _garbage(input_bytes_max)
        key, value, headers = kinds[choices.below(len(kinds), "garbage")]
        if self._sent and key == b"?":
            known = self._sent[choices.below(len(self._sent), "like")]
            key = known.key
            value = value or known.value
            partition = partition if value is known.value else partition_of(key or b"", partitions)
        (offset,) = self._appender.append([Output(topic, partition, key, value, headers)])
        self.garbage_places.add(f"{topic}/{partition}/{offset}")

    def _unreadable(self, choices: Choices) -> None:
        """Append an ask that cannot be decoded, with a new id or a known one, and perhaps another one with that id.

        That is the same again, or a command that can be decoded. Both may be repeated later.
        """
        known = self._sent[choices.below(len(self._sent), "like")]
        ask_id = value(known.headers, ASK_ID)
        if ask_id is None or choices.below(2, "new-id"):
            ask_id = _id(_LATER_IDS + self._repeated)
        bad = _UNREADABLE[choices.below(len(_UNREADABLE), "unreadable")]
        for data in ((bad,), (bad, bad), (bad, known.value), (known.value, bad))[choices.below(4, "and")]:
            self._repeated += 1
            headers = ((REPLY_TO, self._reply_to(self._repeated)), (CORRELATION_ID, b"r-%d" % self._repeated))
            output = msgspec.structs.replace(known, value=data, headers=(*headers, (ASK_ID, ask_id)))
            self._append(output)
            self._sent.append(output)

    def _append(self, output: Output) -> None:
        (offset,) = self._appender.append([output])
        if output.value in _UNREADABLE:
            self.garbage_places.add(f"{output.topic}/{output.partition}/{offset}")

    def _output(self, handler: AddressedHandler, key: str, message: Command | Query) -> Output:
        hosted = self._system.hosted.get(handler.owner)
        if hosted is None or type(message) not in handler.message_types:
            raise ValueError(
                f"{self._system.name} hosts no entity whose {handler!r} takes {type(message).__name__}: host it, or "
                "correct the workload"
            )
        raw_key = checked_key(key).encode()
        self.count += 1
        headers: Headers = ((MESSAGE_ID, b"s-%d" % self.count),)
        if self.count % 3 == 0 or (isinstance(message, Query) and self.count % 7):
            headers = (*headers, (REPLY_TO, self._reply_to(self.count)), (CORRELATION_ID, b"c-%d" % self.count))
            if self._ids and not isinstance(message, Query) and self.count % 2:
                headers = (*headers, (ASK_ID, _id(self.count)))
        topic = topics.commands_topic(self._system.name, hosted.behaviour.name)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, encode(message), headers)

    def _reply_to(self, number: int) -> bytes:
        return f"{topics.replies_topic(self._system.name)}/{number % topics.REPLIES_PARTITIONS}".encode()


def _id(number: int) -> bytes:
    """Return the id of an ask: of a caller or of its client, and one in seven is made by a clock a year ahead."""
    made_ms = EPOCH_MS + number + (_YEAR_MS if number % 7 == 0 else 0)
    if number % 4 == 1:
        return b"%d/order-%d" % (made_ms, number)
    return f"{AUTO}{UUID(int=made_ms << 80 | _VERSION_7 | number)}".encode()


def _garbage(input_bytes_max: int) -> Sequence[tuple[bytes | None, bytes | None, Headers]]:
    """Return key, value and headers of each kind. ``?`` stands for the key of a sent command, b"" for its value."""
    asked: Headers = ((REPLY_TO, b"no.such.topic/0"), (CORRELATION_ID, b"c"))
    return (
        (b"k", b"\xc1", ()),
        (None, encode(RetryParked(offset=0)), ()),
        (b"k", None, ()),
        (b"\xff\xfe", b"\x80", ()),
        (b"", b"\x80", ()),
        (b"a\0b", b"\x80", ()),
        (b"x" * 300, b"\x80", ()),
        (b"k", b"\x81\xa4type\xa7Unknown", ()),
        (b"k", b"\x91" * 200 + b"\x00", ()),
        (b"k", b"\xdd\xff\xff\xff\xff", ()),
        (b"k", b"\x81\xa4type", ()),
        (b"k", b"\0" * (input_bytes_max + 1), ()),
        (b"?", b"", asked),
        (b"?", b"", ((ABOUT, b"x" * 300),)),
        (b"?", b"", ()),
        (b"?", encode(RetryParked(offset=1)), ()),
        (b"?", encode(DropParked(offset=2, reason="simulated")), ()),
        (b"?", encode(FetchAnswer(id="nobody's", made_at_ms=0)), ()),
        (b"?", encode(Revoke(id="nobody's", made_at_ms=1 << 62)), ()),
    )


#: Makes the commands of one run from its random numbers.
Generator = Callable[[Any], Iterable[ClientCommand]]
