"""Sagas beside the entity that they replace: ``python -m benchmarks.sagas``.

A transfer asks two entities, one after the other. On the pure path, as in ``benchmarks.later``, it is CPU of this
process without a log or a thread: of the transfer, of the two that it asks, and of what is encoded between them. Then
on a log, ``memory:`` or another one: transfers a second, and the latency of one at a time. ``--steps`` is a long saga,
of which each step adds to the history that is restored and run again; ``--open`` are sagas that wait for an answer, on
one shard: the memory of each, and how long its restore takes.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections import deque
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.table import Table

from repertory import (
    PIVOT,
    ActorSystem,
    Cancelled,
    Command,
    CommandHandler,
    Context,
    Entity,
    Event,
    Rejection,
    Saga,
    SagaContext,
    SagaKit,
    Undelivered,
    command,
    event,
    reply,
    run,
)
from repertory.actors.message import Sender
from repertory.actors.shard.changelog import first_shard_record
from repertory.actors.shard.recovered import new_shard
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import encode
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.worker import calm_the_collector

console = Console(highlight=False)

BATCH = 1_000
_NOW_MS = 1_000_000
_PURSES = 1_000
_SETTLE_S = 600.0


class Take(Command):
    """Take money out."""

    amount: int


class Put(Command):
    """Put money in; also what undoes `Take`."""

    amount: int


class Taken(Event):
    """Money went out."""

    amount: int


class Added(Event):
    """Money came in."""

    amount: int


class Short(Rejection):
    """There is not as much."""


class Purse(Entity):
    """Holds money."""

    balance: int = 1 << 40

    @command
    def take(self, cmd: Take) -> Taken | Short:
        """Take it out."""
        return Taken(amount=cmd.amount) if cmd.amount <= self.balance else Short()

    @command
    def put(self, cmd: Put) -> Added:
        """Put it in."""
        return Added(amount=cmd.amount)

    @event
    def taken(self, evt: Taken) -> Self:
        """Count it."""
        return self.replace(balance=self.balance - evt.amount)

    @event
    def added(self, evt: Added) -> Self:
        """Count it."""
        return self.replace(balance=self.balance + evt.amount)


class Move(Command):
    """Move money."""

    source: str
    target: str
    amount: int


class Moved(Event):
    """It was moved."""

    amount: int


class Transfer(Saga):
    """Moves money."""

    @run
    async def move(self, cmd: Move, ctx: SagaContext) -> Moved | Short | Undelivered | Cancelled:
        """Take it here, put it there."""
        back = ctx.call(Purse.put, cmd.source, Put(amount=cmd.amount))
        await ctx.require(Purse.take, cmd.source, Take(amount=cmd.amount), undo=back)
        await ctx.require(Purse.put, cmd.target, Put(amount=cmd.amount), undo=PIVOT)
        return Moved(amount=cmd.amount)


class Begun(Event):
    """It was begun."""

    source: str
    target: str
    amount: int
    sender: Sender | None


class WasTaken(Event):
    """The source has paid."""


class ByHand(Entity):
    """The same as an entity with a state and replies, for which nothing is undone."""

    target: str = ""
    amount: int = 0
    sender: Sender | None = None
    done: bool = False

    @command
    def move(self, cmd: Move, ctx: Context) -> Begun | Moved | Short:
        """Begin."""
        ctx.ask(Purse.take, cmd.source, Take(amount=cmd.amount))
        return Begun(source=cmd.source, target=cmd.target, amount=cmd.amount, sender=ctx.sender)

    @reply
    def taken(self, _evt: Taken, ctx: Context) -> WasTaken:
        """Put it there."""
        ctx.ask(Purse.put, self.target, Put(amount=self.amount))
        return WasTaken()

    @reply
    def refused(self, _evt: Short | Undelivered, ctx: Context) -> Short | None:
        """Say so."""
        if self.sender is not None:
            ctx.reply(Short(), to=self.sender)
        return None

    @reply
    def put(self, evt: Added, ctx: Context) -> Moved:
        """Say so."""
        if self.sender is not None:
            ctx.reply(Moved(amount=evt.amount), to=self.sender)
        return Moved(amount=evt.amount)

    @event
    def begun(self, evt: Begun) -> Self:
        """Remember it."""
        return self.replace(target=evt.target, amount=evt.amount, sender=evt.sender)

    @event
    def was_taken(self, _evt: WasTaken) -> Self:
        """Wait for the other."""
        return self

    @event
    def moved(self, _evt: Moved) -> Self:
        """Be done."""
        return self.replace(done=True, sender=None)


class Walk(Command):
    """Ask so many times."""

    steps: int


class Long(Saga, steps_max=100_000):
    """Asks often."""

    @run
    async def walk(self, cmd: Walk, ctx: SagaContext) -> Moved | Short | Undelivered | Cancelled:
        """Put money into one purse after the other."""
        for n in range(cmd.steps):
            key = f"p{n % _PURSES}"
            await ctx.require(Purse.put, key, Put(amount=1), undo=ctx.call(Purse.take, key, Take(amount=1)))
        return Moved(amount=cmd.steps)


def _system(name: str = "sagas") -> ActorSystem:
    system = ActorSystem(name)
    for each in (Purse, Transfer, ByHand, Long):
        system.host(each, partitions=1)
    return system


class Bench:
    """Shards whose commands and transactions are in memory."""

    def __init__(self) -> None:
        self._topology = _system().topology(lambda _topic: 1)
        self.hosted = self._topology.entities
        self._topics = {each.behaviour.entity: topic for topic, each in self.hosted.items()}
        self._configs = {topic: self._topology.shard_config(topic, 0) for topic in self.hosted}
        self.shards = {
            topic: Shard(config, new_shard(config, first_shard_record())) for topic, config in self._configs.items()
        }
        self._offsets = dict.fromkeys(self.hosted, 0)
        self._ready = deque[str]()
        #: The records of the journals, and the last of each key of the state topics.
        self._journal: list[Record] = []
        self._states: dict[tuple[str, bytes | None], Record] = {}

    def topic(self, entity: type[Entity]) -> str:
        """Return the topic of an entity's commands."""
        return self._topics[entity]

    def tell(self, entity: type[Entity], commands: dict[str, bytes]) -> None:
        """Send a command to each key."""
        topic = self.topic(entity)
        self._take([Output(topic, 0, key.encode(), value) for key, value in commands.items()])

    def counted(self, entity: type[Entity]) -> int:
        """Return how many commands were sent to an entity."""
        return self._offsets[self.topic(entity)]

    def settle(self, *, keeps: bool = False, only: type[Entity] | None = None) -> None:
        """Decide and commit, until nothing is left to do; ``only`` those of one entity."""
        wanted = None if only is None else self.topic(only)
        while self._ready:
            topic = self._ready.popleft()
            if wanted in (None, topic):
                self._turns(topic, keeps=keeps)

    def _turns(self, topic: str, *, keeps: bool) -> None:
        shard, codec = self.shards[topic], self.hosted[topic].codec
        while (result := shard.decide(_NOW_MS)) is not None:
            outputs = codec.encode(result).records
            shard.committed(result.first_seq, len(self._journal) if keeps else result.first_seq)
            self._take([each for each in outputs if each.topic in self.shards])
            for each in outputs if keeps else ():
                record = Record(each.topic, 0, len(self._journal), each.key, each.value, each.headers, 0)
                if each.topic == codec.events:
                    self._journal.append(record)
                elif each.topic == codec.state:
                    self._states[each.topic, each.key] = record

    def _take(self, outputs: list[Output]) -> None:
        by_topic: dict[str, list[Output]] = {}
        for each in outputs:
            by_topic.setdefault(each.topic, []).append(each)
        for topic, some in by_topic.items():
            codec, offset = self.hosted[topic].codec, self._offsets[topic]
            records = [
                Record(topic, 0, offset + number, each.key, each.value, each.headers, _NOW_MS)
                for number, each in enumerate(some)
            ]
            self._offsets[topic] += len(records)
            self.shards[topic].offer([codec.decode(record) for record in records])
            self._ready.append(topic)

    def restored(self, topic: str) -> Shard:
        """Return the shard of the only topic whose records were kept, as it is restored from them."""
        codec, next_offset = self.hosted[topic].codec, self._offsets[topic]
        topics = {codec.state: list(self._states.values()), codec.events: self._journal}
        ends = {name: len(records) for name, records in topics.items()}
        claimed = Claimed(TopicPartition(topic, 0), next_offset, 0, next_offset, ends)
        recovery = Recovery(self._configs[topic], codec, claimed)
        while (wanted := recovery.wanted) is not None:
            found = topics[wanted.topic][wanted.from_offset :]
            for start in range(0, max(1, len(found)), BATCH):
                part = found[start : start + BATCH]
                recovery.feed(Replayed(claimed.shard, wanted.topic, part, start + BATCH >= len(found)))
        recovered = recovery.recovered()
        assert len(recovered.cells) == self._offsets[topic]  # Each key had one command.
        return Shard(self._configs[topic], recovered)


