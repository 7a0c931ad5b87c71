"""Which siblings share a failure: the three strategies."""

import pytest

from repertory.supervision import Strategy, affected


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (Strategy.ONE_FOR_ONE, ("b",)),
        (Strategy.ALL_FOR_ONE, ("a", "b", "c")),
        (Strategy.REST_FOR_ONE, ("b", "c")),
    ],
)
def test_strategy_names_who_is_restarted(strategy: Strategy, expected: tuple[str, ...]) -> None:
    """A strategy names the failed child and those that share its fate, in start order."""
    assert affected(strategy, ["a", "b", "c"], "b") == expected


@pytest.mark.parametrize("strategy", Strategy)
def test_only_a_child_can_fail(strategy: Strategy) -> None:
    """Asking for a child that is none is a bug of ours."""
    with pytest.raises(AssertionError):
        affected(strategy, ["a"], "b")
