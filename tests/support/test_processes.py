"""Programs that tests start: what they inherit, and that nothing is left of them."""

from __future__ import annotations

import signal
import subprocess
import sys

import psutil
import pytest

from tests.support.processes import inherited_signals, running, started

pytestmark = pytest.mark.processes

ASKED = "import signal; print(*(signal.getsignal(n).name for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)))"
#: A program in the session of the test's, and one that leads its own; both ignore what asks them to end.
FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for apart in (False, True):
    print(subprocess.Popen(["sleep", "600"], start_new_session=apart).pid, flush=True)
if sys.argv[1] == "stay":
    time.sleep(600)
"""


def test_a_program_gets_default_signals_whatever_the_test_run_ignores() -> None:
    """What the run ignores it goes on ignoring; a program ignores only what it is told to."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with started([sys.executable, "-c", ASKED], stdout=subprocess.PIPE, ignored=[signal.SIGQUIT]) as process:
            assert process.communicate(timeout=60)[0].split() == ["SIG_DFL", "SIG_DFL", "SIG_IGN"]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        with inherited_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("what", "left_max"), [("stay", 0), ("leave", 1)])
def test_nothing_is_left_when_a_test_fails(what: str, left_max: int) -> None:
    """All descendants are killed; of a program that has ended by itself those of its session."""
    processes: list[psutil.Process] = []

    def fail() -> None:
        with started([sys.executable, "-c", FAMILY, what], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            processes.extend(psutil.Process(int(process.stdout.readline())) for _ in range(2))
            if what == "leave":
                process.wait(60)
            raise LookupError("a test that fails")

    with pytest.raises(LookupError):
        fail()
    alive = running(processes)
    for each in alive:
        each.kill()
    assert alive == processes[1:][:left_max]
