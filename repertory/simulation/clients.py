"""What comes in from outside: the commands of a workload, asked or told, and records that are no commands."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from repertory.actors.control import DropParked, RetryParked
from repertory.actors.handler import CommandHandler
from repertory.actors.headers import Headers
from repertory.actors.message import Command
from repertory.actors.placement import checked_key, partition_of
from repertory.actors.wire import encode
from repertory.bridge import topics
from repertory.bridge.log.port import Appender
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.choices import Choices

#: Whom to tell, its key, and what, as ``Client.tell_all`` takes it.
ClientCommand = tuple[CommandHandler[Any, Any, Any], str, Command]


class Clients:
    """Sends a workload in bursts. Every third command is asked: somebody waits for an answer."""

    def __init__(self, system: ActorSystem, appender: Appender, commands: Iterable[ClientCommand]) -> None:
        self._system, self._appender = system, appender
        self._left = deque(commands)
        self._sent: list[Output] = []
        self.count = 0
        self._hosted = [
            (topics.commands_topic(system.name, hosted.behaviour.name), hosted.partitions)
            for hosted in system.hosted.values()
        ]

    @property
    def done(self) -> bool:
        """Whether all is sent."""
        return not self._left

    def add(self, told: ClientCommand) -> None:
        """Have one more command to send."""
        self._left.append(told)

    def send(self, commands_max: int) -> None:
        """Append the next commands."""
        outputs: list[Output] = []
        while self._left and len(outputs) < commands_max:
            outputs.append(self._output(*self._left.popleft()))
        if outputs:
            self._appender.append(outputs)
            self._sent += outputs

    def again(self, choices: Choices) -> None:
        """Append a command once more that was sent before."""
        if self._sent:
            self._appender.append([self._sent[choices.below(len(self._sent), "again")]])

    def operate(self, place: TopicPartition, key: str, message: Command) -> None:
        """Append what an operator tells a shard."""
        self._appender.append([Output(*place, key.encode(), encode(message))])

    def garbage(self, choices: Choices, input_bytes_max: int) -> None:
        """Append something that is no command, or one that must not be obeyed."""
        topic, partitions = self._hosted[choices.below(len(self._hosted), "topic")]
        partition = choices.below(partitions, "partition")
        kinds = _garbage(input_bytes_max)
        key, value, headers = kinds[choices.below(len(kinds), "garbage")]
        if self._sent and key == b"?":
            known = self._sent[choices.below(len(self._sent), "like")]
            key = known.key
            value = value or known.value
            partition = partition if value is known.value else partition_of(key or b"", partitions)
        self._appender.append([Output(topic, partition, key, value, headers)])

    def _output(self, handler: CommandHandler[Any, Any, Any], key: str, message: Command) -> Output:
        hosted = self._system.hosted.get(handler.owner)
        if hosted is None or type(message) not in handler.message_types:
            raise ValueError(f"{self._system.name} hosts no entity whose {handler!r} takes {type(message).__name__}")
        raw_key = checked_key(key).encode()
        self.count += 1
        headers: Headers = (("message-id", b"s-%d" % self.count),)
        if self.count % 3 == 0:
            reply_to = f"{topics.replies_topic(self._system.name)}/{self.count % topics.REPLIES_PARTITIONS}"
            headers = (*headers, ("reply-to", reply_to.encode()), ("correlation-id", b"c-%d" % self.count))
        topic = topics.commands_topic(self._system.name, hosted.behaviour.name)
        return Output(topic, partition_of(raw_key, hosted.partitions), raw_key, encode(message), headers)


def _garbage(input_bytes_max: int) -> Sequence[tuple[bytes | None, bytes | None, Headers]]:
    """Return key, value and headers of each kind; a key of ``?`` is that of a command, a value of b"" its value."""
    asked: Headers = (("reply-to", b"no.such.topic/0"), ("correlation-id", b"c"))
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
        (b"?", b"", (("about", b"x" * 300),)),
        (b"?", b"", ()),
        (b"?", encode(RetryParked(offset=1)), ()),
        (b"?", encode(DropParked(offset=2, reason="simulated")), ()),
    )


#: Makes the commands of one run from its random numbers.
Generator = Callable[[Any], Iterable[ClientCommand]]
