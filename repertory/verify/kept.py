"""Compare the commands that are kept instead of applied, as dead letters and in the stash, with their originals."""

from __future__ import annotations

from repertory.actors.message import Envelope, Undecodable, Undelivered
from repertory.actors.shard.turn_result import DeadLettered, Replied
from repertory.actors.wire import encode
from repertory.bridge.log.record import Record
from repertory.verify.again import Decider, Subject
from repertory.verify.compare import equal, explain, is_given_up
from repertory.verify.gather import DeadLetterEntry
from repertory.verify.produced import Made, without_failure
from repertory.verify.stash_records import command_digest


class KeptCommands:
    """Checks the kept commands of one shard."""

    def __init__(self, subject: Subject, decider: Decider, *, decides: bool, again: bool) -> None:
        """``again``: the shard has worked at least once, so earlier attempts may have sent outputs."""
        self._subject, self._decider, self._decides, self._again = subject, decider, decides, again
        self._codec, self._findings = subject.hosted.codec, subject.findings

    def dead_letter(self, record: Record, made: list[Made], dead: list[DeadLetterEntry]) -> None:
        """Check that the dead letter holds the unchanged command, and that an ask was answered."""
        wrong, delivery = self._findings.dead.wrong, self._codec.decode(record)
        first, *others = dead
        for other in others:
            if other.nth != first.nth:
                wrong(other.place, f"is a second dead letter of command {record.offset}")
        key = delivery.key.encode() if isinstance(delivery, Envelope) else delivery.key
        outputs = [DeadLettered(key, delivery.value, delivery.headers, "", "", 0, record.offset, 0)]
        answers = []
        if delivery.sender is not None:
            data = encode(Undelivered(reason=f"{first.error}: {first.reason}"))
            answers = [Replied(delivery.sender, data, record.offset, 1, rejected=True)]
        expected = self._decider.encoded([*outputs, *answers], record.offset)
        if hash((expected[0].key, expected[0].value, without_failure(expected[0].headers))) != first.digest:
            wrong(first.place, f"differs from the command {self._name(record.offset)}")
        if first.nth != 0 or not first.error or not first.attempts.isdigit() or first.attempts == "0":
            found = f"error {first.error!r:.100}, {first.attempts!r:.100} attempts, output {first.nth}"
            wrong(first.place, f"has headers that no shard writes: {found}")
        changelog = self._subject.changelog
        attempts = changelog.attempts.get(record.offset, 1)
        if changelog.is_complete and not is_given_up(dead) and first.attempts != str(attempts):
            wrong(first.place, f"counts {first.attempts!r:.100} attempts, but the command was at attempt {attempts}")
        if self._decides and isinstance(delivery, Undecodable) and delivery.error != first.error:
            wrong(first.place, f"has the error {first.error}, but its command cannot be decoded: {delivery.error}")
        rest = [each for each in made if each.nth != first.nth]
        due = [self._decider.made(output, index) for index, output in enumerate(expected[1:], 1)]
        if self._again and is_given_up(dead):  # An earlier attempt may have sent outputs.
            self._subject.published.excuse(self._subject.source, record.offset)
            rest = [each for each in rest if any(each[:3] == other[:3] for other in due)]
        if not equal(rest, due):
            explain(self._subject.gathered.targets, self._findings, record, rest, due, "a dead letter")

    def stashed(self, record: Record) -> None:
        """Check that the stash holds, or held, the unchanged command."""
        kept = self._subject.changelog.digest_of(record.offset)
        key = (record.key or b"").decode(errors="backslashreplace")
        if kept not in (None, command_digest(key, record.value, record.headers, record.timestamp_ms)):
            place = self._subject.changelog.place_of(record.offset)
            self._findings.stashed.wrong(place, f"differs from the command {self._name(record.offset)}")

    def _name(self, offset: int) -> str:
        return f"{self._subject.prefix}{offset}"
