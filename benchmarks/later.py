"""CPU of what happens later, on the pure path: ``python -m benchmarks.later``. No log, no thread; this process's CPU.

As ``benchmarks.path``: a shard handles commands, and its transactions are taken for committed. A timer is set by one
command, fires, and its own command is handled; an effect is requested, has a result, and that is heard. So both are
three steps beside the one of a plain command, and their figures are for all three. ``--timers`` sets so many on one
shard and restores it: the memory that this process needs for each, and how long the restore takes; with ``--log`` on a
real log as well.
"""

from __future__ import annotations

import os
import time
import tracemalloc
from typing import Annotated, Any, Self

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.memory import resident_bytes
from repertory import (
    ActorSystem,
    Command,
    Context,
    Entity,
    Event,
    Request,
    Undelivered,
    command,
    effect,
    event,
    reply,
)  # fmt: skip
from repertory.actors.shard.changelog import first_shard_record
from repertory.actors.shard.effects import EffectOutcome
from repertory.actors.shard.recovered import new_shard
from repertory.actors.shard.shard import Shard
from repertory.actors.wire import encode
from repertory.bridge.hosted_entity import HostedEntity
from repertory.bridge.log.port import Claimed, Replayed
from repertory.bridge.log.record import Output, Record, TopicPartition
from repertory.bridge.recovery import Recovery
from repertory.bridge.worker import calm_the_collector

console = Console(highlight=False)

BATCH = 1_000
_KEYS = 1_000
#: The commands are of this time; a timer is due an hour later.
_NOW_MS, _LATER_MS = 1_000_000, 5_000_000
#: On a real log so many commands are sent at once, and how long they may take.
_TOLD, _SETTLE_S = 50_000, 600.0


class Plain(Command):
    """Count."""


class Remind(Command):
    """Set a timer; it counts."""

    name: str


class Send(Command):
    """Perform an effect; its result counts."""


class Letter(Request):
    """What is sent."""


class Sent(Event):
    """It was sent."""


class Counted(Event):
    """One more."""


@effect(timeout_s=1, name="benchmarks.send")
async def send(_do: Letter) -> Sent:
    """Nobody runs it here."""
    return Sent()


class Counter(Entity):
    """Counts."""

    count: int = 0

    @command
    def plain(self, _cmd: Plain) -> Counted:
        """Count."""
        return Counted()

    @command
    def remind(self, cmd: Remind, ctx: Context) -> None:
        """Set a timer."""
        ctx.schedule(cmd.name, Counter.plain, Plain(), after_s=3_600)

    @command
    def send(self, _cmd: Send, ctx: Context) -> None:
        """Perform an effect."""
        ctx.perform(send, Letter())

    @reply
    def was_sent(self, _evt: Sent | Undelivered) -> Counted:
        """Count."""
        return Counted()

    @event
    def counted(self, _evt: Counted) -> Self:
        """Count."""
        return self.replace(count=self.count + 1)


class Bench:
    """A shard whose commands and transactions are in memory."""

    def __init__(self) -> None:
        system = ActorSystem("later")
        system.host(Counter, partitions=1)
        self._topology = system.topology(lambda _topic: 1)
        self.topic, self.hosted = next(iter(self._topology.entities.items()))
        self.config = self._topology.shard_config(self.topic, 0)
        self.shard = Shard(self.config, new_shard(self.config, first_shard_record()))
        self.state: dict[bytes | None, Record] = {}
        self._next, self._seq = 0, 0

    @property
    def codec(self) -> Any:
        """What encodes and decodes."""
        hosted: HostedEntity = self.hosted
        return hosted.codec

    def tell(self, values: list[bytes]) -> None:
        """Put commands into the mailbox, to the keys in turn."""
        outputs = [
            Output(self.topic, 0, b"k%d" % ((self._next + number) % _KEYS), value)
            for number, value in enumerate(values)
        ]
        self.take(outputs)

    def take(self, outputs: list[Output]) -> None:
        """Put what was appended into the mailbox."""
        records = [
            Record(self.topic, 0, self._next + number, each.key, each.value, each.headers, _NOW_MS)
            for number, each in enumerate(outputs)
        ]
        self._next += len(records)
        self.shard.offer([self.codec.decode(record) for record in records])

    def turn(self, now_ms: int, *, keeps: bool = False) -> bool:
        """Decide and commit one turn; return whether there was one."""
        result = self.shard.decide(now_ms)
        if result is None:
            return False
        outputs = self.codec.encode(result).records
        self.shard.committed(result.first_seq, result.first_seq)
        self.take([each for each in outputs if each.topic == self.topic])
        if keeps:
            self.state |= {
                each.key: Record(each.topic, 0, 0, each.key, each.value, each.headers, 0)
                for each in outputs
                if each.topic == self.codec.state
            }
        return True

    def effects(self) -> None:
        """Let each effect that can be started have its result."""
        effects = self.shard.effects
        while places := effects.startable(_LATER_MS, BATCH):
            for place in places:
                record = effects.started(place)
                self.shard.finished(EffectOutcome(place, record.attempt, effects.epoch, Sent()))
            while self.turn(_NOW_MS):
                pass


