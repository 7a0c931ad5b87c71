"""The restart budget of a shard's keys: a restart counts for its window, and not a moment longer."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from repertory.actors.shard.restart_budget import RestartBudget

WITHIN_S = 10
KEYS = st.sampled_from("abcde")
STEPS = st.one_of(
    st.tuples(st.just("restart"), KEYS),
    st.tuples(st.just("renew"), KEYS),
    st.tuples(st.just("wait"), st.integers(1, 12_000)),
    st.tuples(st.just("set back"), st.integers(1, 30_000)),
    st.tuples(st.just("recover"), st.permutations("abcde")),
)
#: Two keys, whose records are read in another order than that of their restarts.
IN_ANOTHER_ORDER: list[tuple[str, str | int | list[str]]] = [
    ("restart", "a"), ("wait", 1_000), ("restart", "b"), ("recover", ["b", "a"]), ("wait", 9_500),
]  # fmt: skip


@given(steps=st.lists(STEPS, max_size=40))
@example(steps=IN_ANOTHER_ORDER)
def test_the_keys_that_expire_are_those_whose_last_restart_is_past(
    steps: list[tuple[str, str | int | list[str]]],
) -> None:
    """In whatever order keys were restarted, or their records read, each expires right after its window."""
    budget, last_ms, now_ms = RestartBudget(WITHIN_S), dict[str, int](), 1_000_000
    for step, argument in steps:
        match step, argument:
            case "restart", str(key):
                budget.restarted(key, (*budget.of(key), now_ms))
                last_ms[key] = now_ms
            case "renew", str(key):
                budget.renew(key)
                last_ms.pop(key, None)
            case "wait", int(wait_ms):
                now_ms += wait_ms
            case "set back", int(jump_ms):
                now_ms -= jump_ms
                budget.clock_set_back(now_ms)
                last_ms = {key: min(at_ms, now_ms) for key, at_ms in last_ms.items()}
            case "recover", keys:
                recorded = {key: budget.of(key) for key in keys if key in budget}  # type: ignore[union-attr]
                budget = RestartBudget(WITHIN_S)
                budget.restore(recorded)
        past = {key for key, at_ms in last_ms.items() if at_ms < now_ms - WITHIN_S * 1_000}
        assert set(budget.expire(now_ms)) == past
        last_ms = {key: at_ms for key, at_ms in last_ms.items() if key not in past}
        assert {key for key in "abcde" if key in budget} == set(last_ms)
