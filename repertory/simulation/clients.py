"""The input from outside: the commands of a workload, as tells and asks, and records that are not valid commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from repertory.actors.control import DropParked, FetchAnswer, RetryParked, Revoke
from repertory.actors.handler import CommandHandler
from repertory.actors.headers import ABOUT, CORRELATION_ID, MESSAGE_ID, REPLY_TO, Headers
from repertory.actors.message import Command, Query
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.query import QueryHandler
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.port import Appender
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.choices import Choices

AddressedHandler = CommandHandler[Any, Any, Any] | QueryHandler[Any, Any, Any]
#: A handler, a key and a command or a query, as ``Client.tell_all`` takes commands.
ClientCommand = tuple[AddressedHandler, str, Command | Query]

#: Correlation ids of the operator begin so.
OPERATOR = b"o-"


class Clients:
    """Sends a workload in bursts. Every third command is an ask, and so is every query but one in seven."""

    def __init__(self, system: ActorSystem, appender: Appender, commands: Iterable[ClientCommand]) -> None:
        self._system, self._appender = system, appender
        self._left = deque(commands)
        self._sent: list[Output] = []
        self.count = self._operated = 0
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
        """Send again a command that was sent before."""
        if self._sent:
            self._appender.append([self._sent[choices.below(len(self._sent), "again")]])

    def operate(self, place: TopicPartition, key: str, message: Command) -> None:
        """Append a control command of an operator, who waits for the answers."""
        self._operated += 1
        reply_to = f"{topics.replies_topic(self._system.name)}/{self._operated % topics.REPLIES_PARTITIONS}"
        headers: Headers = ((REPLY_TO, reply_to.encode()), (CORRELATION_ID, OPERATOR + b"%d" % self._operated))
        self._appender.append([Output(*place, key.encode(), encode(message), headers)])

    def garbage(self, choices: Choices, input_bytes_max: int) -> None:
        """Append a record that is not a valid command, or a control command that must be ignored."""
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
            reply_to = f"{topics.replies_topic(self._system.name)}/{self.count % topics.REPLIES_PARTITIONS}"
            headers = (*headers, (REPLY_TO, reply_to.encode()), (CORRELATION_ID, b"c-%d" % self.count))
        topic = topics.commands_topic(self._system.name, hosted.behaviour.name)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, encode(message), headers)


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
