"""Headers by which the records of a shard that works at least once can be told apart; see ``nontransactional``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from repertory.bridge.log.record import Output


def with_epoch(outputs: Iterable[Output], dead_letters: str, epoch: int) -> list[Output]:
    """Return outputs with the epoch of the owner that made them; a dead letter keeps the headers of its command."""
    header = ("epoch", b"%d" % epoch)
    return [
        output if output.topic == dead_letters
        else Output(output.topic, output.partition, output.key, output.value, (*output.headers, header))
        for output in outputs
    ]  # fmt: skip


def with_turn_headers(journal: Sequence[Output], next_offset: int) -> list[Output]:
    """Return a turn's journal records with their places in it; the last one says which command comes next."""
    count = len(journal)
    turn = [
        Output(each.topic, each.partition, each.key, each.value, (*each.headers, ("turn", b"%d/%d" % (index, count))))
        for index, each in enumerate(journal)
    ]
    if turn:
        last = turn[-1]
        turn[-1] = msgspec.structs.replace(last, headers=(*last.headers, ("next", b"%d" % next_offset)))
    return turn
