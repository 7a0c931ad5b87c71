"""Ten thousand nearly valid inputs, and some hundred frames to the ports of a node: no unexpected exception escapes."""

from __future__ import annotations

import pytest

from repertory.bridge.system import failed
from tests.campaigns.fuzz import TARGETS, Found, fuzz, unsigned_frame
from tests.campaigns.fuzz_sockets import frames_at_every_port

#: The outcomes that must occur; otherwise the mutator is too weak.
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
    """Any bytes lead to a dead letter, an error sentence or a closed connection. ``make chaos`` tries a million."""
    outcomes = fuzz(10_000, seed=1)
    assert sum(counted["inputs"] for counted in outcomes.values()) >= 10_000
    assert REACHED.keys() == TARGETS.keys()
    assert not [name for name, expected in REACHED.items() if expected - outcomes[name].keys()]


def test_the_same_seed_gives_the_same_inputs() -> None:
    """A finding can be reproduced from its seed."""
    assert fuzz(300, seed=5) == fuzz(300, seed=5) != fuzz(300, seed=6)


def test_an_escaped_exception_is_found_and_can_be_reproduced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that trusts a number is found, and the error has the command that reproduces it."""
    monkeypatch.setattr(failed, "_number", lambda text: int(text or 0))
    with pytest.raises(
        Found, match=r"headers: ValueError: .*python -m tests.campaigns.fuzz --seed 1 --first (\d+) "
    ) as found:
        fuzz(2_000, seed=1, only="headers")
    first = int(str(found.value).partition("--first ")[2].split()[0])
    with pytest.raises(Found):
        fuzz(1, seed=1, only="headers", first=first)


@pytest.mark.processes
def test_unsigned_frames_to_every_port_have_no_effect() -> None:
    """Each connection is closed, no process ends, and the commands sent meanwhile are handled."""
    done = frames_at_every_port(400, 1, unsigned_frame)
    assert done["ports"] == 6
    assert done["closed by the node"] > 50
