"""Compare the answers to control commands with those that they must have."""

from __future__ import annotations

from repertory.actors.control import OF_ASKS, RevokeAsk
from repertory.actors.message import Done, Envelope
from repertory.actors.shard.turn_result import Replied
from repertory.actors.wire import encode
from repertory.bridge.log.record import Record
from repertory.verify.again import Decider, Subject
from repertory.verify.compare import explain
from repertory.verify.produced import Made

_DONE = encode(Done())


def check_control(subject: Subject, decider: Decider, record: Record, delivery: Envelope, made: list[Made]) -> None:
    """Check that a control command is answered if it asks for that, and has no other output.

    What revokes the ask of a saga is not answered: that ask is.

    A client who asks about an ask is told what the shard remembered then, which no record shows later: answers are
    evicted, and what is stashed is retried. So any answer is right that goes to this client.
    """
    if delivery.sender is None or isinstance(delivery.message, RevokeAsk):
        due = []
    else:
        answers = decider.encoded([Replied(delivery.sender, _DONE, record.offset, 0)], record.offset)
        due = [decider.made(output, 0) for output in answers]
    if isinstance(delivery.message, OF_ASKS) and [each[:2] for each in made] == [each[:2] for each in due]:
        return
    explain(subject.gathered.targets, subject.findings, record, made, due, "a control command")
