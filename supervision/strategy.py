"""Which siblings share a failed child's fate."""

import enum
from collections.abc import Sequence
from typing import assert_never


class Strategy(enum.Enum):
    """Who is restarted when one child fails, as in OTP."""

    ONE_FOR_ONE = "one_for_one"
    """The failed child alone."""
    ALL_FOR_ONE = "all_for_one"
    """All children (OTP: one_for_all)."""
    REST_FOR_ONE = "rest_for_one"
    """The failed child and those after it, which may depend on it."""


def affected(strategy: Strategy, children: Sequence[str], failed: str) -> tuple[str, ...]:
    """Name the children to restart when `failed` fails, itself included; both `children` and result in start order."""
    assert failed in children, f"{failed} is none of {children}"
    match strategy:
        case Strategy.ONE_FOR_ONE:
            return (failed,)
        case Strategy.ALL_FOR_ONE:
            return tuple(children)
        case Strategy.REST_FOR_ONE:
            return tuple(children[children.index(failed) :])
        case _:
            assert_never(strategy)
