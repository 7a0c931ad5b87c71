"""``RestartBudget``: when the keys of a shard were restarted, as far back as their policy's window reaches.

An entity's budget is its key's, not one command's: a key whose every command fails once is as broken as one whose first
fails for ever. What is here stands in the state records too, so a crash or a rebalance gives nobody a fresh budget.
"""

from __future__ import annotations

from collections.abc import Mapping


class RestartBudget:
    """Owned by its shard. Instants are epoch milliseconds, newest last; at most ``max_restarts`` of them a key."""

    __slots__ = ("_restarts", "_within_ms")

    def __init__(self, within_s: float) -> None:
        self._within_ms = within_s * 1000
        #: In the order of the last restart, so that what is past its window stands first (a dict keeps the order).
        self._restarts: dict[str, tuple[int, ...]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._restarts

    def of(self, key: str) -> tuple[int, ...]:
        """Return the restarts of a key; some may be past the window."""
        return self._restarts.get(key, ())

    def history_s(self, key: str, now_ms: int) -> tuple[float, ...]:
        """Return the restarts of a key in seconds, as ``judge`` takes them.

        The calendar may have been set back, or that of the last owner be ahead: nothing has happened later than now.
        """
        restarts_ms = self._restarts.get(key)
        if restarts_ms is None:
            return ()
        if restarts_ms[-1] > now_ms:
            restarts_ms = self._restarts[key] = tuple(min(at_ms, now_ms) for at_ms in restarts_ms)
        return tuple(at_ms / 1000 for at_ms in restarts_ms)

    def restore(self, restarts_ms: Mapping[str, tuple[int, ...]]) -> None:
        """Take over what a former owner wrote down, by key."""
        self._restarts = dict(sorted(restarts_ms.items(), key=lambda item: item[1][-1]))

    def restarted(self, key: str, restarts_ms: tuple[int, ...]) -> None:
        """Replace the history of a key by one that has one restart more."""
        self._restarts.pop(key, None)
        self._restarts[key] = restarts_ms

    def renew(self, key: str) -> None:
        """Forget the restarts of a key: an operator has acted on it."""
        self._restarts.pop(key, None)

    def expire(self, now_ms: int) -> list[str]:
        """Forget the keys whose last restart is past the window, and return them."""
        expired = []
        for key, restarts_ms in self._restarts.items():
            if restarts_ms[-1] >= now_ms - self._within_ms:
                break
            expired.append(key)
        for key in expired:
            del self._restarts[key]
        return expired
