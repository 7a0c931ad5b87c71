"""``RestartBudget``: the restarts of a shard's keys within the window of their policy.

The budget belongs to the key, not to a command: a key of which every command fails once is as broken as a key whose
first command always fails. The restarts are also in the state records, so a crash or a rebalance does not reset them.
"""

from __future__ import annotations

from collections.abc import Mapping


class RestartBudget:
    """Owned by its shard. Restarts are epoch milliseconds, newest last; at most ``max_restarts`` for each key."""

    __slots__ = ("_restarts", "_within_ms")

    def __init__(self, within_s: float) -> None:
        self._within_ms = within_s * 1000
        #: In the order of the last restart, so that expired keys come first (a dict keeps the order).
        self._restarts: dict[str, tuple[int, ...]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._restarts

    def of(self, key: str) -> tuple[int, ...]:
        """Return the restarts of a key; some may be outside the window."""
        return self._restarts.get(key, ())

    def history_s(self, key: str) -> tuple[float, ...]:
        """Return the restarts of a key in seconds, as ``judge`` takes them."""
        return tuple(at_ms / 1000 for at_ms in self._restarts.get(key, ()))

    def clock_set_back(self, now_ms: int) -> None:
        """Count restarts that are in the future as restarts now, so that they expire after one window."""
        for key, restarts_ms in self._restarts.items():
            if restarts_ms[-1] > now_ms:
                self._restarts[key] = tuple(min(at_ms, now_ms) for at_ms in restarts_ms)

    def restore(self, restarts_ms: Mapping[str, tuple[int, ...]]) -> None:
        """Load the restarts that a former owner recorded, by key."""
        self._restarts = dict(sorted(restarts_ms.items(), key=lambda item: item[1][-1]))

    def restarted(self, key: str, restarts_ms: tuple[int, ...]) -> None:
        """Replace the restarts of a key, with one more."""
        self._restarts.pop(key, None)
        self._restarts[key] = restarts_ms

    def renew(self, key: str) -> None:
        """Reset the budget of a key, since an operator has acted on it."""
        self._restarts.pop(key, None)

    def expire(self, now_ms: int) -> list[str]:
        """Remove the keys whose last restart is outside the window, and return them."""
        expired = []
        for key, restarts_ms in self._restarts.items():
            if restarts_ms[-1] >= now_ms - self._within_ms:
                break
            expired.append(key)
        for key in expired:
            del self._restarts[key]
        return expired
