"""What a decision sends, as the outputs of its command."""

from __future__ import annotations

from collections.abc import Iterator

from repertory.actors.collected import Publish, Reply, Send, Tell
from repertory.actors.entity import resolved
from repertory.actors.message import Envelope, Rejection
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.turn_result import Published, Replied, Told, TurnOutput


def outputs_of(envelope: Envelope, decision: Decision, seq: int = -1) -> Iterator[TurnOutput]:
    """Yield the outputs of a decision: the collected ones, then the reply. Their indexes follow those of its events.

    ``seq``: see `Replied`.
    """
    offset, index = envelope.offset, len(decision.events)
    for output, data in zip(decision.outputs, decision.sent, strict=True):
        match output:
            case Tell(handler, key, _, asked, about):
                name = resolved(handler.owner).name
                yield Told(name, key, data, offset, index, envelope.key if asked else None, about)
            case Send(name, key, _, about):
                yield Told(name, key, data, offset, index, envelope.key, about)
            case Publish(topic, _, key):
                yield Published(topic, key, data, offset, index)
            case Reply(to, value, rejected):
                yield Replied(to, data, offset, index, seq, rejected=rejected or isinstance(value, Rejection))
        index += 1
    if decision.reply is not None and envelope.sender is not None:
        yield Replied(envelope.sender, decision.reply_data, offset, index, seq, rejected=decision.rejected)
