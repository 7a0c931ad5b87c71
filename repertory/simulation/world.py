"""The world outside in a simulation: what becomes of effects, and the runners that begin them.

Each worker has a runner, which is lost with it; what it has begun may end all the same, and its outcome then reaches
the next owner of the shard, who must ignore it. Results, delays, failures and attempts that never end are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from repertory.actors.effect import Effect, registered
from repertory.actors.message import Event, Message, Rejection, Request
from repertory.actors.shard.changelog import EffectRecord
from repertory.actors.shard.effects import EffectOutcome, Effects
from repertory.actors.shard.shard import Shard
from repertory.bridge.assigned_shard import ShardPhase
from repertory.bridge.log.record import TopicPartition
from repertory.bridge.region import ShardRegion
from repertory.simulation.choices import Choices
from repertory.simulation.generate import drawn_message
from repertory.simulation.virtual import Violation, VirtualClock
from repertory.supervision.directive import Failure

#: Stands for an effect in a simulation: takes the request, and returns what the effect would, or raises.
Fake = Callable[[Any], Event | Rejection | None]
Fakes = Mapping[Effect[Any, Any], Fake]

#: The phases in which a shard's effects begin.
_MAY_BEGIN = (ShardPhase.RUNNING, ShardPhase.COMMITTING)
_DELAYS_S = (0.0, 0.001, 0.02, 0.3, 2.0)
#: Of a thousand attempts, so many do not end as they should, each in one of these ways.
_FAILING = 250
_KINDS = ("ends", "fails", "fails", "fails", "hangs", "is invalid")
#: Of a thousand effects, so many fail at each attempt.
_DOOMED = 80


class Attempt(NamedTuple):
    """An attempt of an effect that is under way: when it ends, and how."""

    due_s: float
    shard: TopicPartition
    outcome: EffectOutcome


class World:
    """Shared by the workers of one run.

    ``fakes``: functions that stand for effects, as in ``{send_receipt: lambda do: ReceiptSent(order=do.order)}``. What
    other effects return is drawn from their annotations. Any attempt may fail, be late or never end.

    ``begun``: the last attempt of each effect, as the epoch of its owner and its number. ``orphans``: the attempts of
    runners that are lost. ``is_calm``: all attempts succeed.
    """

    def __init__(self, choices: Choices, clock: VirtualClock, fakes: Fakes, running_max: int) -> None:
        self.clock, self.running_max = clock, running_max
        self._choices, self._fakes = choices, {effect.name: fake for effect, fake in fakes.items()}
        self.begun: dict[tuple[TopicPartition, str], tuple[int, int]] = {}
        self.orphans: list[Attempt] = []
        #: Those that an operator has retried, which begin with attempt 1 again.
        self.retried: set[tuple[TopicPartition, str]] = set()
        #: Those that fail at each attempt.
        self._doomed: set[tuple[TopicPartition, str]] = set()
        self.is_calm = False

    def begin(self, shard: TopicPartition, place: str, record: EffectRecord, epoch: int) -> Attempt:
        """Begin an attempt. Raises Violation if its number was counted before.

        A former owner that does not know of the next one may begin an attempt again; its outcome does not count.
        """
        now = epoch, record.attempt
        before = self.begun.get((shard, place), (-1, 0))
        is_again = now[1] <= before[1] and (now[0] == before[0] or now[1] < before[1])
        if now[0] < before[0]:
            return self._drawn(shard, place, record, epoch)
        if is_again and (now[1] > 1 or (shard, place) not in self.retried):
            raise Violation("the attempts of an effect are counted", f"{shard} {place!r}: {now} after {before}")
        if (shard, place) not in self.begun and self._choices.rarely(1, _DOOMED, "effect-doomed"):
            self._doomed.add((shard, place))
        self.begun[shard, place] = now
        return self._drawn(shard, place, record, epoch)

    def arrived(self, now_s: float) -> list[Attempt]:
        """Take the attempts of lost runners that have ended."""
        ended = [each for each in self.orphans if each.due_s <= now_s]
        if ended:
            self.orphans = [each for each in self.orphans if each.due_s > now_s]
        return ended

    def _drawn(self, shard: TopicPartition, place: str, record: EffectRecord, epoch: int) -> Attempt:
        effect, now_s = registered(record.effect), self.clock.monotonic_s()
        assert effect is not None, record.effect
        outcome = EffectOutcome(place, record.attempt, epoch)
        kind = self._kind(shard, place)
        if kind == "hangs":
            failed = msgspec.structs.replace(outcome, error="TimeoutError", reason=f"no end after {effect.timeout_s} s")
            return Attempt(now_s + effect.timeout_s, shard, failed)
        delay_s = 0.0 if self.is_calm else _DELAYS_S[self._choices.below(len(_DELAYS_S), "effect-delay")]
        if kind == "fails":
            failed = msgspec.structs.replace(outcome, error="OSError", reason="simulated: no answer")
            return Attempt(now_s + delay_s, shard, failed)
        if kind == "is invalid":
            result = "not a message" if type(None) in effect.signature.results else None
            return Attempt(now_s + delay_s, shard, msgspec.structs.replace(outcome, result=result))
        draw = self._choices.below(1 << 20, "effect-result")
        try:
            made = self._result(effect, record, f"{shard}{place}/{draw}")
        except Exception as error:  # noqa: BLE001  a fake may raise anything
            failure = Failure.of(error, place)
            failed = msgspec.structs.replace(outcome, error=failure.error_type, reason=failure.message)
            return Attempt(now_s + delay_s, shard, failed)
        return Attempt(now_s + delay_s, shard, msgspec.structs.replace(outcome, result=made))

    def _kind(self, shard: TopicPartition, place: str) -> str:
        if self.is_calm:
            return "ends"
        if (shard, place) in self._doomed:
            return "fails"
        return _KINDS[self._choices.rarely(len(_KINDS) - 1, _FAILING, "effect")]

    def _result(self, effect: Effect[Any, Any], record: EffectRecord, seed: str) -> Message | None:
        if (fake := self._fakes.get(effect.name)) is not None:
            request: Request = effect.signature.decoder.decode(record.request)
            return fake(request)
        source = random.Random(seed)  # noqa: S311  reproducible on purpose
        kind = source.choice(effect.signature.results)
        return None if kind is type(None) else drawn_message(source, kind)


class SimulatedEffects:
    """What one worker has begun: it stands for the runner of a worker process, and is lost with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: list[Attempt] = []

    def step(self, region: ShardRegion) -> bool:
        """Bring what has ended to its shard, and begin what can be begun; return whether there was any."""
        now_s, now_ms = self._world.clock.monotonic_s(), self._world.clock.epoch_ms()
        self._hear_orphans(region, now_s)
        ended = [each for each in self._under_way if each.due_s <= now_s]
        if ended:
            self._under_way = [each for each in self._under_way if each.due_s > now_s]
            for each in ended:
                if (shard := _shard(region, each)) is not None:
                    shard.finished(each.outcome)
        before = len(self._under_way)
        for assigned in region:
            if assigned.shard is not None and assigned.phase in _MAY_BEGIN:
                self._begin(assigned.place, assigned.shard.effects, now_ms)
        return bool(ended) or len(self._under_way) > before

    def _begin(self, shard: TopicPartition, effects: Effects, now_ms: int) -> None:
        room = self._world.running_max - len(self._under_way)
        self._under_way += [
            self._world.begin(shard, place, effects.started(place), effects.epoch)
            for place in effects.startable(now_ms, room)
        ]
        queues = [effects.queue_of(effects.records[place]) for place in effects.running]
        if len({*queues}) < len(queues):
            raise Violation("the effects of one key and function are in order", f"{shard}: {sorted(queues)}")

    def _hear_orphans(self, region: ShardRegion, now_s: float) -> None:
        for each in self._world.arrived(now_s) if self._world.orphans else ():
            shard = _shard(region, each)
            if shard is not None and shard.finished(each.outcome):
                raise Violation("a result is that of its shard's owner", f"{each.shard}: {each.outcome} is not")

    def next_s(self, region: ShardRegion, now_s: float) -> float | None:
        """Return when the next attempt ends or can begin; None if none does."""
        now_ms = self._world.clock.epoch_ms()
        due_ms = [assigned.shard.effects.next_due_ms() for assigned in region if assigned.shard is not None]
        ends_s = [each.due_s for each in self._under_way]
        begin_s = [now_s + max(0.0, (each - now_ms) / 1_000) for each in due_ms if each is not None]
        return min((*ends_s, *begin_s), default=None)

    def abandon(self) -> None:
        """Lose the worker: nobody waits for what it has begun."""
        self._world.orphans += self._under_way
        self._under_way = []


def _shard(region: ShardRegion, attempt: Attempt) -> Shard | None:
    assigned = region.assigned(attempt.shard)
    return None if assigned is None else assigned.shard
