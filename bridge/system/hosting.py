"""How a system hosts one entity class: its behaviour, its partitions, and its policy with what the runtime adds."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from repertory.actors.context import OutputRefused, OutputTooLarge
from repertory.actors.entity import Behaviour
from repertory.actors.saga.behaviour import SagaBehaviour
from repertory.actors.saga.step import NonDeterministic, SagaRefused
from repertory.actors.shard.config import AT_LEAST_ONCE
from repertory.supervision import Directive, Policy


class EntityDefinition(msgspec.Struct, frozen=True):
    """One entity class as a system hosts it."""

    behaviour: Behaviour
    partitions: int
    policy: Policy


def with_defaults(policy: Policy) -> Policy:
    """Return a policy with the rules for what is the same at each attempt, unless it has its own."""
    rules: dict[type[BaseException], Directive] = {
        # What is too large or refused is so again on a retry: by default its command is dead-lettered at once.
        OutputTooLarge: Directive.RESUME,
        OutputRefused: Directive.RESUME,
        # Another attempt runs the same code over the same record: only another build can help.
        NonDeterministic: Directive.STOP,
        SagaRefused: Directive.STOP,
        **policy.on,
    }
    return msgspec.structs.replace(policy, on=rules)


def check_sagas(system: str, hosted: Iterable[EntityDefinition], delivery: str) -> None:
    """Raise ValueError if a system hosts a saga at least once."""
    sagas = [each.behaviour for each in hosted if isinstance(each.behaviour, SagaBehaviour)]
    if sagas and delivery == AT_LEAST_ONCE:
        raise ValueError(
            f"the system {system} hosts the saga {sagas[0].entity.__name__}, which undoes exactly what was applied and "
            'so needs exactly once; drop delivery="at-least-once"'
        )