def _moves(count: int, first: int = 0) -> dict[str, bytes]:
    return {
        f"t{n}": encode(Move(source=f"p{n % _PURSES}", target=f"p{(n + 1) % _PURSES}", amount=1))
        for n in range(first, first + count)
    }


def measure(entity: type[Entity], count: int) -> float:
    """Return the CPU µs of one transfer, by `Transfer` or `ByHand`, with all that it asks."""
    bench = Bench()
    begin = time.process_time()
    for first in range(0, count, BATCH):
        bench.tell(entity, _moves(BATCH, first))
        bench.settle()
    spent_s = time.process_time() - begin
    assert bench.counted(Purse) == 2 * count
    return spent_s / count * 1e6


def walk(steps: int, sagas: int = 1) -> float:
    """Return the CPU µs of each step of so many long sagas."""
    bench = Bench()
    begin = time.process_time()
    bench.tell(Long, {f"w{n}": encode(Walk(steps=steps)) for n in range(sagas)})
    bench.settle()
    spent_s = time.process_time() - begin
    assert bench.counted(Purse) == steps * sagas
    return spent_s / (steps * sagas) * 1e6


def size_of(steps: int) -> int:
    """Return the bytes of what is recorded of a saga with so many steps."""
    kit = SagaKit(Long)
    kit.start(Walk(steps=steps + 1))
    for _ in range(steps):
        kit.answer(Added(amount=1))
    return len(encode(kit.progress))