def measure(kind: str, count: int) -> float:
    """Return the CPU µs of each of so many commands, timers that are set and fire, or effects with a result."""
    bench = Bench()
    values = {
        "a command": [encode(Plain())] * count,
        "a timer, set and fired": [encode(Remind(name=f"n{number // _KEYS}")) for number in range(count)],
        "an effect, performed and heard": [encode(Send())] * count,
    }[kind]
    begin = time.process_time()
    for start in range(0, count, BATCH):
        bench.tell(values[start : start + BATCH])
        while bench.turn(_NOW_MS):
            pass
        bench.effects()
    while bench.turn(_LATER_MS):
        pass
    assert not len(bench.shard.timers)
    assert not len(bench.shard.effects)
    return (time.process_time() - begin) / count * 1e6


KINDS = ("a command", "a timer, set and fired", "an effect, performed and heard")


def many(timers: int) -> tuple[float, float]:
    """Set so many timers, one of each key; return the bytes of memory for each, and the CPU µs to restore one.

    The memory is what Python has allocated, since the process itself takes what the benchmark has freed before.
    """
    bench = Bench()
    for start in range(0, timers, BATCH):
        outputs = [
            Output(bench.topic, 0, b"key-%d" % number, encode(Remind(name="expire")))
            for number in range(start, min(timers, start + BATCH))
        ]
        bench.take(outputs)
        while bench.turn(_NOW_MS, keeps=True):
            pass
    state, codec = list(bench.state.values()), bench.codec
    claimed = Claimed(
        TopicPartition(bench.topic, 0), timers, 0, timers, {codec.state: len(state), codec.events: 0}
    )  # fmt: skip
    del bench
    begin = time.process_time()
    shard = _restored(state, claimed)
    spent_s = time.process_time() - begin
    assert len(shard.timers) == timers
    del shard
    tracemalloc.start()
    shard = _restored(state, claimed)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(shard.timers) == timers
    return size / timers, spent_s / timers * 1e6


def _restored(state: list[Record], claimed: Claimed) -> Shard:
    bench = Bench()
    recovery = Recovery(bench.config, bench.codec, claimed)
    while (wanted := recovery.wanted) is not None:
        found = state if wanted.topic == bench.codec.state else []
        for start in range(0, max(1, len(found)), BATCH):
            part = found[start : start + BATCH]
            recovery.feed(Replayed(claimed.shard, wanted.topic, part, start + BATCH >= len(found)))
    return Shard(bench.config, recovery.recovered())


def on_a_log(url: str, timers: int) -> tuple[float, float, float]:
    """Do the same on a real log, in this process; return the seconds to set them, and to restore them, and the bytes.

    The bytes are what the process needs more than before, for each timer: its log is not in this process on Kafka.
    """
    system = ActorSystem(f"later-{os.getpid()}")
    system.host(Counter, partitions=1)
    with system.start(url) as running:
        running.settle()
        before, begin_s = resident_bytes(), time.monotonic()
        for start in range(0, timers, _TOLD):
            keys = range(start, min(timers, start + _TOLD))
            running.client.tell_all((Counter.remind, f"key-{number}", Remind(name="expire")) for number in keys)
            running.settle(_SETTLE_S)
        set_s, size = time.monotonic() - begin_s, (resident_bytes() - before) / timers
        begin_s = time.monotonic()
        running.crash()
        while (found := running.loop.region.named("counter/0")) is None or found.shard is None:
            running.tick(0.01)
        assert len(found.shard.timers) == timers
        return set_s, time.monotonic() - begin_s, size


def main(
    count: Annotated[int, typer.Option("--commands", min=BATCH, help="Of each kind and round.")] = 50_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    timers: Annotated[int, typer.Option("--timers", min=0, help="So many on one shard; 0: none.")] = 100_000,
    log: Annotated[str | None, typer.Option("--log", help="Set and restore them on this log too.")] = None,
) -> None:
    """Print the CPU of each kind, and what many timers take."""
    calm_the_collector()
    table = Table("what", "CPU µs", "to a command", title=f"what happens later, {count:,} of each, best of {rounds}")
    best = {kind: min(measure(kind, count) for _ in range(rounds)) for kind in KINDS}
    for kind, spent in best.items():
        table.add_row(kind, f"{spent:.1f}", f"{spent / best[KINDS[0]]:.1f}")
    console.print(table)
    if timers:
        size, spent = many(timers)
        console.print(
            f"{timers:,} timers on one shard: {size:,.0f} bytes of memory each, {spent:.1f} µs to restore one"
        )
    if timers and log is not None:
        set_s, restore_s, size = on_a_log(log, timers)
        console.print(
            f"on {log}: set in {set_s:.1f} s, restored in {restore_s:.1f} s, {size:,.0f} bytes of memory each"
        )


if __name__ == "__main__":
    typer.run(main)
