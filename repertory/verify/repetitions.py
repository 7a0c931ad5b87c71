"""Which commands of one shard are repetitions, as the shard finds them; and the seen records that it has written.

A shard drops a message that it has received before (``actors.shard.seen_causes``), once it has an epoch. What it
remembers is in the seen records of its state topic: those that follow from the commands below its ``seen``.
"""

from __future__ import annotations

from repertory.actors.shard.changelog import SEEN_KEY
from repertory.actors.shard.seen_causes import SeenCauses
from repertory.bridge.changelog_codec import decode_seen
from repertory.bridge.log.record import Record, TopicPartition
from repertory.verify.epochs import OwnerEpochs
from repertory.verify.findings import Findings, Place

_SEEN = SEEN_KEY.decode()


class Repetitions:
    """The repetitions of one shard, found while its commands are read.

    ``repeated`` are offsets. ``maybe``: compaction has deleted the shard record that began the first epoch, and these
    commands may have been handled before it. Both are known only if the first command is still in the log.
    """

    def __init__(
        self, source: TopicPartition, epochs: OwnerEpochs, seen: SeenCauses, *, is_whole: bool, findings: Findings
    ) -> None:
        """``seen``: that of a shard that has handled no command; ``is_whole``: no command was deleted."""
        self._source, self._epochs, self._seen, self._is_whole = source, epochs, seen, is_whole
        self._finding = findings.shards
        self.repeated: set[int] = set()
        self.maybe: set[int] = set()
        self._is_compared = False

    def take(self, record: Record) -> None:
        """Take the next command: note one with the cause and epoch of a sender, as the shard does."""
        stamp = self._seen.stamp(record.headers)
        if stamp is None:
            return
        epochs = self._epochs.of(self._source)
        if not epochs.last or record.offset < epochs.since:
            return
        if record.offset >= epochs.seen:
            self.compare()
        if self._seen.repeats(stamp):
            (self.maybe if record.offset < epochs.surely_since else self.repeated).add(record.offset)
        self._seen.note(stamp)

    def compare(self) -> None:
        """Compare the seen records with the commands below ``seen``: all of these have been taken."""
        if self._is_compared:
            return
        self._is_compared = True
        epochs = self._epochs.of(self._source)
        if not self._is_whole or (epochs.last and epochs.since < epochs.surely_since):
            return
        written = [*self._seen.written()] if epochs.last else []
        due = {each.key.removeprefix(_SEEN): decode_seen(each.value or b"") for each in written}
        for name in sorted(due.keys() | epochs.recorded.keys()):
            self._finding.looked_at += 1
            if due.get(name) != epochs.recorded.get(name):
                place = Place(epochs.state, self._source.partition, -1, _SEEN + name)
                self._finding.wrong(place, f"differs from the messages of {name} below the command {epochs.seen}")
