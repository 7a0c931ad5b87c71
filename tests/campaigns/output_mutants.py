"""Mutants of what commands produce: lives that end, stashes, asks and replies, large turns.

They need an application that has these, and commands that reach them; ``tests.campaigns.scenarios`` tells which do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any

import msgspec

from repertory.actors.control import RetryParked
from repertory.actors.headers import REPLY_TO
from repertory.actors.message import Envelope
from repertory.actors.shard import command_runner
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.control_runner import ControlRunner
from repertory.actors.shard.decision import Decision
from repertory.actors.shard.mailbox import Delivery, Mailbox
from repertory.actors.shard.shard import Shard
from repertory.actors.shard.turn import Turn
from repertory.actors.shard.turn_result import Replied, Told, TurnResult
from tests.campaigns.mutants import mutant, swap

replaced = msgspec.structs.replace


def _decided(stack: ExitStack, change: Callable[[Decision, Any, Any], Decision]) -> None:
    """Change each decision; ``change`` is given the state and the bytes before it as well."""

    def make(decide: Any) -> Any:
        def mutated(behaviour: Any, state: Any, data: Any, *given: Any, **more: Any) -> Decision:
            return change(decide(behaviour, state, data, *given, **more), state, data)

        return mutated

    swap(stack, command_runner, "decide", make)


def _sent(stack: ExitStack, change: Callable[[Any, Envelope], Any]) -> None:
    """Change each output of a command, or leave it out (None)."""

    def make(outputs_of: Any) -> Any:
        def mutated(envelope: Envelope, decision: Decision) -> Iterator[Any]:
            changed = (change(output, envelope) for output in outputs_of(envelope, decision))
            return (output for output in changed if output is not None)

        return mutated

    swap(stack, command_runner, "outputs_of", make)


# --- lives that end -------------------------------------------------------------------------------------------


@mutant("actors/shard/entities.py")
def the_next_life_goes_on(stack: ExitStack) -> None:
    """The next life of an entity begins with the state of the last one."""
    _decided(stack, lambda made, state, data: replaced(made, state=state, data=data) if made.stopped else made)


@mutant("actors/shard/entities.py")
def the_next_life_counts_on(stack: ExitStack) -> None:
    """The next life of an entity counts on from the version of the last one."""
    _decided(stack, lambda made, _state, _data: replaced(made, stopped=False))


# --- several events, rejections, replies ----------------------------------------------------------------------


@mutant("actors/shard/entities.py")
def one_event_of_several(stack: ExitStack) -> None:
    """Of several events of a command, the journal gets the first."""
    _decided(stack, lambda made, _state, _data: replaced(made, events=made.events[:1]))


@mutant("actors/shard/decision.py")
def rejections_are_silent(stack: ExitStack) -> None:
    """A rejection answers no one."""
    _decided(stack, lambda made, _state, _data: replaced(made, reply=None) if made.rejected else made)


@mutant("actors/shard/command_runner.py")
def kept_senders_are_forgotten(stack: ExitStack) -> None:
    """A sender that was kept from an earlier command is not answered."""
    _sent(stack, lambda out, envelope: None if isinstance(out, Replied) and out.to != envelope.sender else out)


@mutant("actors/shard/command_runner.py", seeds=80)
def about_is_lost(stack: ExitStack) -> None:
    """An ask loses what it is about."""
    _sent(stack, lambda out, _envelope: replaced(out, about="") if isinstance(out, Told) else out)


@mutant("actors/shard/command_runner.py")
def asks_become_tells(stack: ExitStack) -> None:
    """An entity that asks gets no answer."""
    _sent(stack, lambda out, _envelope: replaced(out, reply_key=None) if isinstance(out, Told) else out)


# --- the stash ------------------------------------------------------------------------------------------------


@mutant("actors/shard/turn.py", seeds=80)
def the_stashed_are_told(stack: ExitStack) -> None:
    """A stashed command forgets who asked, once its shard is restored."""

    def wrote(original: Any) -> Any:
        def mutated(turn: Turn, envelope: Envelope, record: StashedRecord | None) -> None:
            kept = () if record is None else tuple(each for each in record.headers if each[0] != REPLY_TO)
            original(turn, envelope, None if record is None else replaced(record, headers=kept))

        return mutated

    swap(stack, Turn, "wrote", wrote)


@mutant("actors/shard/turn.py", seeds=80)
def dropped_in_silence(stack: ExitStack) -> None:
    """Whoever asked a command that is dropped or given up is not answered."""

    def dead_letter(original: Any) -> Any:
        def mutated(turn: Turn, delivery: Delivery, *given: Any, **more: Any) -> None:
            original(turn, replaced(delivery, sender=None), *given, **more)

        return mutated

    swap(stack, Turn, "dead_letter", dead_letter)


@mutant("actors/shard/control_runner.py", seeds=200)
def a_retry_frees_one(stack: ExitStack) -> None:
    """A retry of a parked key forgets the commands behind the first."""

    def operate(original: Any) -> Any:
        def mutated(runner: ControlRunner, delivery: Envelope, turn: Turn) -> None:
            original(runner, delivery, turn)
            queue = list(runner._stash.queue(delivery.key))
            if isinstance(delivery.message, RetryParked) and queue and not queue[0].record.parked:
                for stashed in queue[1:]:
                    runner._stash.remove(stashed)
                    turn.wrote(stashed.envelope, None)

        return mutated

    swap(stack, ControlRunner, "_carry_out", operate)


# --- large values ---------------------------------------------------------------------------------------------


@mutant("actors/shard/shard.py")
def a_large_turn_loses_its_end(stack: ExitStack) -> None:
    """A turn that ends because it is large loses its last output."""

    def finish(original: Any) -> Any:
        def mutated(shard: Shard, turn: Turn, now_ms: int) -> TurnResult:
            if turn.bytes >= shard.config.limits.turn_bytes_max and turn.outputs:
                turn.outputs.pop()
            made: TurnResult = original(shard, turn, now_ms)
            return made

        return mutated

    swap(stack, Shard, "_finish", finish)


@mutant("actors/shard/mailbox.py")
def a_large_mailbox_drops(stack: ExitStack) -> None:
    """A mailbox that is full in bytes drops what comes."""

    def offer(original: Any) -> Any:
        def mutated(mailbox: Mailbox, deliveries: Iterable[Delivery]) -> None:
            for delivery in deliveries:
                if mailbox.bytes < mailbox._bytes_max:
                    original(mailbox, [delivery])

        return mutated

    swap(stack, Mailbox, "offer", offer)
