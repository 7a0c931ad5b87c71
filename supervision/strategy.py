"""Which siblings are restarted with a failed child."""

import enum
from collections.abc import Sequence
from typing import assert_never


class Strategy(enum.Enum):
    """Which children are restarted when one fails, as in OTP."""

    ONE_FOR_ONE = "one_for_one"
    """Only the failed child."""
    ALL_FOR_ONE = "all_for_one"
    """All children (OTP: one_for_all)."""
    REST_FOR_ONE = "rest_for_one"
    """The failed child and all children after it, which may depend on it."""


def affected(strategy: Strategy, children: Sequence[str], failed: str) -> tuple[str, ...]:
    """Return the children to restart when `failed` fails, including itself, in start order like `children`."""
    assert failed in children, f"{failed} is not in {children}"
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (failed,)
        case Strategy.ALL_FOR_ONE:
            return tuple(children)
        case Strategy.REST_FOR_ONE:
            return tuple(children[children.index(failed) :])
        case _:
            assert_never(strategy)
