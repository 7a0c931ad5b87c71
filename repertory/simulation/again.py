"""The command that runs a seed of a call of ``simulate`` again, and nothing else."""

from __future__ import annotations

import os
import shlex
import sys

#: The seed that each call of ``simulate`` in the process runs, twice, instead of its own.
SEED = "REPERTORY_SIMULATION_SEED"


def only_seed() -> int | None:
    """Return the seed that the environment asks for. Raises ValueError if that is no seed."""
    text = os.environ.get(SEED)
    if text is None:
        return None
    if not text.isdecimal():
        raise ValueError(f"{SEED} is the number of a seed, 0 or more, not {text!r}")
    return int(text)


def call_again(seed: int) -> str:
    """Return a shell command: the test or the program that runs now, with this seed alone.

    A notebook has no such command: there, it is the call with this seed.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST")
    if test is not None:
        return f"{SEED}={seed} python -m pytest {shlex.quote(test.rpartition(' (')[0])}"
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules or sys.argv[:1] == ["-"] or not sys.argv[0]:
        return f"simulate(..., seeds=[{seed}], twice_every=1)"
    return f"{SEED}={seed} {shlex.join(sys.orig_argv)}"
