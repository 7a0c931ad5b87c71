"""The process tree, with real processes: what is killed comes back, what hangs is killed, and nothing is left."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import psutil
import pytest

from repertory.supervision.process.node import SAME_REQUEST_S
from tests.support.paths import ROOT
from tests.support.processes import inherited_signals

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]

HERE = Path(__file__).parent
#: How long a test waits for what takes milliseconds, on a machine that does other things.
PATIENCE_S = 15.0

type_event = dict[str, object]


class Node:
    """A node in its own process, what it reports, and every process that it ever had."""

    def __init__(self, log: Path, **told: object) -> None:
        defaults = {
            "workers": {"w0": {}, "w1": {}},
            "max_restarts": 3,
            "strategy": "one_for_one",
            "ping_timeout_s": 10.0,
            "stop_timeout_s": 5.0,
            "progress_timeout_s": None,
            "backoff_s": 0.01,
        }
        read_fd, write_fd = os.pipe()
        self.log = log
        with log.open("wb") as stderr, inherited_signals():
            self.process = subprocess.Popen(
                [sys.executable, str(HERE / "some_node.py"), str(write_fd), json.dumps({**defaults, **told})],
                pass_fds=[write_fd],
                stderr=stderr,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                start_new_session=True,
            )
        os.close(write_fd)
        self.seen: list[type_event] = []
        self._waiting: list[type_event] = []
        self.tree: dict[int, psutil.Process] = {}
        self._events: queue.SimpleQueue[type_event] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(read_fd,))
        self._reader.start()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, "rb") as lines:
            for line in lines:
                self._events.put(json.loads(line))

    def expect(self, event: str, **fields: object) -> type_event:
        """Wait for a report with this event and these fields; each is given out once, the others are kept."""
        deadline_s = time.monotonic() + PATIENCE_S
        looked_at = 0
        while True:
            for got in self._waiting[looked_at:]:
                if got["event"] == event and fields.items() <= got.items():
                    self._waiting.remove(got)
                    return got
            looked_at = len(self._waiting)
            try:
                got = self._events.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"no {event} {fields}; seen: {self.seen}\n{self.log.read_text()}")
            self.seen.append(got)
            self._waiting.append(got)

    def ready(self, *workers: str) -> dict[str, psutil.Process]:
        """Wait until each of the workers (w0 and w1) is ready; returns their processes."""
        found: dict[str, psutil.Process] = {}
        for worker in workers or ("w0", "w1"):
            pid = self.expect("ready", worker=worker)["pid"]
            assert isinstance(pid, int)
            with contextlib.suppress(psutil.NoSuchProcess):  # it may have misbehaved already
                found[worker] = psutil.Process(pid)
        self.note_tree()
        return found

    def note_tree(self) -> list[psutil.Process]:
        """Remember and return all processes of the tree that there are now."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.tree.update({child.pid: child for child in children})
        return children

    def role(self, role: str) -> psutil.Process:
        """One of Thespian's own processes; by place, as its titles depend on what is installed."""
        # The Admin's launcher has left, but is not reaped, and has no children.
        children = psutil.Process(self.process.pid).children()
        (admin,) = (child for child in children if child.children())
        logger, guardian = sorted(admin.children(), key=lambda child: len(child.children()))
        return {"admin": admin, "guardian": guardian, "logger": logger}[role]

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Send a signal to the node process alone."""
        self.process.send_signal(number)

    def ended(self, exit_code: int) -> str:
        """Wait for the end; check the exit code, and that nothing is left of the tree. Returns stderr."""
        code = self.process.wait(PATIENCE_S)
        _, alive = psutil.wait_procs(list(self.tree.values()), timeout=PATIENCE_S)
        assert not alive
        self._reader.join(PATIENCE_S)
        while not self._events.empty():
            self.seen.append(self._events.get())
        assert code == exit_code, (self.seen, self.log.read_text())
        return self.log.read_text()

    def ended_by_itself(self, exit_code: int) -> str:
        """As `ended`; the node process also found nothing left, before it exited."""
        text = self.ended(exit_code)
        after = self.seen[-1]
        assert after["event"] == "after"
        assert (after["processes"], after["sockets"], after["threads"]) == (0, 0, 1)
        assert self.seen[-2]["event"] == "node-stopped"
        assert self.seen[-2]["exit_code"] == exit_code
        return text

    def close(self) -> None:
        """End what a failed test has left: these processes and no others."""
        for process in (self.process, *self.tree.values()):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()  # psutil compares the start time first
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)


class StartNode(Protocol):
    """What the fixture gives."""

    def __call__(self, **told: object) -> Node:
        """Start a node that is told so."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartNode]:
    """Start nodes, and end them with the test."""
    nodes: list[Node] = []

    def start_one(**told: object) -> Node:
        nodes.append(Node(tmp_path / f"stderr-{len(nodes)}", **told))
        return nodes[-1]

    yield start_one
    for node in nodes:
        node.close()


