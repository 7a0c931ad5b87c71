"""``lacking``: why this build cannot run an effect that another build has performed; such an effect waits for one.

In a rolling deploy the shard of an effect can move to an older build, and a deploy can remove what effects still need:
the function, the class of the request, the method that takes a result. Nothing is wrong with the effect then, so it is
not tried and fails no attempt. Pure.
"""

from __future__ import annotations

from repertory.actors.effect import registered
from repertory.actors.entity import Behaviour
from repertory.actors.message import DefinitionError
from repertory.actors.shard.changelog import EffectRecord
from repertory.actors.wire import DecodeError


def lacking(record: EffectRecord, behaviour: Behaviour) -> str | None:
    """Return why this build cannot run an effect of such an entity, in one sentence; None if it can."""
    if (effect := registered(record.effect)) is None:
        return f"this build has no @effect of the name {record.effect!r}"
    try:
        effect.signature.decoder.decode(record.request)
    except DecodeError as error:
        return f"this build cannot read the request of {effect.name}: {error}"
    except DefinitionError as error:
        return f"this build cannot run {effect.name}: {error}"
    is_step = behaviour.answer(record.about, b"", rejected=False) is not None  # Of a saga, which takes any answer.
    for answer in effect.signature.answers:
        if not is_step and answer not in behaviour.handlers:
            return (
                f"{behaviour.name} of this build has no @reply method for {answer.__qualname__}, which {effect.name} "
                "may answer"
            )
    return None
