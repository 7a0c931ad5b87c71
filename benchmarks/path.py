"""CPU of the pure path, part by part: ``python -m benchmarks.path``. No log, no thread; CPU time of this process.

A shard of the ledger job handles commands as a worker's would: records are decoded, put into the mailbox, decided in
turns of a batch, and encoded to a transaction that is taken for committed. Figures are µs of this process's CPU for
each command; the best of the rounds counts, since what else runs on the machine only ever adds to them.
"""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.job import Deposit, ledger_system
from repertory.actors.placement import partition_of
from repertory.actors.shard.changelog import first_shard_record
from repertory.actors.shard.recovered import new_shard
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import encode
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Record, TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.worker import calm_the_collector

console = Console(highlight=False)

PARTITIONS = 4
BATCH = 1_000
PARTS = ("decode", "offer", "decide", "encode")


def records(topic: str, keys: int, count: int) -> list[Record]:
    """Return the commands of one partition, round robin over its keys."""
    value = encode(Deposit(amount=5))
    own: list[bytes] = []
    number = 0
    while len(own) < keys:
        key = b"account-%d" % number
        number += 1
        if partition_of(key, PARTITIONS) == 0:
            own.append(key)
    return [Record(topic, 0, offset, own[offset % keys], value, (), 0) for offset in range(count)]


def measure(keys: int, count: int) -> dict[str, float]:
    """Handle ``count`` commands over ``keys`` entities; return the CPU µs of each part for each command."""
    system = ledger_system("path")
    topology = system.topology(lambda _topic: PARTITIONS)
    topic, hosted = next(iter(topology.entities.items()))
    config = topology.shard_config(topic, 0)
    shard, codec = Shard(config, new_shard(config, first_shard_record())), hosted.codec
    source = records(topic, keys, keys + count)
    spent = dict.fromkeys(PARTS, 0.0)
    clock = time.process_time
    for start in range(0, keys + count, BATCH):
        if start == keys:
            spent = dict.fromkeys(PARTS, 0.0)
        batch = source[start : start + BATCH]
        at = clock()
        deliveries = [codec.decode(record) for record in batch]
        spent["decode"] += (now := clock()) - at
        shard.offer(deliveries)
        spent["offer"] += (then := clock()) - now
        result = shard.decide(1)
        spent["decide"] += (now := clock()) - then
        assert result is not None
        codec.encode(result)
        spent["encode"] += clock() - now
        shard.committed(result.first_seq, result.first_seq)
    assert shard.record.next == keys + count, shard.record
    return {part: seconds / count * 1e6 for part, seconds in spent.items()}


def restored(keys: int, count: int) -> tuple[float, int, int]:
    """Restore a shard after ``count`` commands; return the CPU µs for each entity, and how many records were read."""
    topology = ledger_system("path").topology(lambda _topic: PARTITIONS)
    topic, hosted = next(iter(topology.entities.items()))
    config, codec = topology.shard_config(topic, 0), hosted.codec
    shard = Shard(config, new_shard(config, first_shard_record()))
    journal: list[Record] = []
    states: dict[bytes | None, Record] = {}
    source = records(topic, keys, count)
    for start in range(0, count, BATCH):
        shard.offer([codec.decode(record) for record in source[start : start + BATCH]])
        result = shard.decide(1)
        assert result is not None
        shard.committed(result.first_seq, len(journal))
        for output in codec.encode(result).records:
            place = (output.topic, 0, len(journal), output.key, output.value, output.headers, 0)
            if output.topic == codec.events:
                journal.append(Record(*place))
            else:
                states[output.key] = Record(*place)
    snapshots = list(states.values())
    ends = {codec.state: len(snapshots), codec.events: count}
    claimed = Claimed(TopicPartition(topic, 0), count, 0, count, ends)
    topics = {codec.state: snapshots, codec.events: journal}
    recovery, read = Recovery(config, codec, claimed), []
    begin = time.process_time()
    while (wanted := recovery.wanted) is not None:
        found = topics[wanted.topic][wanted.from_offset :]
        read.append(len(found))
        for start in range(0, max(1, len(found)), BATCH):
            part = found[start : start + BATCH]
            recovery.feed(Replayed(claimed.shard, wanted.topic, part, start + BATCH >= len(found)))
    assert len(recovery.recovered().cells) == keys
    return (time.process_time() - begin) / keys * 1e6, read[0], read[1]


def main(
    count: Annotated[int, typer.Option("--commands", min=BATCH, help="Commands of each round.")] = 100_000,
    keys: Annotated[list[int] | None, typer.Option(help="Entities of the shard; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
) -> None:
    """Print the CPU of each part, by the number of entities."""
    calm_the_collector()
    table = Table("entities", *PARTS, "µs a command", title=f"the pure path, {count:,} commands, best of {rounds}")
    restores = Table(
        "entities", "state records", "journal records", "µs an entity", title="a restore, after 6 for each"
    )
    for entities in keys or [2_000, 50_000]:
        best = min((measure(entities, count) for _ in range(rounds)), key=lambda parts: sum(parts.values()))
        table.add_row(f"{entities:,}", *(f"{best[part]:.2f}" for part in PARTS), f"{sum(best.values()):.2f}")
        spent, states, tail = min(restored(entities, 6 * entities) for _ in range(rounds))
        restores.add_row(f"{entities:,}", f"{states:,}", f"{tail:,}", f"{spent:.2f}")
    console.print(table)
    console.print(restores)


if __name__ == "__main__":
    typer.run(main)