def misbehaving(deed: str, until: int = 2) -> dict[str, dict[str, object]]:
    """Two workers, of which the first does the deed in its first life."""
    return {"w0": {"deed": deed, "until": until}, "w1": {}}


# What fails comes back.


def test_killed_worker_is_restarted_and_its_sibling_is_not_disturbed(start: StartNode) -> None:
    """SIGKILL from outside: a new incarnation, and one process of the other worker all the time."""
    node = start()
    workers = node.ready()
    workers["w0"].kill()
    exited = node.expect("worker-exited", worker="w0")
    assert exited["how"] == "SIGKILL"
    assert exited["pid"] == workers["w0"].pid
    failed = node.expect("worker-failed", worker="w0")
    assert (failed["error_type"], failed["message"]) == ("ProcessExited", "ended with SIGKILL")
    assert node.ready("w0")["w0"].pid != workers["w0"].pid
    assert workers["w1"].is_running()
    node.stop()
    node.ended_by_itself(0)
    started = [event["incarnation"] for event in node.seen if event["event"] == "worker-started"]
    assert started == [1, 2, 3]


def test_every_worker_can_be_killed_at_once(start: StartNode) -> None:
    """Each comes back, whatever the order in which their ends are seen."""
    node = start(workers={f"w{number}": {} for number in range(4)}, max_restarts=4)
    names = [f"w{number}" for number in range(4)]
    for process in node.ready(*names).values():
        process.kill()
    node.ready(*names)
    node.stop()
    node.ended_by_itself(0)


def test_worker_that_raises_is_reported_and_restarted(start: StartNode) -> None:
    """The failure arrives with its traceback before the process has gone, and the process leaves by itself."""
    node = start(workers=misbehaving("fail"))
    node.ready()
    exited = node.expect("worker-exited", worker="w0")
    assert exited["how"] == "exit code 70"
    failed = node.expect("worker-failed", worker="w0")
    assert failed["error_type"] == "ValueError"
    assert failed["message"] == "broken on purpose"
    assert "in fail" in str(failed["traceback"])
    node.ready("w0")
    node.stop()
    node.ended_by_itself(0)


@pytest.mark.parametrize(("deed", "error_type"), [("leave", "SystemExit"), ("return_early", "RuntimeError")])
def test_work_that_ends_unasked_has_failed(start: StartNode, deed: str, error_type: str) -> None:
    """`sys.exit` and a plain return end a work as an error does."""
    node = start(workers=misbehaving(deed))
    node.ready()
    assert node.expect("worker-failed", worker="w0")["error_type"] == error_type
    node.ready("w0")
    node.stop()
    node.ended_by_itself(0)


@pytest.mark.parametrize(("deed", "how"), [("crash", "SIGSEGV"), ("abort", "SIGABRT")])
def test_native_crash_is_an_exit(start: StartNode, deed: str, how: str) -> None:
    """Not a process that runs into the same fault for ever, as under Thespian's own signal handlers."""
    node = start(workers=misbehaving(deed))
    node.ready()
    assert node.expect("worker-exited", worker="w0")["how"] == how
    node.ready("w0")
    node.stop()
    assert f"in {deed}" in node.ended_by_itself(0)


# What hangs is killed.


def test_worker_that_holds_the_gil_is_killed_and_its_stack_is_written(start: StartNode) -> None:
    """No pong within the limit: SIGKILL; stderr names the function that did it."""
    node = start(workers=misbehaving("catastrophic"), ping_timeout_s=1.0)
    node.ready()
    killed = node.expect("worker-killed", worker="w0")
    assert str(killed["why"]).startswith("no answer to pings for 1.")
    assert node.expect("worker-exited", worker="w0")["how"] == "SIGKILL"
    node.ready("w0")
    node.stop()
    assert "in catastrophic" in node.ended_by_itself(0)


