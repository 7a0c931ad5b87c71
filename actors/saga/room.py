"""The bounds of what is recorded of a saga: an answer to what it has asked can always be recorded. Pure.

So before a step is sent there must be room for its answer, and what comes unasked must leave that room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import msgspec

from repertory.actors.message import DefinitionError
from repertory.actors.outgoing import RECORD_OVERHEAD_BYTES
from repertory.actors.saga.progress import SagaProgress
from repertory.actors.saga.step import SagaRefused
from repertory.actors.wire import encode


class SagaLimits(msgspec.Struct, frozen=True):
    """The bounds of one class of sagas."""

    steps_max: int = 200
    signals_max: int = 1_000
    answer_bytes_max: int = 65_536
    results_kept_s: float = 86_400.0

    @classmethod
    def checked(cls, class_name: str, given: Mapping[str, Any]) -> Self:
        """Return the limits of a class statement; DefinitionError for an invalid value or an unknown name."""
        kinds = {"results_kept_s": (int | float, "a number")}
        for name, value in given.items():
            if name not in cls.__struct_fields__:
                names = ", ".join(cls.__struct_fields__)
                raise DefinitionError(f"{class_name}: {name} is no option of a saga; it may say {names}.")
            kind, words = kinds.get(name, (int, "a whole number"))
            if isinstance(value, bool) or not isinstance(value, kind) or not 0 < value <= 1 << 40:
                raise DefinitionError(f"{class_name}: {name}={value!r:.100} is no limit; use {words} above 0.")
        return cls(**given)


def check_steps(name: str, limits: SagaLimits, progress: SagaProgress, bytes_max: int) -> None:
    """Raise SagaRefused if the steps that were opened are too many, or their answers might not fit."""
    count = progress.next_step - progress.first
    if count > limits.steps_max:
        raise SagaRefused(
            f"{name} would take step {count}; steps_max is {limits.steps_max}: begin a new run in time, "
            "return ctx.again(cmd)"
        )
    if room_left(limits, progress, bytes_max) >= 0:
        return
    carried = sum(each.n < progress.first for each in progress.steps)
    raise SagaRefused(
        f"{name} holds {len(encode(progress))} bytes and waits for {len(progress.unsettled())} answers of up to "
        f"{limits.answer_bytes_max} bytes (answer_bytes_max), more than the {bytes_max - RECORD_OVERHEAD_BYTES} of a "
        "record (output_bytes_max): begin a new run in time, return ctx.again(cmd), or ask fewer at once"
        + (f"; {carried} steps of former runs may have to be undone: let them stand, ctx.keep()" if carried else "")
    )


def room_left(limits: SagaLimits, progress: SagaProgress, bytes_max: int) -> int:
    """Return the bytes that are left if each open answer is as large as it may be."""
    reserved = len(progress.unsettled()) * limits.answer_bytes_max
    return bytes_max - RECORD_OVERHEAD_BYTES - len(encode(progress)) - reserved