def many(count: int) -> tuple[float, float]:
    """Begin so many transfers whose first ask is not answered; return the bytes of each, and the CPU µs to restore it.

    The memory is what Python has allocated, since the process itself takes what the benchmark has freed before.
    """
    bench = Bench()
    for first in range(0, count, BATCH):
        bench.tell(Transfer, _moves(min(BATCH, count - first), first))
        bench.settle(keeps=True, only=Transfer)
    topic = bench.topic(Transfer)
    begin = time.process_time()
    shard = bench.restored(topic)
    spent_s = time.process_time() - begin
    del shard
    tracemalloc.start()
    shard = bench.restored(topic)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del shard
    return size / count, spent_s / count * 1e6


def on_a_log(url: str, count: int, asks: int) -> dict[str, tuple[float, float, float]]:
    """Return transfers a second, and p50 and p99 in ms of one at a time, of each kind on a log."""
    found: dict[str, tuple[float, float, float]] = {}
    kinds: dict[str, CommandHandler[Any, Move, Any]] = {"saga": Transfer.move, "by hand": ByHand.move}
    with _system(f"sagas-{os.getpid()}").start(url) as running:
        for name, handler in kinds.items():
            moves = [Move(source=f"p{n % 100}", target=f"p{(n + 1) % 100}", amount=1) for n in range(count)]
            running.client.tell_all((handler, f"warm-{n}", each) for n, each in enumerate(moves[:100]))
            running.settle(_SETTLE_S)
            begin = time.monotonic()
            running.client.tell_all((handler, f"t{n}", each) for n, each in enumerate(moves))
            running.settle(_SETTLE_S)
            rate = count / (time.monotonic() - begin)
            spent = []
            for n in range(asks):
                begin = time.monotonic()
                answer = running.client.ask(handler, f"a{n}", moves[n % count], timeout_s=60)
                spent.append(time.monotonic() - begin)
                assert isinstance(answer, Moved), answer
            spent.sort()
            found[name] = rate, spent[len(spent) // 2] * 1e3, spent[len(spent) * 99 // 100] * 1e3
    return found


def main(
    count: Annotated[int, typer.Option("--transfers", min=BATCH, help="Of each kind and round.")] = 20_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of one long saga.")] = 1_000,
    opened: Annotated[int, typer.Option("--open", min=0, help="So many open sagas on one shard; 0: none.")] = 100_000,
    log: Annotated[str, typer.Option(help="Measure rates and latencies on this log.")] = "memory:",
    asks: Annotated[int, typer.Option(min=100, help="Transfers one at a time.")] = 2_000,
) -> None:
    """Print the CPU of a transfer, rates and latencies, a long saga, and what many open ones take."""
    calm_the_collector()
    saga, by_hand = (min(measure(kind, count) for _ in range(rounds)) for kind in (Transfer, ByHand))
    console.print(
        f"CPU of a transfer of two steps, {count:,} of each, best of {rounds}: as a saga {saga:.0f} µs, by hand "
        f"{by_hand:.0f} µs, {saga / by_hand:.2f} times as much; {saga / 2:.0f} µs a step"
    )
    table = Table("on " + log, "transfers/s", "p50 ms", "p99 ms")
    for name, (rate, p50, p99) in on_a_log(log, count, asks).items():
        table.add_row(name, f"{rate:,.0f}", f"{p50:.2f}", f"{p99:.2f}")
    console.print(table)
    for length in sorted({10, 100, steps}):
        spent, size = walk(length, max(1, 1_000 // length)), size_of(length)
        console.print(f"a saga of {length:,} steps: {spent:.0f} µs of CPU a step, {size:,} bytes before its end")
    if opened:
        size_each, restore_us = many(opened)
        console.print(
            f"{opened:,} open sagas: {size_each:,.0f} bytes of memory each, {restore_us:.1f} µs to restore one"
        )


if __name__ == "__main__":
    typer.run(main)