def test_stopped_worker_process_is_killed(start: StartNode) -> None:
    """SIGSTOP: silent without a reason; replaced."""
    node = start(ping_timeout_s=1.0)
    workers = node.ready()
    workers["w0"].suspend()
    node.expect("worker-killed", worker="w0")
    node.ready("w0")
    node.stop()
    node.ended_by_itself(0)


def test_nobody_is_killed_for_time_in_which_all_slept(start: StartNode) -> None:
    """A suspended machine: when it goes on, everybody seems to have been silent, and nobody was."""
    node = start(ping_timeout_s=0.6)
    workers = node.ready()
    everyone = [psutil.Process(node.process.pid), *node.note_tree()]
    for process in everyone:
        process.suspend()
    time.sleep(1.5)  # time passes: that is what is tested
    for process in everyone:
        process.resume()
    workers["w0"].kill()
    node.ready("w0")
    node.stop()
    node.ended_by_itself(0)
    assert not [event for event in node.seen if event["event"] == "worker-killed"]


def test_data_thread_without_progress_is_killed_and_its_stack_is_written(start: StartNode) -> None:
    """An endless loop lets the control thread answer pings; the missing progress gives it away."""
    node = start(workers=misbehaving("spin"), ping_timeout_s=2.0, progress_timeout_s=0.5)
    node.ready()
    assert str(node.expect("worker-killed", worker="w0")["why"]).startswith("no progress for ")
    node.ready("w0")
    node.stop()
    assert "in spin" in node.ended_by_itself(0)


def test_what_moves_on_is_not_killed(start: StartNode) -> None:
    """Many slow steps are no step that hangs, though none of them says so."""
    node = start(workers=misbehaving("plod"), ping_timeout_s=2.0, progress_timeout_s=0.5)
    node.ready()
    node.expect("plodded", worker="w0")
    node.stop()
    node.ended_by_itself(0)
    assert not [event for event in node.seen if event["event"] == "worker-killed"]


# The node stops.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_stops_all_at_once(start: StartNode, number: int, tmp_path: Path) -> None:
    """Each work is told before any has ended: here none ends until the others are told too. The exit code is 0."""
    together = {"deed": "stop_together", "where": str(tmp_path)}
    node = start(workers={"w0": together, "w1": together}, stop_timeout_s=PATIENCE_S)
    node.ready()
    node.stop(number)
    node.ended_by_itself(0)
    assert sorted(str(event["worker"]) for event in node.seen if event["event"] == "drained") == ["w0", "w1"]
    assert not [event for event in node.seen if event["event"] == "worker-killed"]


def test_a_worker_that_waits_for_its_restart_stays_down(start: StartNode) -> None:
    """A stop that comes within the backoff of a worker starts nobody, and does not wait for the backoff."""
    node = start(workers=misbehaving("fail"), backoff_s=2 * PATIENCE_S)
    node.ready()
    node.expect("worker-waits", worker="w0")
    node.stop()
    node.ended_by_itself(0)
    assert [event["incarnation"] for event in node.seen if event["event"] == "worker-started"] == [1, 2]


def test_a_worker_that_is_starting_is_stopped_too(start: StartNode) -> None:
    """A stop that comes while a worker is started again is heard by the new one."""
    node = start()
    node.ready()["w0"].kill()
    node.expect("worker-started", worker="w0", incarnation=3)
    node.stop()
    node.ended_by_itself(0)
    assert not [event for event in node.seen if event["event"] == "worker-killed"]
    assert max(event["incarnation"] for event in node.seen if event["event"] == "worker-started") == 3  # type: ignore[type-var]


def test_signals_that_come_together_are_one(start: StartNode) -> None:
    """As from systemd, which signals each process of a unit: the node is told directly, and by who started it."""
    node = start()
    node.ready()
    node.stop()
    node.expect("node-stopping")
    node.stop()
    node.stop(signal.SIGINT)
    node.ended_by_itself(0)
    assert len([event for event in node.seen if event["event"] == "drained"]) == 2


def test_two_signals_kill_at_once(start: StartNode) -> None:
    """Whoever asks twice does not wait for a worker that does not stop."""
    node = start(workers=misbehaving("refuse_to_stop"), stop_timeout_s=60.0)
    node.ready()
    node.stop()
    node.expect("deaf")
    time.sleep(SAME_REQUEST_S)  # time passes: that is what tells a second request from the first
    asked_s = time.monotonic()
    node.stop()
    assert "killed all workers at the second signal (SIGTERM)" in node.ended_by_itself(128 + signal.SIGTERM)
    assert time.monotonic() - asked_s < 5


