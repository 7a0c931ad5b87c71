"""A worker on a thread of its own, for tests of what other processes do meanwhile: operators, probes, readers."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from repertory import ActorSystem


@contextlib.contextmanager
def working(system: ActorSystem, url: str) -> Iterator[None]:
    """Run a system on a log until the block ends; an error of the worker is raised there."""
    stopping, running = threading.Event(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            with system.start(url) as worker:
                running.set()
                while not stopping.is_set():
                    worker.tick(0.02)
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
