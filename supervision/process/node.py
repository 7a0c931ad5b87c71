"""The node process: starts the tree, waits for its end or a signal, and leaves nothing behind.

It supervises nothing but its Guardian. Whatever happens, what it has started ends with it: its children are killed
and reaped before `run_node` returns, and if it is killed itself, the kernel ends the tree
(`supervision.process.lineage`).
"""

from __future__ import annotations

import contextlib
import gc
import os
import secrets
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import msgspec

from repertory.supervision.policy import Policy
from repertory.supervision.process import lineage, transport
from repertory.supervision.process.guardian import start_guardian
from repertory.supervision.process.host import Silence
from repertory.supervision.process.messages import PING, STOP, Begin, Status, Timeouts
from repertory.supervision.process.reports import NodeStarted, NodeStopped, NodeStopping, ReportWriter
from repertory.supervision.process.work import WorkSpec
from repertory.supervision.strategy import Strategy

#: A stop that is past its time is the Guardian's to enforce; this is added before the node does it.
STOP_GRACE_S = 3.0
#: Signals that come so close together are one request: systemd signals every process of a unit, and so does timeout(1);
#: what reaches whoever started the node is relayed as well.
TOGETHER_S = 0.5
#: How long the kernel may take to end killed processes; milliseconds, unless a disk is dead.
END_TIMEOUT_S = 10.0


class StopNow(BaseException):
    """The second SIGTERM or SIGINT, raised wherever the main thread is. Not an Exception: Thespian catches those."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def run_node(
    specs: Sequence[WorkSpec],
    policy: Policy,
    strategy: Strategy = Strategy.ONE_FOR_ONE,
    *,
    ping_timeout_s: float,
    stop_timeout_s: float,
    progress_timeout_s: float | None = None,
    reports: ReportWriter,
) -> int:
    """Run the workers until they are told to stop, or until supervision gives up; returns the exit code.

    Call it on the main thread of a fresh process: all others are forked from here, so no thread, no Kafka client and
    no child may exist yet. It takes over SIGTERM and SIGINT: once is a graceful stop (children in reverse order, all
    of them within ``stop_timeout_s``), twice kills at once. A worker that answers no ping for ``ping_timeout_s``, or,
    where ``progress_timeout_s`` is given, whose data thread made no progress for that long, is killed and restarted
    as ``policy`` says.

    Returns 0 after a graceful stop, 128 + the signal's number after the second signal, 70 (EX_SOFTWARE) otherwise,
    with one sentence on stderr and in the last report. No process, thread or port is left then, and the signals
    do nothing any more: exit. Raises `TransportError` before anything is started if Thespian is not the right one.
    """
    names = [spec.name for spec in specs]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a node needs workers with names that differ, not {names}")
    timeouts = Timeouts(ping_timeout_s, stop_timeout_s, progress_timeout_s)
    lineage.found()
    transport.secure(secrets.token_bytes(transport.DIGEST_BYTES))
    transport.log_to_stderr()
    with _signals() as signals:
        try:
            exit_code, sentence = _supervise(tuple(specs), policy, strategy, timeouts, reports, signals)
            signals.ignore()
        except StopNow as stop:
            name = signal.Signals(stop.number).name
            exit_code, sentence = 128 + stop.number, f"killed all workers at the second signal ({name})"
        killed, left = lineage.end_children(END_TIMEOUT_S)
    gc.collect()  # Thespian's endpoint of this process closes when it is collected
    stopped = NodeStopped(pid=os.getpid(), exit_code=exit_code, sentence=sentence, killed=len(killed), left=len(left))
    reports.write(stopped)
    if sentence:
        sys.stderr.write(f"repertory: {sentence}\n")
    return exit_code


class _Signals:
    """What the operator asked for so far. Its handler runs on the main thread, between two of its instructions."""

    def __init__(self, wakeup_r: int) -> None:
        self.wakeup_r = wakeup_r
        self.first: signal.Signals | None = None
        self._first_s = 0.0
        self._ignored = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Note the first, interrupt the main thread at the second."""
        if self._ignored:
            return
        if self.first is None:
            self.first, self._first_s = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._first_s >= TOGETHER_S:
            self._ignored = True
            raise StopNow(number)

    def ignore(self) -> None:
        """From now on the node is leaving; nothing may interrupt that."""
        self._ignored = True


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """Handle the operator's signals while the node runs, and wake its ``poll`` when one comes."""
    wakeup_r, wakeup_w = os.pipe()
    os.set_blocking(wakeup_r, False)
    os.set_blocking(wakeup_w, False)
    signals = _Signals(wakeup_r)
    for number in lineage.RELAYED:
        signal.signal(number, signals.handle)
    signal.set_wakeup_fd(wakeup_w)
    try:
        yield signals
    finally:
        signals.ignore()
        for number in lineage.RELAYED:
            # For good: the process is about to exit, with the code that it has earned. Python puts its own handlers
            # back to the default while it exits, but leaves SIG_IGN.
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        os.close(wakeup_r)
        os.close(wakeup_w)