def test_work_that_does_not_stop_is_killed_at_the_deadline(start: StartNode) -> None:
    """A graceful stop ends in any case."""
    node = start(workers=misbehaving("refuse_to_stop"), stop_timeout_s=0.5)
    node.ready()
    node.stop()
    killed = node.expect("worker-killed", worker="w0")
    assert "did not stop in 0.5 s" in str(killed["why"])
    node.ended_by_itself(0)


def test_failure_while_stopping_is_not_restarted(start: StartNode) -> None:
    """It is reported, and the stop goes on."""
    node = start(workers=misbehaving("fail_while_stopping"))
    node.ready()
    node.stop()
    assert node.expect("worker-failed", worker="w0")["message"] == "broken while stopping"
    node.ended_by_itself(0)


def test_signals_to_the_children_do_nothing(start: StartNode) -> None:
    """Ctrl-C goes to a whole group: only the node acts on it."""
    node = start()
    workers = node.ready()
    everyone = [node.role("admin"), node.role("guardian"), node.role("logger"), *workers.values()]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for process in everyone:
            process.send_signal(number)
    # Still the same processes, and they work: the kill is seen and answered.
    workers["w0"].kill()
    node.ready("w0")
    assert all(process.is_running() for process in everyone if process != workers["w0"])
    node.stop(signal.SIGINT)
    node.ended_by_itself(0)


def test_spent_budget_ends_the_node(start: StartNode) -> None:
    """All others are stopped, and one sentence says who failed of what."""
    node = start(workers=misbehaving("fail", until=99), max_restarts=2)
    text = node.ended_by_itself(70)
    assert "repertory: gave up: w0#4: ValueError: broken on purpose\n" in text
    assert text.count("repertory: ") == 1
    assert [event["event"] for event in node.seen].count("escalated") == 1
    assert [event["worker"] for event in node.seen if event["event"] == "drained"] == ["w1"]


def test_a_worker_that_is_to_resume_is_restarted(start: StartNode) -> None:
    """A process that is gone cannot go on; and when its budget is spent, its own reason is what is said."""
    node = start(workers=misbehaving("stumble", until=99), max_restarts=1)
    assert "gave up: w0#3: EOFError: stumbled on purpose" in node.ended_by_itself(70)


def test_worker_with_a_directive_to_stop_stays_down(start: StartNode) -> None:
    """The policy's types hold across processes; the sibling goes on, and a node without any worker leaves."""
    node = start(workers={"w0": {"deed": "be_fenced"}, "w1": {}})
    workers = node.ready()
    node.expect("worker-failed", worker="w0", error_type="KeyError")
    workers["w1"].kill()
    node.ready("w1")
    assert [event["incarnation"] for event in node.seen if event["event"] == "worker-started"] == [1, 2, 3]
    node.stop()
    node.ended_by_itself(0)
    alone = start(workers={"w0": {"deed": "be_fenced"}})
    assert "repertory: no worker is left" in alone.ended_by_itself(70)


def test_directive_to_escalate_ends_the_node(start: StartNode) -> None:
    """Without a restart, also for a subclass of the named type."""
    node = start(workers=misbehaving("lose_everything"))
    assert "gave up: w0#1: BrokenPipeError: lost on purpose" in node.ended_by_itself(70)
    assert [event["event"] for event in node.seen].count("worker-started") == 2


def test_all_for_one_restarts_the_siblings(start: StartNode) -> None:
    """The sibling drains before both come back."""
    node = start(strategy="all_for_one")
    node.ready()["w0"].kill()
    node.expect("drained", worker="w1")
    node.ready()
    node.stop()
    node.ended_by_itself(0)


# Those above fail.


@pytest.mark.parametrize("role", ["guardian", "admin", "logger"])
def test_killed_guardian_ends_the_node(start: StartNode, role: str) -> None:
    """No worker goes on without a supervisor; a node without one says so and exits.

    The Guardian dies with Thespian's Admin, and the Admin of 4.0.1 dies of an AttributeError with its logger.
    """
    node = start()
    node.ready()
    node.role(role).kill()
    assert "the guardian process died" in node.ended_by_itself(70)


