"""OTP's restart intensity and an exponential backoff. Both take the time as an argument."""

import math

import msgspec

#: The least time without a failure after which a streak is over, where no other is given.
_QUIET_S = 60.0


class Backoff(msgspec.Struct, frozen=True):
    """The delay of a failed child: ``first_s``, then ``factor`` times longer after each failure, at most ``max_s``.

    Up to ``jitter`` of the delay is added, so that children that failed together do not return together. After
    ``reset_after_s`` without a failure the count starts again; None: after a minute, or twice the longest delay if that
    is more. It must exceed the longest delay; otherwise the delay itself would count as quiet time and would never
    grow. Raises ValueError for invalid settings.
    """

    first_s: float = 0.05
    factor: float = 2.0
    max_s: float = 5.0
    jitter: float = 0.2
    reset_after_s: float | None = None

    def __post_init__(self) -> None:
        """Reject invalid settings, each with its own error message."""
        for name in self.__struct_fields__:
            if getattr(self, name) is not None and not math.isfinite(getattr(self, name)):
                raise ValueError(f"Backoff: {name} must be a finite number, not {getattr(self, name)}")
        if self.first_s < 0:
            raise ValueError(f"Backoff: first_s must be 0 or more, not {self.first_s}")
        if self.factor < 1:
            raise ValueError(f"Backoff: factor must be 1 or more, or delays would shrink, not {self.factor}")
        if self.max_s < self.first_s:
            raise ValueError(f"Backoff: max_s ({self.max_s}) must not be below first_s ({self.first_s})")
        if not 0 <= self.jitter <= 1:
            raise ValueError(f"Backoff: jitter must be from 0 to 1, a share of the delay, not {self.jitter}")
        longest_s = self.max_s * (1 + self.jitter)
        if self.reset_after_s is not None and self.reset_after_s <= longest_s:
            raise ValueError(
                f"Backoff: reset_after_s ({self.reset_after_s}) must exceed the longest delay, "
                f"max_s * (1 + jitter) = {longest_s:g}"
            )

    @property
    def quiet_s(self) -> float:
        """After how long without a failure the count starts again."""
        longest_s = self.max_s * (1 + self.jitter)
        return max(_QUIET_S, 2 * longest_s) if self.reset_after_s is None else self.reset_after_s

    def delay_s(self, attempt: int, draw: float) -> float:
        """Return the delay after failure number `attempt` (from 1) of a streak; `draw` in [0, 1) sets the jitter."""
        assert attempt >= 1, f"attempts count from 1, not {attempt}"
        assert 0 <= draw < 1, f"a draw is in [0, 1), not {draw}"
        try:
            grown_s = self.first_s * self.factor ** (attempt - 1)
        except OverflowError:  # Above 1e308, and so above max_s.
            grown_s = self.max_s if self.first_s else 0.0
        return min(self.max_s, grown_s) * (1 + self.jitter * draw)

    def next_attempt(self, attempts: int, last_failed_s: float | None, now_s: float) -> int:
        """Return the number of a failure at `now_s` after a streak of `attempts`, the last of it at `last_failed_s`."""
        quiet = last_failed_s is None or now_s - last_failed_s >= self.quiet_s
        return 1 if quiet else attempts + 1


def add_restart(restarts: tuple[float, ...], now_s: float, within_s: float) -> tuple[float, ...]:
    """Add a restart at `now_s` and remove those more than `within_s` ago. The newest is last.

    As ``add_restart/3`` of OTP's ``supervisor.erl``: a restart exactly `within_s` ago still counts. The window slides:
    one that starts again at the first failure after its end, as in Pekko, admits twice the limit around that time.
    """
    oldest_s = now_s - within_s
    return (*(restart_s for restart_s in restarts if restart_s >= oldest_s), now_s)


def exhausted(restarts: tuple[float, ...], max_restarts: int) -> bool:
    """Tell whether `restarts`, including the newest, exceed the limit (OTP: ``length > MaxR``)."""
    return len(restarts) > max_restarts
