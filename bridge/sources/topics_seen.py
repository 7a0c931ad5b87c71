"""``TopicsSeen``: surveys the topics of sources, so that a log that does not answer holds up nothing else.

The system's own log answers at once, or nothing works; another cluster is asked on a thread of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Empty, SimpleQueue

from repertory.bridge.log.errors import LogError
from repertory.bridge.log.follower import Follower, Surveyed

#: How often a topic is surveyed that is read: it may have been created again, or have more partitions.
INTERVAL_S = 5.0

#: What there is of a topic: None if it does not exist, an error if its log does not answer.
Seen = Surveyed | LogError | None


class TopicsSeen:
    """Surveys of one source's topic. ``is_local``: it is asked on the caller's thread."""

    def __init__(self, follower: Follower, *, is_local: bool) -> None:
        self._follower, self._is_local = follower, is_local
        self._is_asking = False
        self._due_s = 0.0
        self._questions: SimpleQueue[str | None] = SimpleQueue()
        self._answers: SimpleQueue[Seen] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, topic: str, now_s: float, *, at_once: bool) -> None:
        """Survey the topic if that is due, or ``at_once``, and not under way."""
        if self._is_asking or not (at_once or now_s >= self._due_s):
            return
        self._is_asking, self._due_s = True, now_s + INTERVAL_S
        if self._is_local:
            self._answers.put(self._survey(topic))
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="source topic", daemon=True)
            self._thread.start()
        self._questions.put(topic)

    def answers(self) -> Iterator[Seen]:
        """Yield what the survey has found, if it has ended."""
        try:
            found = self._answers.get_nowait()
        except Empty:
            return
        self._is_asking = False
        yield found

    def _survey(self, topic: str) -> Seen:
        try:
            return self._follower.survey(topic)
        except LogError as error:
            return error

    def _run(self) -> None:
        while (topic := self._questions.get()) is not None:
            self._answers.put(self._survey(topic))

    def close(self) -> None:
        """End the thread once its survey has ended; it is not waited for."""
        self._questions.put(None)
