"""The process tree: Thespian actors that carry out what `supervision.machine` decides.

    node (`run_node`) ── Thespian's Admin ┬ Guardian ┬ SupervisedProcess w0   control thread │ data thread: a `Work`
                                          └ logger   └ SupervisedProcess w1   control thread │ data thread: a `Work`

Thespian forks the processes and carries the control messages below; no record ever travels so. Between the node and
its Guardian there is a socket pair, made before anything is forked: the node can wait on it together with signals.

What Thespian does not do is done here: an exception never leaves ``receiveMessage`` (Thespian would call it again on
the same state), a death is seen at a pidfd and not at ``ChildActorExited`` alone, timers are checked against the clock
at every message (Thespian may lose a wake-up), and a message is only relied on once it is answered.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections import deque
from datetime import timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn, assert_never

import msgspec
from thespian.actors import Actor, ActorExitRequest, ActorSystem, ThespianWatch, WatchMessage

from repertory.supervision import machine
from repertory.supervision.directive import Failure
from repertory.supervision.phase import ChildPhase
from repertory.supervision.process import lineage, transport
from repertory.supervision.process.host import Host, Silence
from repertory.supervision.process.messages import (
    PING,
    STOP,
    Begin,
    LastWord,
    Leave,
    Ping,
    Pong,
    StartWork,
    Status,
    StopWork,
    Up,
)
from repertory.supervision.process.reports import (
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
from repertory.supervision.process.work import Control, WorkSpec
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

#: A process that has said its last word leaves within this time, by itself or by SIGKILL.
LEAVE_TIMEOUT_S = 1.0
#: What Thespian's own logger process writes: warnings and worse, to stderr.
_LOGGER_PROCESS = {
    "version": 1,
    "formatters": {"line": {"format": "thespian: %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "level": "WARNING"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}
#: Logging as it was set up before Thespian replaced it by one that sends every line as an actor message.
_ROOT_LOGGER, _LOGGERS = logging.root, logging.Logger.manager


class SupervisedProcess(Actor):  # type: ignore[misc] # Thespian has no types
    """A worker's process. Its methods run on the control thread, but for `_run_work`; none of them blocks.

    Does nothing when it is made: an exception there would look like an exit without a reason.
    """

    def __init__(self) -> None:
        _take_over_process()
        self._start: StartWork | None = None
        self._control: Control | None = None
        self._parent: object = None
        self._said: SimpleQueue[Up | LastWord] = SimpleQueue()
        self._wake_r, self._wake_w = os.pipe()

    def receiveMessage(self, message: object, sender: object) -> object:  # noqa: N802 # Thespian's name
        """Handle one message; an error of ours ends the process. Returns what Thespian is to watch, each time."""
        try:
            self._receive(message, sender)
        except Exception:  # noqa: BLE001 # Thespian would call again with the same message
            _die_of_our_bug()
        return ThespianWatch([self._wake_r])

    def _receive(self, message: object, sender: object) -> None:
        match message:
            case StartWork():
                self._begin(message, sender)
            case Ping():
                self._pong()
            case StopWork(incarnation) if self._control and self._control.incarnation == incarnation:
                self._control.stopping.set()
            case WatchMessage():
                self._relay()
            case Leave(incarnation) if self._control and self._control.incarnation == incarnation:
                self._leave(self._control)
            case _:
                pass  # Thespian's own; the Guardian ends this process, nobody else

    def _begin(self, message: StartWork, sender: object) -> None:
        assert self._start is None, "started twice"
        self._start, self._parent = message, sender
        spec, incarnation = message.spec, message.incarnation
        on_started = partial(self._say, Up(spec.name, incarnation))
        self._control = Control(spec.name, incarnation, ReportWriter(message.report_fd), on_started)
        self._pong()  # before the work can take the GIL for good: its stack must be written also then
        threading.Thread(target=self._run_work, args=(spec, self._control), name="data", daemon=True).start()

    def _pong(self) -> None:
        """Answer, and have the stacks written should the next ping not be answered in time (needs no GIL)."""
        if self._start is None or self._control is None:
            return
        timeouts = self._start.timeouts
        silent_s, doing = self._control.silence()
        faulthandler.dump_traceback_later(0.75 * timeouts.ping_timeout_s, file=2)
        if timeouts.progress_timeout_s is not None and silent_s > timeouts.progress_timeout_s:
            headline = f"{self._start.spec.name}: no progress for {silent_s:.1f} s{_in(doing)}; its stacks:\n"
            os.write(2, headline.encode())
            faulthandler.dump_traceback(file=2)  # the Guardian kills it for this answer
        self.send(self._parent, Pong(self._start.spec.name, self._start.incarnation, silent_s, doing))

    def _run_work(self, spec: WorkSpec, control: Control) -> None:
        """The data thread. Whatever happens, the last word is said."""
        failure = None
        try:
            spec.build().run(control)
            if not control.stopping.is_set():
                raise RuntimeError(f"the work {spec.target} returned before it was asked to stop")  # noqa: TRY301
        except BaseException as error:  # noqa: BLE001 # also SystemExit and MemoryError: they fail the process
            failure = Failure.of(error, f"{spec.name}#{control.incarnation}")
        self._say(LastWord(spec.name, control.incarnation, failure))

    def _say(self, message: Up | LastWord) -> None:
        """From the data thread to the control thread, which alone may send."""
        self._said.put(message)
        os.write(self._wake_w, b".")

    def _relay(self) -> None:
        os.read(self._wake_r, 4096)
        with contextlib.suppress(Empty):
            while True:
                message = self._said.get_nowait()
                self.send(self._parent, message)
                if isinstance(message, LastWord):
                    # A send is only out once it is answered (by Leave); but leave in any case.
                    leave = threading.Timer(LEAVE_TIMEOUT_S, os._exit, (os.EX_SOFTWARE,))
                    leave.daemon = True
                    leave.start()

    def _leave(self, control: Control) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(os.EX_OK if control.stopping.is_set() else os.EX_SOFTWARE)


class Guardian(Actor):  # type: ignore[misc] # Thespian has no types
    """Supervises the workers of one node: owns their `Tree` and their processes. One thread, nothing blocks.

    A bug here ends the process, and with it, by the kernel, its workers; the node sees it and leaves.
    """

    def __init__(self) -> None:
        _take_over_process()
        self._begin: Begin
        self._reports: ReportWriter
        self._tree: Tree
        self._specs: dict[str, WorkSpec] = {}
        self._hosts: dict[str, Host] = {}
        self._due: dict[Due, float] = {}
        self._events: deque[TreeEvent] = deque()
        self._stop_by_s: float | None = None
        self._next_turn_s = 0.0
        self._status = Status(os.getpid())

    def receiveMessage(self, message: object, _sender: object) -> object:  # noqa: N802 # Thespian's name
        """Handle one message, then all that is due. Returns what Thespian is to watch, each time."""
        try:
            self._receive(message)
            if self._specs:
                self._look_around(time.monotonic())
                pidfds = [host.pidfd for host in self._hosts.values()]
                return ThespianWatch([self._begin.link_fd, self._begin.node_pidfd, *pidfds])
        except Exception:  # noqa: BLE001 # Thespian would call again with the same message
            _die_of_our_bug()
        return None

    def _receive(self, message: object) -> None:
        match message:
            case Begin():
                self._start_all(message)
            case WatchMessage():
                self._read_watched(message.ready)
            case Pong() | Up() | LastWord():
                host = self._hosts.get(message.worker)
                if host and host.incarnation == message.incarnation:
                    self._heard(host, message)
            case ActorExitRequest():
                # The node has had our last word. Thespian would first deliver what is queued for dead workers.
                os._exit(os.EX_OK)
            case _:
                pass  # wake-ups, exits and Thespian's own: reasons to look around

    def _start_all(self, begin: Begin) -> None:
        self._begin = begin
        self._reports = ReportWriter(begin.report_fd)
        self._tree = Tree(begin.policy, begin.strategy, seed=os.getpid())
        self._specs = {spec.name: spec for spec in begin.specs}
        for name in self._specs:
            self._step(Add(name))

    def _read_watched(self, ready: list[int]) -> None:
        if self._begin.node_pidfd in ready:
            os._exit(os.EX_UNAVAILABLE)  # the node is gone: the kernel ends the workers as we leave
        if self._begin.link_fd in ready:
            packet = os.read(self._begin.link_fd, 64)
            if packet == PING:
                self._tell_node()
            elif packet == STOP and self._stop_by_s is None:
                self._stop_by_s = time.monotonic() + self._begin.timeouts.stop_timeout_s
                self._step(StopRequested())
        for host in [host for host in self._hosts.values() if host.pidfd in ready]:
            self._gone(host)

    def _heard(self, host: Host, message: Pong | Up | LastWord) -> None:
        host.silence.heard()
        match message:
            case Pong(silent_s=silent_s, doing=doing):
                limit_s = self._begin.timeouts.progress_timeout_s
                if limit_s is not None and silent_s > limit_s and not host.stopping:
                    self._kill(host, f"no progress for {silent_s:.1f} s{_in(doing)}", "progress")
            case Up():
                self._reports.write(WorkerRunning(worker=host.worker, incarnation=host.incarnation, pid=host.pid))
                self._step(Started(host.worker, host.incarnation))
            case LastWord(failure=failure):
                host.failure = failure
                host.leave_by(time.monotonic() + LEAVE_TIMEOUT_S, "did not leave after its last word")
                self.send(host.address, Leave(host.incarnation))
            case _:
                assert_never(message)

    def _gone(self, host: Host) -> None:
        """A process is dead: only now does the machine hear of it, so no two incarnations ever live together."""
        how = host.gone()
        del self._hosts[host.worker]
        self._reports.write(WorkerExited(worker=host.worker, incarnation=host.incarnation, pid=host.pid, how=how))
        failure = host.failure
        if failure is None and not host.stopping:
            failure = Failure("ProcessExited", f"ended with {how}", f"{host.worker}#{host.incarnation}")
        if failure is not None:
            failed = WorkerFailed(
                worker=host.worker,
                incarnation=host.incarnation,
                error_type=failure.error_type,
                message=failure.message,
                where=failure.where,
                traceback=failure.traceback,
            )
            self._reports.write(failed)
            self._step(Failed(host.worker, host.incarnation, self._tree.policy.of_one_gone(failure)))
            if self._tree.child(host.worker).phase is ChildPhase.STOPPED:
                self._reports.write(WorkerDown(worker=host.worker, incarnation=host.incarnation, pid=host.pid))
        self._step(Exited(host.worker, host.incarnation))

    def _look_around(self, now_s: float) -> None:
        """All that depends on the clock, at every message; Thespian's wake-ups only see to it that one comes."""
        for due in [due for due, at_s in self._due.items() if at_s <= now_s]:
            del self._due[due]
            self._step(due)
        for host in list(self._hosts.values()):
            silent_s = host.silence.lasts(now_s)
            if host.killed:
                continue
            if silent_s > self._begin.timeouts.ping_timeout_s:
                self._kill(host, f"no answer to pings for {silent_s:.1f} s", "ping")
            elif host.deadline and host.deadline[0] <= now_s:
                self._kill(host, host.deadline[1], "stop")
            elif self._stop_by_s is not None and self._stop_by_s <= now_s:
                self._kill(host, f"the node did not stop in {self._begin.timeouts.stop_timeout_s:g} s", "stop")
        if now_s >= self._next_turn_s:
            self._next_turn_s = now_s + self._begin.timeouts.turn_s
            self._wake_after(self._begin.timeouts.turn_s)
            for host in self._hosts.values():
                self.send(host.address, Ping())

    def _step(self, event: TreeEvent) -> None:
        """Hand one event to the machine and carry out its commands, before any event that these bring about."""
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
        self._end_if_over()

    def _fork(self, command: Start) -> None:
        worker, incarnation = command.child, command.incarnation
        before = list(getattr(self._myRef, "_child_procs", ()))
        address = self.createActor(SupervisedProcess)
        # Thespian's list of its children: a pid before the child says anything, and the exit code afterwards.
        forked = [child for child in getattr(self._myRef, "_child_procs", ()) if child not in before]
        if not forked:
            failure = Failure("ForkFailed", "no process could be forked", f"{worker}#{incarnation}")
            self._events.append(Failed(worker, incarnation, failure))
            return
        timeouts = self._begin.timeouts
        silence = Silence(time.monotonic(), turn_s_max=2 * timeouts.turn_s)
        host = Host(worker, incarnation, address, forked[0].childProc, silence)
        self._hosts[worker] = host
        self._reports.write(WorkerStarted(worker=host.worker, incarnation=host.incarnation, pid=host.pid))
        self.send(address, StartWork(self._specs[worker], incarnation, timeouts, self._begin.report_fd))

    def _stop(self, command: Stop) -> None:
        host = self._hosts.get(command.child)
        if host is None or host.incarnation != command.incarnation:
            self._events.append(Exited(command.child, command.incarnation))
            return
        host.stopping = True
        timeout_s = self._begin.timeouts.stop_timeout_s
        host.leave_by(time.monotonic() + timeout_s, f"did not stop in {timeout_s:g} s")
        self.send(host.address, StopWork(host.incarnation))

    def _kill(self, host: Host, why: str, reason: str) -> None:
        """Kill a worker; ``reason`` is why in a word, for counters."""
        self._reports.write(
            WorkerKilled(worker=host.worker, incarnation=host.incarnation, pid=host.pid, why=why, reason=reason)
        )
        if not host.stopping and host.failure is None:
            host.failure = Failure("Killed", why, f"{host.worker}#{host.incarnation}")
        host.kill()

    def _end_if_over(self) -> None:
        """Tell the node once there is nothing left to supervise."""
        if self._status.exit_code is not None or self._hosts:
            return
        failure = self._tree.failure
        match self._tree.phase:
            case TreePhase.STOPPED if failure is None:
                self._end(os.EX_OK, "")
            case TreePhase.STOPPED | TreePhase.ESCALATED:
                assert failure is not None, "a tree escalates a failure"
                self._end(os.EX_SOFTWARE, f"gave up: {failure.where}: {failure.error_type}: {failure.message}")
            case TreePhase.RUNNING if all(child.phase is ChildPhase.STOPPED for child in self._tree.children):
                self._end(os.EX_SOFTWARE, "no worker is left: each has failed with an error that stops it")
            case _:
                pass

    def _end(self, exit_code: int, sentence: str) -> None:
        self._status = Status(os.getpid(), exit_code, sentence)
        self._tell_node()

    def _tell_node(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it reads nothing now; it will ask again
            os.write(self._begin.link_fd, msgspec.json.encode(self._status))

    def _wake_after(self, delay_s: float) -> None:
        self.wakeupAfter(timedelta(seconds=delay_s))


def start_guardian(begin: Begin) -> ActorSystem:
    """Fork Thespian's Admin, its logger and a Guardian, and hand the Guardian its orders. Blocks for about 40 ms.

    The transport must be secure, and no thread or Kafka client may exist: all of them are forked from this process.
    Raises Thespian's errors if its Admin does not come up (somebody took the port that was free a moment ago).
    """
    capabilities = {"Admin Port": transport.free_port(), "Process Startup Method": "fork"}
    system = ActorSystem("multiprocTCPBase", capabilities, logDefs=_LOGGER_PROCESS, transientUnique=True)
    system.tell(system.createActor(Guardian), begin)
    return system


def _take_over_process() -> None:
    """Undo what Thespian did to this process's signals and logging. Runs after it, in an actor's constructor."""
    lineage.ignore_relayed_signals()
    lineage.let_crashes_kill()
    logging.root = logging.Logger.root = _ROOT_LOGGER
    logging.Logger.manager = _LOGGERS


def _in(doing: str) -> str:
    return f" in {doing}" if doing else ""


def _die_of_our_bug() -> NoReturn:
    with contextlib.suppress(OSError, ValueError):
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(os.EX_SOFTWARE)
