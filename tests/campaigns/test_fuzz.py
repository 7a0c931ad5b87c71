"""Ten thousand inputs that are nearly right, and some hundred frames at the ports of a node: nothing gets out."""

from __future__ import annotations

import pytest

from repertory.operate import operator
from tests.campaigns.fuzz import TARGETS, Found, fuzz, stranger
from tests.campaigns.fuzz_sockets import frames_at_every_port

#: What inputs must have led to, or the mutator has lost its teeth.
REACHED = {
    "commands": {
        "handled",
        "replies",
        "dead letter: DecodeError",
        "dead letter: WrongPartition",
        "dead letter: Dropped",
    },
    "headers": {"asked", "not asked", "has a cause", "has no cause", "no number"},
    "changelog": {"restored", "Inconsistent"},
    "readers": {"answered", "DecodeError", "verify: found", "verify: as promised"},
    "reports": {"report", "lost line", "no record of a node"},
    "frames": {"received", "incomplete", "FrameError"},
}


def test_ten_thousand_inputs_become_what_is_allowed_and_nothing_else() -> None:
    """A dead letter, a sentence, a closed connection: whatever the bytes are; ``make chaos`` tries a million."""
    outcomes = fuzz(10_000, seed=1)
    assert sum(counted["inputs"] for counted in outcomes.values()) >= 10_000
    assert REACHED.keys() == TARGETS.keys()
    assert not [name for name, expected in REACHED.items() if expected - outcomes[name].keys()]


def test_the_same_seed_gives_the_same_inputs() -> None:
    """What is found can be shown again."""
    assert fuzz(300, seed=5) == fuzz(300, seed=5) != fuzz(300, seed=6)


def test_what_gets_out_is_found_and_can_be_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that trusts one number is found, with the one command that shows it."""
    monkeypatch.setattr(operator, "_number", lambda text: int(text or 0))
    with pytest.raises(
        Found, match=r"headers: ValueError: .*python -m tests.campaigns.fuzz --seed 1 --first (\d+) "
    ) as found:
        fuzz(2_000, seed=1, only="headers")
    first = int(str(found.value).partition("--first ")[2].split()[0])
    with pytest.raises(Found):
        fuzz(1, seed=1, only="headers", first=first)


@pytest.mark.processes
def test_frames_of_strangers_at_every_port_are_not_noticed() -> None:
    """Each connection ends, no process does, and what the node was told meanwhile is handled."""
    done = frames_at_every_port(400, 1, stranger)
    assert done["ports"] == 6
    assert done["closed by the node"] > 50