def _supervise(
    specs: tuple[WorkSpec, ...],
    policy: Policy,
    strategy: Strategy,
    timeouts: Timeouts,
    reports: ReportWriter,
    signals: _Signals,
) -> tuple[int, str]:
    """Start the tree and wait for its end: returns the exit code and, if something went wrong, a sentence."""
    node_pidfd = os.pidfd_open(os.getpid())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for side in (ours, theirs):
            os.set_blocking(side.fileno(), False)
        begin = Begin(specs, policy, strategy, timeouts, reports.fd, theirs.fileno(), node_pidfd)
        try:
            system = start_guardian(begin)
            reports.write(NodeStarted(pid=os.getpid()))
            end = _wait(ours, timeouts, reports, signals)
            if end.exit_code is not None:
                system.shutdown()  # the Admin and its logger; the Guardian has no children any more
        except Exception as error:  # noqa: BLE001 # Thespian's: nothing may be left of the tree
            return os.EX_SOFTWARE, f"the process tree failed: {type(error).__name__}: {error}"
        finally:
            os.close(node_pidfd)
    return (os.EX_SOFTWARE if end.exit_code is None else end.exit_code), end.sentence


def _wait(link: socket.socket, timeouts: Timeouts, reports: ReportWriter, signals: _Signals) -> Status:
    """Ping the Guardian until it says how it ended, or until it is gone, silent or late (then without an exit code)."""
    silence = Silence(time.monotonic(), turn_s_max=2 * timeouts.turn_s)
    guardian_pidfd: int | None = None
    stop_by_s: float | None = None
    poll = select.poll()
    poll.register(link, select.POLLIN)
    poll.register(signals.wakeup_r, select.POLLIN)
    next_ping_s = 0.0
    try:
        while True:
            now_s = time.monotonic()
            if signals.first is not None and stop_by_s is None:
                stop_by_s = now_s + timeouts.stop_timeout_s + STOP_GRACE_S
                reports.write(NodeStopping(pid=os.getpid(), signal=signals.first.name))
                _send(link, STOP)
            if now_s >= next_ping_s:
                next_ping_s = now_s + timeouts.turn_s
                _send(link, PING)
            lineage.reap()
            ready = {fd for fd, _ in poll.poll(timeouts.turn_s * 1_000)}
            if signals.wakeup_r in ready:
                os.read(signals.wakeup_r, 512)
            if link.fileno() in ready:
                silence.heard()
                status = msgspec.json.decode(link.recv(65_536), type=Status)
                if status.exit_code is not None:
                    return status
                if guardian_pidfd is None:
                    guardian_pidfd = os.pidfd_open(status.guardian_pid)
                    poll.register(guardian_pidfd, select.POLLIN)
            elif guardian_pidfd in ready:
                return Status(0, None, "the guardian process died; all its workers were killed")
            silent_s = silence.lasts(time.monotonic())
            if silent_s > timeouts.ping_timeout_s:
                return Status(0, None, f"the guardian answered no ping for {silent_s:.1f} s; killed all workers")
            if stop_by_s is not None and now_s > stop_by_s:
                return Status(0, None, "the guardian did not stop in time; killed all workers")
    finally:
        if guardian_pidfd is not None:
            os.close(guardian_pidfd)


def _send(link: socket.socket, packet: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # the Guardian reads nothing: its silence is measured
        link.send(packet)
