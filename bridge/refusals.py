"""``Refusals``: finds the command whose outputs the log refuses for good, so that it stops no other.

Pure. A refused turn wrote nothing, and would be refused again. The log names the records that it may have refused. If
they are all of one command, that command is judged by its entity's policy instead of being handled once more, as if its
handler had raised OutputRefused. If a broker refused the records of several commands together, the next turns take half
as many commands: they commit, or one is refused with fewer. So the command is found after as many refusals as the
logarithm of a batch. What was due and is sent later is blamed like a command, by the key of its record, and becomes a
dead letter. At least once, the commands of turns without a transaction come again before it. What is found is
kept in memory until it is committed; another owner of the shard finds it again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from repertory.actors.context import OutputRefused
from repertory.actors.headers import CAUSE, value
from repertory.actors.shard.changelog import CHANGELOG_INDEX
from repertory.actors.shard.turn_result import TurnResult
from repertory.bridge.codec import Codec, first_fired
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output
from repertory.supervision import Directive, Failure


class Refusals:
    """The refusals of one assigned shard, which owns it."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._reasons: dict[int | str, str] = {}
        #: The guilty command is among so many of the next ones (0: none is searched for); how many a turn takes.
        self._suspected = self._most = 0
        #: How many commands have been handled since the last transaction: the shard may have to begin there again.
        self._undone = 0

    @property
    def reasons(self) -> Mapping[int | str, str]:
        """The commands (offsets) that are judged instead of handled, and why their outputs were refused.

        And the timers and delayed messages (keys of their records) that are given up instead of sent.
        """
        return self._reasons

    @property
    def records_max(self) -> int | None:
        """The most commands that the next turn takes, or timers that it fires; None: as many as usual."""
        return self._most if self._suspected else None

    def blame(self, refused: OutputsRefused, result: TurnResult, shard: str) -> Failure | None:
        """Search the guilty commands of a refused turn; return the failure of the shard if it cannot go on."""
        commands = {self._command(output, result) for output in refused.outputs} - {-1}
        size = result.handled + len(result.fired)
        if len(commands) > 1 and size > 1 and not refused.all_refused:
            # An operator's command that drops an effect counts twice: itself, and what its entity is answered.
            taken = min(size, self._most) if self._suspected else size
            self._suspected, self._most, self._undone = self._undone + size, max(1, taken // 2), 0
            return None
        why = ""
        if not commands:
            why = "the record is the shard's own"
        elif judged := commands & self._reasons.keys():
            why = f"it is the record of what became of {_named(judged)}, refused before"
        elif any(output.topic == self._codec.dead_letters for output in refused.outputs):
            why = f"it is the dead letter of {_named(commands)}"
        if why:
            failure = Failure.of(OutputRefused(f"{refused.reason}; {why}: correct the topic, then restart"), shard)
            return msgspec.structs.replace(failure, directive=Directive.STOP, traceback="")
        self._reasons.update(dict.fromkeys(commands, refused.reason))
        self._suspected = self._undone = 0
        return None

    def committed(self, result: TurnResult) -> None:
        """Note that a turn is committed: none of its commands is guilty, and the fate of those found is recorded."""
        self._suspected = max(0, self._suspected - result.handled - len(result.fired))
        self._undone = self._undone + result.handled if result.nontransactional else 0
        for offset in result.refused:
            del self._reasons[offset]

    def _command(self, output: Output, result: TurnResult) -> int | str:
        """Return the offset of the command that made a record, or the key of what is sent later.

        -1 for a record of the shard itself.
        """
        if output.topic == self._codec.state:
            return next((each.offset for each in result.changelog if each.key.encode() == output.key), -1)
        _, offset, index = (value(output.headers, CAUSE) or b"").rsplit(b"/", 2)
        if int(index) < CHANGELOG_INDEX:
            return int(offset)
        return result.fired[int(index) - first_fired(result)].place


def _named(commands: Iterable[int | str]) -> str:
    """Return a name of one of them."""
    first = min(commands, key=str)
    return f"command {first}" if isinstance(first, int) else f"what was due, {first!r}"
