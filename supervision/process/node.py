"""The node process: starts the process tree, waits for its end or for a signal, and leaves no process behind.

It supervises only its Guardian. Whatever happens, the tree ends with it: its children are killed and reaped before
`run_node` returns, and if the node itself is killed, the kernel ends the tree (`supervision.process.lineage`).
"""

from __future__ import annotations

import contextlib
import gc
import logging
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
from repertory.supervision.process.messages import PING, STOP, Begin, GuardianStatus, Timeouts
from repertory.supervision.process.reports import NodeStarted, NodeStopped, NodeStopping, ReportWriter
from repertory.supervision.process.work import WorkSpec
from repertory.supervision.process.worker_process import Silence
from repertory.supervision.strategy import Strategy

#: The Guardian enforces the stop timeout; if it does not, the node does so this much later.
STOP_GRACE_S = 3.0
#: Signals within this time count as one request. systemd and timeout(1) signal each process of a group, and the process
#: that started the node relays its own signal as well.
SAME_REQUEST_S = 0.5
#: How long the kernel may take to end killed processes; milliseconds, unless a disk is dead.
END_TIMEOUT_S = 10.0


class StopNow(BaseException):
    """The second SIGTERM or SIGINT, raised in the main thread. Not an Exception, because Thespian catches those."""

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
    """Run the workers until a stop is requested or supervision gives up; return the exit code.

    Call it on the main thread of a fresh process: all other processes are forked from it, so no thread, Kafka client or
    child may exist yet. It handles SIGTERM and SIGINT: the first starts a graceful stop (all workers are told before
    any is waited for, and end within ``stop_timeout_s``), the second kills all workers at once. A worker is killed, and
    restarted as ``policy`` says, if it answers no ping for ``ping_timeout_s``, or if ``progress_timeout_s`` is given
    and its data thread makes no progress for that long.

    Returns 0 after a graceful stop, 128 + the signal's number after the second signal, and 70 (EX_SOFTWARE) otherwise,
    with one sentence on stderr and in the last report. When it returns, no process, thread or port of the tree is left
    and the signals are ignored; the caller should exit. Raises `TransportError` before anything is started if the
    installed Thespian is not the supported one.
    """
    names = [spec.name for spec in specs]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a node needs at least one worker, and each with a name of its own, not {names}")
    timeouts = Timeouts(ping_timeout_s, stop_timeout_s, progress_timeout_s)
    lineage.become_node()
    transport.secure(secrets.token_bytes(transport.DIGEST_BYTES))
    transport.log_to_stderr()
    logging.root.addFilter(_is_not_of_thespian)
    with _signals() as signals:
        try:
            exit_code, sentence = _supervise(tuple(specs), policy, strategy, timeouts, reports, signals)
            signals.ignore()
        except StopNow as stop:
            name = signal.Signals(stop.number).name
            exit_code, sentence = 128 + stop.number, f"killed all workers at the second signal ({name})"
        killed, left = lineage.end_children(END_TIMEOUT_S)
    gc.collect()  # Thespian's endpoint in this process is closed when it is collected.
    stopped = NodeStopped(pid=os.getpid(), exit_code=exit_code, sentence=sentence, killed=len(killed), left=len(left))
    reports.write(stopped)
    if sentence:
        sys.stderr.write(f"repertory: {sentence}\n")
    return exit_code


def _is_not_of_thespian(record: logging.LogRecord) -> bool:
    """Drop what Thespian logs to the root logger of this process; its warnings go to stderr by another way."""
    return "/thespian/" not in record.pathname


class _Signals:
    """The operator's signals so far. The handler runs on the main thread, between two of its instructions."""

    def __init__(self, wakeup_r: int) -> None:
        self.wakeup_r = wakeup_r
        self.first: signal.Signals | None = None
        self._first_s = 0.0
        self._ignored = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Record the first signal; raise `StopNow` in the main thread at the second."""
        if self._ignored:
            return
        if self.first is None:
            self.first, self._first_s = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._first_s >= SAME_REQUEST_S:
            self._ignored = True
            raise StopNow(number)

    def ignore(self) -> None:
        """Ignore signals from now on: nothing may interrupt the exit."""
        self._ignored = True


@contextlib.contextmanager
def _signals() -> Iterator[_Signals]:
    """Handle the operator's signals while the node runs; each also wakes its ``poll``."""
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
            # Ignored until the exit, so that no signal changes the exit code. While it exits, Python resets its own
            # handlers to the default but leaves SIG_IGN.
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
    """Start the tree and wait for its end; return the exit code and, after a failure, a sentence."""
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
                system.shutdown()  # Ends the Admin, its logger and the Guardian, which has no children left.
        except Exception as error:  # noqa: BLE001 # any error of Thespian's: the caller ends the whole tree
            return os.EX_SOFTWARE, f"the process tree failed: {type(error).__name__}: {error}"
        finally:
            os.close(node_pidfd)
    return (os.EX_SOFTWARE if end.exit_code is None else end.exit_code), end.sentence


def _wait(link: socket.socket, timeouts: Timeouts, reports: ReportWriter, signals: _Signals) -> GuardianStatus:
    """Ping the Guardian until it sends its final status.

    Returns a status without an exit code if the Guardian died, answered no ping in time, or did not stop in time.
    """
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
                silence.end()
                status = msgspec.json.decode(link.recv(65_536), type=GuardianStatus)
                if status.exit_code is not None:
                    return status
                if guardian_pidfd is None:
                    guardian_pidfd = os.pidfd_open(status.guardian_pid)
                    poll.register(guardian_pidfd, select.POLLIN)
            elif guardian_pidfd in ready:
                return GuardianStatus(0, None, "the guardian process died; all its workers were killed")
            silent_s = silence.update(time.monotonic())
            if silent_s > timeouts.ping_timeout_s:
                sentence = f"the guardian answered no ping for {silent_s:.1f} s; killed all workers"
                return GuardianStatus(0, None, sentence)
            if stop_by_s is not None and now_s > stop_by_s:
                return GuardianStatus(0, None, "the guardian did not stop in time; killed all workers")
    finally:
        if guardian_pidfd is not None:
            os.close(guardian_pidfd)


def _send(link: socket.socket, packet: bytes) -> None:
    with contextlib.suppress(BlockingIOError):  # The Guardian does not read; its silence is measured.
        link.send(packet)
