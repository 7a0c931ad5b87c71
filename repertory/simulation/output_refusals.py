"""``OutputRefusals``: the outputs that the simulated log refuses for good, as a broker does."""

from __future__ import annotations

from collections.abc import Sequence

from repertory.actors.headers import BECAUSE, CAUSE, TIMER, value
from repertory.actors.shard.changelog import CHANGELOG_INDEX
from repertory.bridge.log.port import Append, OutputsRefused, Transaction
from repertory.bridge.log.record import Output
from repertory.simulation.clients import OPERATOR


class OutputRefusals:
    """Shared by all logs of one run. What is refused once is refused each time, whoever sends it.

    Only outputs that were never sent before are chosen: at least once, they could be written already. The records of
    what became of a command are not refused: that would rightly stop its shard. Nor are answers to the operator:
    requests are carried out without them, but ``verify`` misses them.
    """

    def __init__(self, dead_letters: str, replies: str) -> None:
        """``dead_letters`` and ``replies``: their topics."""
        self._dead_letters, self._replies = dead_letters, replies
        #: How many more outputs are to be chosen.
        self.armed = 0
        #: The commands whose outputs are refused, by cause.
        self.commands: set[str] = set()
        self._refused: set[tuple[str, bytes, bytes | None]] = set()
        self._sent: set[bytes] = set()

    def refusal(self, sent: Transaction | Append) -> OutputsRefused | None:
        """Return the refusal of a transaction or an append, None if nothing in it is refused."""
        records = sent.records if isinstance(sent, Transaction) else [*sent.outputs, *sent.journal]
        dead = {_command(each) for each in records if each.topic == self._dead_letters}
        outputs = [
            each for each in records
            if _is_output(each) and _command(each) not in dead
            and not (each.topic == self._replies and (each.key or b"").startswith(OPERATOR))
        ]  # fmt: skip
        self._choose(outputs)
        self._sent.update(_cause(output) for output in outputs)
        first = next((output for output in outputs if _identity(output) in self._refused), None)
        if first is None:
            return None
        place = (first.topic, first.partition)
        batch = [output for output in outputs if (output.topic, output.partition) == place]
        return OutputsRefused(sent.shard, batch, f"simulated: {first.topic} refuses a record", len(batch) == 1)

    def _choose(self, outputs: Sequence[Output]) -> None:
        for output in outputs if self.armed else ():
            command = _command(output)
            if self.armed and _cause(output) not in self._sent and command not in self.commands:
                self.armed -= 1
                self._refused.add(_identity(output))
                self.commands.add(command)


def _is_output(output: Output) -> bool:
    return _index(output) < CHANGELOG_INDEX or value(output.headers, BECAUSE) is not None


def _cause(output: Output) -> bytes:
    """Return the cause of an output; of what was due, that of what scheduled it and when it was due."""
    because = value(output.headers, BECAUSE)
    if because is None:
        return value(output.headers, CAUSE) or b""
    return because + (value(output.headers, TIMER) or b"").replace(b"/", b".") + b"/0"


def _command(output: Output) -> str:
    return _cause(output).rpartition(b"/")[0].decode()


def _index(output: Output) -> int:
    return int((value(output.headers, CAUSE) or b"").rpartition(b"/")[2])


def _identity(output: Output) -> tuple[str, bytes, bytes | None]:
    return output.topic, _cause(output), output.value
