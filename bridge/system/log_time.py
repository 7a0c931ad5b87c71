"""``LogTime``: what a client takes for the time of the log, by which it makes the ids of its asks."""

from __future__ import annotations

from repertory.bridge.log.clock import Clock


class LogTime:
    """The time of the wall clock, until a shard has said that the log has another one. Any thread may call it.

    From then on the wall clock means nothing: the monotonic clock counts on from what was learned. It stops
    while a machine sleeps, and then another answer corrects it again.
    """

    def __init__(self) -> None:
        #: A time of the log (epoch), and when it was learned.
        self._learned: tuple[int, float] | None = None

    def now_ms(self, clock: Clock) -> int:
        """Return the time of the log, as far as it is known."""
        if (learned := self._learned) is None:
            return clock.epoch_ms()
        log_ms, learned_s = learned
        return log_ms + round((clock.monotonic_s() - learned_s) * 1_000)

    def learn(self, log_ms: int, clock: Clock) -> None:
        """Note what a shard has said."""
        self._learned = log_ms, clock.monotonic_s()