def test_hung_guardian_ends_the_node(start: StartNode) -> None:
    """The node pings the Guardian as that pings its workers."""
    node = start(ping_timeout_s=1.0)
    node.ready()
    node.role("guardian").suspend()
    assert "the guardian answered no ping for 1." in node.ended_by_itself(70)


def test_killed_node_takes_everything_with_it(start: StartNode) -> None:
    """The kernel ends the tree: nothing of ours can run then."""
    node = start()
    node.ready()
    node.process.kill()
    killed_s = time.monotonic()
    node.ended(-signal.SIGKILL)
    assert time.monotonic() - killed_s < 5


def test_what_a_worker_started_ends_with_the_node(start: StartNode) -> None:
    """A program that outlived its worker is found and ended."""
    node = start(workers={"w0": {"deed": "start_a_program"}})
    workers = node.ready("w0")
    program = node.expect("program")["program"]
    assert isinstance(program, int)
    node.tree[program] = psutil.Process(program)
    workers["w0"].kill()
    node.ready("w0")
    node.stop()
    node.ended_by_itself(0)


# What is said.


def test_logging_of_a_worker_goes_where_the_node_set_it_up(start: StartNode) -> None:
    """Thespian would send each line as an actor message, from a thread that must not send."""
    node = start(workers=misbehaving("log"))
    node.ready()
    node.stop()
    assert "log: a line of the data thread\n" in node.ended_by_itself(0)


def test_reports_are_whole_lines(start: StartNode) -> None:
    """Long texts lose their beginning; what does not fit the pipe is dropped and counted; no line is torn."""
    node = start(workers={"w0": {"deed": "report_much"}, "w1": {"deed": "report_much"}})
    node.ready()
    node.stop()
    node.ended_by_itself(0)
    much = [event for event in node.seen if event["event"] == "much"]
    assert much
    assert all(str(event["text"]).startswith("…") and str(event["text"]).endswith("end") for event in much)


# Strangers at the door.


class Explosive:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (os.mkdir, (str(self.path),))


def bad_frames(path: Path) -> dict[str, bytes]:
    """What a stranger might send; ``path`` appears if any of it is unpickled."""
    bomb = pickle.dumps(Explosive(path))
    return {
        "nothing": b"",
        "garbage": bytes(range(256)) * 8,
        "text": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "header without end": b"1" * 4_096,
        "huge length": b"99999999999>" + b"x" * 4_096,
        "just too long": b"1048577>" + b"x" * 4_096,
        "negative length": b"-5>" + bomb,
        "zero length": b"0>" + bomb,
        "bare pickle": b"%d>" % len(bomb) + bomb,
        "wrong signature": b"%d>" % (32 + len(bomb)) + bytes(32) + bomb,
        "truncated": b"500>" + bytes(100),
        "half a header": b"12",
    }


def listening(processes: list[psutil.Process]) -> set[tuple[str, int]]:
    return {
        (connection.laddr.ip, connection.laddr.port)
        for process in processes
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    }


def test_bad_frames_at_every_port(start: StartNode, tmp_path: Path) -> None:
    """Nothing is unpickled, nobody is killed, and the tree goes on; also while half a frame is held open."""
    node = start(ping_timeout_s=3.0)
    workers = node.ready()
    own = psutil.Process(node.process.pid)
    addresses = listening([own, *node.tree.values()])
    assert len(addresses) == 6  # the node's endpoint, Admin, logger, Guardian, two workers
    assert {address for address, _ in addresses} == {"127.0.0.1"}
    target = tmp_path / "unpickled"
    held = []
    for address in sorted(addresses):
        for name, data in bad_frames(target).items():
            stranger = socket.create_connection(address, timeout=PATIENCE_S)
            with contextlib.suppress(ConnectionError):
                stranger.sendall(data)
            if name in ("nothing", "truncated", "half a header"):
                held.append(stranger)
            else:
                stranger.close()
    for stranger in held[::3]:
        with contextlib.suppress(ConnectionError):
            stranger.sendall(b"0")
    for worker in ("w0", "w1"):
        workers[worker].kill()
        node.ready(worker)
    assert {address for address, _ in listening([own, *node.note_tree()])} == {"127.0.0.1"}
    node.stop()
    node.ended_by_itself(0)
    assert not target.exists()
    assert not [event for event in node.seen if event["event"] == "worker-killed"]
    for stranger in held:
        stranger.close()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=1)
