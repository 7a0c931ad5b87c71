"""``EffectThread``: the thread of a worker's effects: an event loop, the lifespan around it, and one attempt on it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, TypeVar

import msgspec

from repertory.actors.effect import EffectContext, registered
from repertory.actors.shard.changelog import EffectRecord
from repertory.actors.shard.effects import EffectOutcome
from repertory.bridge.effect_watch import EventLoopWatch
from repertory.supervision.directive import Failure

T = TypeVar("T")

#: What is entered once in each worker, and yields the resources of its effects.
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
#: How long the thread may take to leave the lifespan, and to end what is cancelled.
_LEAVE_S = 5.0


class EndedByEffect(Exception):
    """An effect has raised what ends a process, such as SystemExit; it has failed by that, and nothing else ends."""


class EffectTooSlow(TimeoutError):
    """An attempt has taken longer than its ``timeout_s``; it is cancelled, and nobody waits for its end."""


class RunningContext(EffectContext):
    """What one attempt is given."""

    def __init__(self, fx_id: str, epoch: int, record: EffectRecord, resources: Sequence[object]) -> None:
        self._id, self._epoch, self._record, self._resources = fx_id, epoch, record, resources

    @property
    def id(self) -> str:
        """See ``EffectContext``."""
        return self._id

    @property
    def epoch(self) -> int:
        """See ``EffectContext``."""
        return self._epoch

    @property
    def attempt(self) -> int:
        """See ``EffectContext``."""
        return self._record.attempt

    @property
    def key(self) -> str:
        """See ``EffectContext``."""
        return self._record.key

    def get(self, kind: type[T]) -> T:
        """See ``EffectContext``."""
        for resource in self._resources:
            if isinstance(resource, kind):
                return resource
        names = ", ".join(type(each).__name__ for each in self._resources)
        raise LookupError(
            f"the worker has no {kind.__name__}; ActorSystem(lifespan=…) yields {names or 'nothing'}: let it yield one"
        )


async def attempt(
    thread: EffectThread,
    record: EffectRecord,
    place: str,
    fx_id: str,
    epoch: int,
    ended: Callable[[EffectOutcome], None],
) -> None:
    """Run one attempt of an effect, and tell its outcome; not at all if it is cancelled."""
    outcome = EffectOutcome(place, record.attempt, epoch)
    try:
        result = await _result(thread, record, fx_id, epoch)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        failure = Failure.of(EndedByEffect(repr(error)), fx_id)  # It was cancelled by what it has called.
    except EffectTooSlow as error:
        failure = msgspec.structs.replace(Failure.of(error, fx_id), traceback="")
    except Exception as error:  # noqa: BLE001  user code
        failure = Failure.of(error, fx_id)
    else:
        ended(msgspec.structs.replace(outcome, result=result))
        return
    error_type, reason, traceback = failure.error_type, failure.message, failure.traceback
    ended(msgspec.structs.replace(outcome, error=error_type, reason=reason, traceback=traceback))


async def _result(thread: EffectThread, record: EffectRecord, fx_id: str, epoch: int) -> object:
    effect = registered(record.effect)
    assert effect is not None, record.effect  # Else it was not startable.
    context = RunningContext(fx_id, epoch, record, await thread.resources())
    named = asyncio.current_task()
    assert named is not None
    running = asyncio.create_task(_guarded(effect.begin(record.request, context)), name=named.get_name())
    try:
        done, _ = await asyncio.wait({running}, timeout=effect.timeout_s)
    finally:
        if not running.done():
            thread.abandon(running)
    if not done:
        raise EffectTooSlow(f"no end after {effect.timeout_s:g} s (timeout_s)")
    return running.result()


async def _guarded(call: Coroutine[Any, Any, T]) -> T:
    """Await a call of user code; what would end the process is an error of that call."""
    try:
        return await call
    except (SystemExit, KeyboardInterrupt) as error:
        raise EndedByEffect(repr(error)) from error


class EffectThread:
    """The thread of a worker's effects: an event loop, and the lifespan around it. ``failure``: why that failed."""

    def __init__(self, lifespan: Lifespan | None) -> None:
        self._lifespan = lifespan
        self.failure: str | None = None
        self._loop = asyncio.new_event_loop()
        self._ready: asyncio.Future[Sequence[object]] = self._loop.create_future()
        self._stopping = asyncio.Event()
        #: Strong references: the event loop has none to its tasks.
        self._tasks: set[asyncio.Future[Any]] = set()
        self._thread = threading.Thread(target=self._run, name="effects", daemon=True)
        #: Whether a sync call blocks the loop.
        self.watch = EventLoopWatch(self._loop, self._thread)
        self._thread.start()

    def submit(self, make: Callable[[], Coroutine[Any, Any, None]], name: str) -> Callable[[], object]:
        """Run a coroutine on the loop, as a task of that name; return what cancels it. Any thread may call it."""
        made: list[asyncio.Task[None]] = []
        is_cancelled = threading.Event()

        def start() -> None:
            if not is_cancelled.is_set():
                made.append(task := self._loop.create_task(make(), name=name))
                self._keep(task)

        def cancel() -> None:
            is_cancelled.set()
            with suppress(RuntimeError):  # The loop is closed.
                self._loop.call_soon_threadsafe(lambda: [task.cancel() for task in made])

        with suppress(RuntimeError):  # As above: ``failure`` says why.
            self._loop.call_soon_threadsafe(start)
        return cancel

    @property
    def has_entered(self) -> bool:
        """Whether the lifespan is entered."""
        return self._ready.done()

    async def resources(self) -> Sequence[object]:
        """Return what the lifespan has yielded, once it is entered."""
        return await asyncio.shield(self._ready)

    def abandon(self, running: asyncio.Future[Any]) -> None:
        """Cancel what takes too long, and do not wait for it."""
        self._keep(running)
        running.cancel()

    def stop(self, *, waits: bool = True) -> None:
        """End all, leave the lifespan, and end the thread, if it does so in time. ``waits``: for that."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stopping.set)
        if waits:
            self._thread.join(_LEAVE_S)

    def _keep(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # Heard: else asyncio would log it once more.

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:  # noqa: BLE001  user code; the worker's loop raises it
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            for task in [*self._tasks]:
                task.cancel()
            with suppress(Exception):
                self._loop.run_until_complete(asyncio.wait_for(_all(self._tasks), _LEAVE_S / 2))
            self._loop.close()

    async def _live(self) -> None:
        if self._lifespan is None:
            self._ready.set_result(())
            await self._stopping.wait()
            return
        async with self._lifespan() as yielded:
            self._ready.set_result(_resources(yielded))
            await self._stopping.wait()
            for task in [*self._tasks]:
                task.cancel()
            await _all(self._tasks)


async def _all(tasks: set[asyncio.Future[Any]]) -> None:
    if tasks:
        await asyncio.wait({*tasks}, timeout=_LEAVE_S / 2)


def _resources(yielded: object) -> Sequence[object]:
    """Return what a lifespan has yielded: nothing, one resource, or several."""
    if yielded is None:
        return ()
    if isinstance(yielded, Mapping):
        return tuple(yielded.values())
    return tuple(yielded) if isinstance(yielded, tuple | list) else (yielded,)
