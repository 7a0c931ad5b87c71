"""A worker on a thread of its own, for tests of what other processes do meanwhile: operators, probes, readers."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from repertory import ActorSystem

#: How long the block waits for the shards at most.
OWNED_S = 10.0


@contextlib.contextmanager
def working(system: ActorSystem, url: str) -> Iterator[None]:
    """Run a system on a log until the block ends; an error of the worker is raised there.

    The block begins when it has all shards, or some time later: one may have stopped, or be another member's.
    """
    stopping, running = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with system.start(url) as worker:
                until_s = time.monotonic() + OWNED_S
                while not stopping.is_set():
                    worker.tick(0.02)
                    if worker._has_recovered_all() or time.monotonic() > until_s:
                        running.set()
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)
            running.set()

    thread = threading.Thread(target=work, name="worker")
    thread.start()
    running.wait()
    try:
        yield
    finally:
        stopping.set()
        thread.join()
    if errors:
        raise errors[0]
