"""The process tree: Thespian actors that carry out what `supervision.machine` decides.

    node (`run_node`) ── Thespian's Admin ┬ Guardian ┬ SupervisedProcess w0   control thread │ data thread: a `Work`
                                          └ logger   └ SupervisedProcess w1   control thread │ data thread: a `Work`

Thespian forks the processes and carries the control messages (`supervision.process.messages`); records never travel
this way. A socket pair links the node and its Guardian. It is made before the fork, and the node can wait on it and for
signals at the same time.

What Thespian does not guarantee is ensured here. No exception leaves ``receiveMessage``: Thespian would call it again
in the same state. A process's end is seen at its pidfd, and does not depend on ``ChildActorExited``. Timers are checked
against the clock at every message, because Thespian may lose a wake-up. A message counts as delivered only when it is
answered.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from datetime import timedelta
from typing import assert_never

import msgspec
from thespian.actors import Actor, ActorExitRequest, ActorSystem, ThespianWatch, WatchMessage

from repertory.supervision import machine
from repertory.supervision.directive import Failure
from repertory.supervision.phase import ChildPhase
from repertory.supervision.process import transport
from repertory.supervision.process.actor_process import exit_on_internal_error, take_over_process
from repertory.supervision.process.messages import (
    PING,
    STOP,
    Begin,
    Exit,
    GuardianStatus,
    Ping,
    Pong,
    StartWork,
    StopWork,
    WorkEnded,
    WorkStarted,
)
from repertory.supervision.process.reports import (
    REPORTED_TRACEBACK_BYTES_MAX,
    Escalated,
    ReportWriter,
    WorkerDown,
    WorkerExited,
    WorkerFailed,
    WorkerKilled,
    WorkerRunning,
    WorkerStarted,
    WorkerWaits,
)
from repertory.supervision.process.supervised import EXIT_TIMEOUT_S, SupervisedProcess
from repertory.supervision.process.work import WorkSpec
from repertory.supervision.process.worker_process import Silence, WorkerProcess
from repertory.supervision.traceback_text import bounded
from repertory.supervision.tree import (
    Add,
    Due,
    Escalate,
    Exited,
    Failed,
    Start,
    Started,
    Stop,
    StopRequested,
    Tree,
    TreeEvent,
    TreePhase,
    WakeAfter,
)

#: Thespian's own logger process writes warnings and errors to stderr.
_LOGGER_PROCESS = {
    "version": 1,
    "formatters": {"line": {"format": "thespian: %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}


class Guardian(Actor):  # type: ignore[misc] # Thespian has no types
    """Supervises the workers of one node: owns their `Tree` and their processes. Has one thread and never blocks.

    An internal error ends this process; the kernel then ends its workers, and the node sees that and exits.
    """

    def __init__(self) -> None:
        take_over_process()
        self._begin: Begin
        self._reports: ReportWriter
        self._tree: Tree
        self._specs: dict[str, WorkSpec] = {}
        self._processes: dict[str, WorkerProcess] = {}
        self._due: dict[Due, float] = {}
        self._events: deque[TreeEvent] = deque()
        self._stop_by_s: float | None = None
        self._next_turn_s = 0.0
        self._status = GuardianStatus(os.getpid())

    def receiveMessage(self, message: object, _sender: object) -> object:  # noqa: N802 # Thespian's name
        """Handle one message, then all that is due. Returns the descriptors that Thespian is to watch."""
        try:
            self._receive(message)
            if self._specs:
                self._tick(time.monotonic())
                pidfds = [process.pidfd for process in self._processes.values()]
                return ThespianWatch([self._begin.link_fd, self._begin.node_pidfd, *pidfds])
        except Exception:  # noqa: BLE001 # Thespian would call again with the same message
            exit_on_internal_error()
        return None

    def _receive(self, message: object) -> None:
        match message:
            case Begin():
                self._start_all(message)
            case WatchMessage():
                self._read_watched(message.ready)
            case Pong() | WorkStarted() | WorkEnded():
                process = self._processes.get(message.worker)
                if process and process.incarnation == message.incarnation:
                    self._on_message(process, message)
            case ActorExitRequest():
                # The node has the final status. Thespian would first deliver the messages queued for dead workers.
                os._exit(os.EX_OK)
            case _:
                pass  # Wake-ups, exits and Thespian's own messages: the caller checks what is due.

    def _start_all(self, begin: Begin) -> None:
        self._begin = begin
        self._reports = ReportWriter(begin.report_fd)
        self._tree = Tree(begin.policy, begin.strategy, seed=os.getpid())
        self._specs = {spec.name: spec for spec in begin.specs}
        for name in self._specs:
            self._step(Add(name))

    def _read_watched(self, ready: list[int]) -> None:
        if self._begin.node_pidfd in ready:
            os._exit(os.EX_UNAVAILABLE)  # The node is dead; the kernel ends the workers when this process exits.
        if self._begin.link_fd in ready:
            packet = os.read(self._begin.link_fd, 64)
            if packet == PING:
                self._send_status()
            elif packet == STOP and self._stop_by_s is None:
                self._stop_by_s = time.monotonic() + self._begin.timeouts.stop_timeout_s
                self._step(StopRequested())
        for process in [process for process in self._processes.values() if process.pidfd in ready]:
            self._on_exit(process)

    def _on_message(self, process: WorkerProcess, message: Pong | WorkStarted | WorkEnded) -> None:
        process.silence.end()
        worker, incarnation = process.worker, process.incarnation
        match message:
            case Pong(silent_s=silent_s):
                limit_s = self._begin.timeouts.progress_timeout_s
                if limit_s is not None and silent_s > limit_s and not process.stopping:
                    self._kill(process, message.describe(), "progress")
            case WorkStarted():
                self._reports.write(WorkerRunning(worker=worker, incarnation=incarnation, pid=process.pid))
                self._step(Started(worker, incarnation))
            case WorkEnded(failure=failure):
                process.failure = failure
                process.exit_by(time.monotonic() + EXIT_TIMEOUT_S, "did not exit after its work had ended")
                self.send(process.address, Exit(incarnation))
            case _:
                assert_never(message)

    def _on_exit(self, process: WorkerProcess) -> None:
        """Handle the end of a process. The machine learns of it only now: no two incarnations run at the same time."""
        how, worker, incarnation = process.reap(), process.worker, process.incarnation
        del self._processes[worker]
        self._reports.write(WorkerExited(worker=worker, incarnation=incarnation, pid=process.pid, how=how))
        failure = process.failure
        if failure is None and not process.stopping:
            failure = Failure("ProcessExited", f"ended with {how}", f"{worker}#{incarnation}")
        if failure is not None:
            failed = WorkerFailed(
                worker=worker,
                incarnation=incarnation,
                error_type=failure.error_type,
                message=failure.message,
                where=failure.where,
                traceback=bounded(failure.traceback, REPORTED_TRACEBACK_BYTES_MAX),
            )
            self._reports.write(failed)
            self._step(Failed(worker, incarnation, self._tree.policy.of_one_gone(failure)))
            if self._tree.child(worker).phase is ChildPhase.STOPPED:
                self._reports.write(WorkerDown(worker=worker, incarnation=incarnation, pid=process.pid))
        self._step(Exited(worker, incarnation))

    def _tick(self, now_s: float) -> None:
        """Do all that depends on the clock, at every message; Thespian's wake-ups only make sure that one arrives."""
        for due in [due for due, at_s in self._due.items() if at_s <= now_s]:
            del self._due[due]
            self._step(due)
        for process in list(self._processes.values()):
            silent_s = process.silence.update(now_s)
            if process.killed:
                continue
            if silent_s > self._begin.timeouts.ping_timeout_s:
                self._kill(process, f"no answer to pings for {silent_s:.1f} s", "ping")
            elif process.deadline and process.deadline[0] <= now_s:
                self._kill(process, process.deadline[1], "stop")
            elif self._stop_by_s is not None and self._stop_by_s <= now_s:
                self._kill(process, f"the node did not stop in {self._begin.timeouts.stop_timeout_s:g} s", "stop")
        if now_s >= self._next_turn_s:
            self._next_turn_s = now_s + self._begin.timeouts.turn_s
            self._wake_after(self._begin.timeouts.turn_s)
            for process in self._processes.values():
                self.send(process.address, Ping())

    def _step(self, event: TreeEvent) -> None:
        """Hand one event to the machine and carry out its commands. Events that these cause are handled after them."""
        self._events.append(event)
        if len(self._events) > 1:
            return
        while self._events:
            self._tree, commands = machine.step(self._tree, self._events[0], time.monotonic())
            for command in commands:
                match command:
                    case Start():
                        self._fork(command)
                    case Stop():
                        self._stop(command)
                    case WakeAfter(worker, incarnation, delay_s):
                        self._reports.write(WorkerWaits(worker=worker, incarnation=incarnation, delay_s=delay_s))
                        self._due[Due(worker, incarnation)] = time.monotonic() + delay_s
                        self._wake_after(delay_s)
                    case Escalate(failure):
                        self._reports.write(Escalated(message=failure.message, where=failure.where))
                    case _:
                        assert_never(command)
            self._events.popleft()
        self._finish_if_over()

    def _fork(self, command: Start) -> None:
        worker, incarnation = command.child, command.incarnation
        before = list(getattr(self._myRef, "_child_procs", ()))
        address = self.createActor(SupervisedProcess)
        # Thespian's list of its children gives the pid before the child sends anything, and the exit code afterwards.
        forked = [child for child in getattr(self._myRef, "_child_procs", ()) if child not in before]
        if not forked:
            failure = Failure("ForkFailed", "no process could be forked", f"{worker}#{incarnation}")
            self._events.append(Failed(worker, incarnation, failure))
            return
        timeouts = self._begin.timeouts
        silence = Silence(time.monotonic(), turn_s_max=2 * timeouts.turn_s)
        process = WorkerProcess(worker, incarnation, address, forked[0].childProc, silence)
        self._processes[worker] = process
        self._reports.write(WorkerStarted(worker=worker, incarnation=incarnation, pid=process.pid))
        self.send(address, StartWork(self._specs[worker], incarnation, timeouts, self._begin.report_fd))

    def _stop(self, command: Stop) -> None:
        process = self._processes.get(command.child)
        if process is None or process.incarnation != command.incarnation:
            self._events.append(Exited(command.child, command.incarnation))
            return
        process.stopping = True
        timeout_s = self._begin.timeouts.stop_timeout_s
        process.exit_by(time.monotonic() + timeout_s, f"did not stop in {timeout_s:g} s")
        self.send(process.address, StopWork(process.incarnation))

    def _kill(self, process: WorkerProcess, why: str, reason: str) -> None:
        """Kill a worker. ``why`` is reported in words; ``reason`` is its label for counters."""
        worker, incarnation = process.worker, process.incarnation
        self._reports.write(
            WorkerKilled(worker=worker, incarnation=incarnation, pid=process.pid, why=why, reason=reason)
        )
        if not process.stopping and process.failure is None:
            process.failure = Failure("Killed", why, f"{worker}#{incarnation}")
        process.kill()

    def _finish_if_over(self) -> None:
        """Send the final status to the node when there is nothing left to supervise."""
        if self._status.exit_code is not None or self._processes:
            return
        failure = self._tree.failure
        match self._tree.phase:
            case TreePhase.STOPPED if failure is None:
                self._finish(os.EX_OK, "")
            case TreePhase.STOPPED | TreePhase.ESCALATED:
                assert failure is not None, "a tree escalates a failure"
                self._finish(os.EX_SOFTWARE, f"gave up: {failure.where}: {failure.error_type}: {failure.message}")
            case TreePhase.RUNNING if all(child.phase is ChildPhase.STOPPED for child in self._tree.children):
                self._finish(os.EX_SOFTWARE, "no worker is left: each has failed with an error that stops it")
            case _:
                pass

    def _finish(self, exit_code: int, sentence: str) -> None:
        self._status = GuardianStatus(os.getpid(), exit_code, sentence)
        self._send_status()

    def _send_status(self) -> None:
        with contextlib.suppress(BlockingIOError):  # The node does not read now; it will ask again.
            os.write(self._begin.link_fd, msgspec.json.encode(self._status))

    def _wake_after(self, delay_s: float) -> None:
        self.wakeupAfter(timedelta(seconds=delay_s))


def start_guardian(begin: Begin) -> ActorSystem:
    """Fork Thespian's Admin, its logger and a Guardian, and send ``begin`` to the Guardian. Blocks for about 40 ms.

    The transport must be secure, and no thread or Kafka client may exist: all processes are forked from this one.
    Raises Thespian's errors if its Admin does not start, for example because its port was taken in the meantime.
    """
    capabilities = {"Admin Port": transport.free_port(), "Process Startup Method": "fork"}
    system = ActorSystem("multiprocTCPBase", capabilities, logDefs=_LOGGER_PROCESS, transientUnique=True)
    system.tell(system.createActor(Guardian), begin)
    return system
