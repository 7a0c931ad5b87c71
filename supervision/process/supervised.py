"""A supervised process: the control thread, which is Thespian's, and the data thread, which runs the `Work`.

The Guardian forks it and sends `StartWork` (see `supervision.process.guardian`). It ends with `Exit`, when its work has
ended, or by SIGKILL.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from functools import partial
from queue import Empty, SimpleQueue
from typing import NoReturn

from thespian.actors import Actor, ThespianWatch, WatchMessage

from repertory.supervision.directive import Failure
from repertory.supervision.process.actor_process import exit_on_internal_error, take_over_process
from repertory.supervision.process.messages import Exit, Ping, Pong, StartWork, StopWork, WorkEnded, WorkStarted
from repertory.supervision.process.reports import ReportWriter
from repertory.supervision.process.work import Control, WorkSpec

#: A process whose work has ended exits within this time, by itself or by SIGKILL.
EXIT_TIMEOUT_S = 1.0


class SupervisedProcess(Actor):  # type: ignore[misc] # Thespian has no types
    """A worker's process. All methods but `_run_work` run on the control thread, and none of them blocks.

    The constructor starts nothing: an exception there would look like an exit without a reason.
    """

    def __init__(self) -> None:
        take_over_process()
        self._start: StartWork | None = None
        self._control: Control | None = None
        self._parent: object = None
        #: Messages from the data thread that the control thread sends, and the pipe that wakes it for them.
        self._outbox: SimpleQueue[WorkStarted | WorkEnded] = SimpleQueue()
        self._wake_r, self._wake_w = os.pipe()

    def receiveMessage(self, message: object, sender: object) -> object:  # noqa: N802 # Thespian's name
        """Handle one message; an internal error ends the process. Returns the descriptors that Thespian is to watch."""
        try:
            self._receive(message, sender)
        except Exception:  # noqa: BLE001 # Thespian would call again with the same message
            exit_on_internal_error()
        return ThespianWatch([self._wake_r])

    def _receive(self, message: object, sender: object) -> None:
        match message:
            case StartWork():
                self._begin(message, sender)
            case Ping():
                self._answer_ping()
            case StopWork(incarnation) if self._control and self._control.incarnation == incarnation:
                self._control.stopping.set()
            case WatchMessage():
                self._send_outbox()
            case Exit(incarnation) if self._control and self._control.incarnation == incarnation:
                self._exit(self._control)
            case _:
                pass  # Thespian's own messages. Only the Guardian ends this process.

    def _begin(self, message: StartWork, sender: object) -> None:
        assert self._start is None, "started twice"
        self._start, self._parent = message, sender
        spec, incarnation = message.spec, message.incarnation
        on_started = partial(self._post, WorkStarted(spec.name, incarnation))
        self._control = Control(spec.name, incarnation, ReportWriter(message.report_fd), on_started)
        # Before the work starts: it may take the GIL and never release it, and its stack must be written even then.
        self._answer_ping()
        threading.Thread(target=self._run_work, args=(spec, self._control), name="data", daemon=True).start()

    def _answer_ping(self) -> None:
        """Answer, and schedule a dump of all stacks in case the next ping is not answered in time (needs no GIL)."""
        if self._start is None or self._control is None:
            return
        timeouts = self._start.timeouts
        pong = Pong(self._start.spec.name, self._start.incarnation, *self._control.silence())
        faulthandler.dump_traceback_later(0.75 * timeouts.ping_timeout_s, file=2)
        if timeouts.progress_timeout_s is not None and pong.silent_s > timeouts.progress_timeout_s:
            os.write(2, f"{pong.worker}: {pong.describe()}; its stacks:\n".encode())
            faulthandler.dump_traceback(file=2)  # The Guardian kills this process when it receives the answer.
        self.send(self._parent, pong)

    def _run_work(self, spec: WorkSpec, control: Control) -> None:
        """Run the work, on the data thread. Whatever happens, `WorkEnded` is sent."""
        failure = None
        try:
            spec.build().run(control)
            if not control.stopping.is_set():
                raise RuntimeError(f"the work {spec.target} returned before it was asked to stop")  # noqa: TRY301
        except BaseException as error:  # noqa: BLE001 # also SystemExit and MemoryError: they fail the process
            failure = Failure.of(error, f"{spec.name}#{control.incarnation}")
        self._post(WorkEnded(spec.name, control.incarnation, failure))

    def _post(self, message: WorkStarted | WorkEnded) -> None:
        """Hand a message from the data thread to the control thread, which alone may send."""
        self._outbox.put(message)
        os.write(self._wake_w, b".")

    def _send_outbox(self) -> None:
        os.read(self._wake_r, 4096)
        with contextlib.suppress(Empty):
            while True:
                message = self._outbox.get_nowait()
                self.send(self._parent, message)
                if isinstance(message, WorkEnded):
                    # Only the answer (Exit) proves that the message was sent. Without an answer, exit all the same.
                    exit_later = threading.Timer(EXIT_TIMEOUT_S, os._exit, (os.EX_SOFTWARE,))
                    exit_later.daemon = True
                    exit_later.start()

    def _exit(self, control: Control) -> NoReturn:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(os.EX_OK if control.stopping.is_set() else os.EX_SOFTWARE)
