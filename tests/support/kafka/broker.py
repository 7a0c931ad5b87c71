"""A real Apache Kafka for the tests and the examples: one KRaft broker in its own process, no Docker.

``python tests/support/kafka/broker.py`` runs one in the foreground, prints its ``kafka://`` URL and stops on Ctrl-C.
Needs Java 17 or newer; Maven fetches the jars named in ``pom.xml`` once, into ``target/kafka``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.support.paths import ROOT

JARS = ROOT / "target" / "kafka"
#: Kafka's classes as a JVM maps them into its memory.
CLASSES = ROOT / "target" / "kafka-classes.jsa"
#: No optimising compiler: most brokers of tests live for seconds, and it pays after minutes.
UNOPTIMISED = "-XX:TieredStopAtLevel=1"
#: From a cold page cache on two cores a start takes 2.7 s (measured); the rest is for a busy CI machine.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
FETCH_TIMEOUT_S = 300.0
FETCH_ATTEMPTS = 3
#: A controller apart holds a silent broker for dead after this time: longer than tests stop one; 9 s by default.
BROKER_SESSION_S = 6.0


class BrokerMissingError(Exception):
    """No broker can be had on this machine; the message says what is missing."""


def jars() -> str:
    """Return the class path of Kafka, fetching it by Maven if ``target/kafka`` is not there yet."""
    _make_once(JARS, _fetch)
    return f"{JARS}/*"


def quick_start() -> list[str]:
    """Return the JVM's options for a broker that starts fast, and is slower than others once it has run for long.

    A start takes 1.9 s of CPU with them and 5.1 without (measured), and a run of all tests has about a hundred.
    """
    _make_once(CLASSES, _archive_classes)
    return [UNOPTIMISED, f"-XX:SharedArchiveFile={CLASSES}"]


def _make_once(path: Path, make: Callable[[], None]) -> None:
    """Make what is not there yet. Several test processes ask at once: one makes it, the others wait."""
    path.parent.mkdir(exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            make()


def _archive_classes() -> None:
    """Have a broker write down at its end which classes it has loaded. A JVM ignores what is not from its like."""
    written = CLASSES.with_suffix(".written")
    broker = Broker(jvm=[UNOPTIMISED, f"-XX:ArchiveClassesAtExit={written}"])
    broker.start()
    broker.stop()
    written.touch()  # A JVM that cannot has written nothing: then each loads its classes itself.
    written.rename(CLASSES)


def _fetch() -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise BrokerMissingError(f"Maven (mvn) is not installed and {JARS} holds no Kafka")
    # All or nothing: a fetch that was killed half way leaves no directory that looks whole.
    whole = JARS.with_name("kafka.fetched")
    shutil.rmtree(whole, ignore_errors=True)
    command = [maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={whole}"]
    for attempt in range(FETCH_ATTEMPTS):
        time.sleep(5.0 * attempt)  # a repository that is away comes back
        fetched = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
        )
        if fetched.returncode == 0:
            CLASSES.unlink(missing_ok=True)
            whole.rename(JARS)
            return
    said = (fetched.stdout + fetched.stderr)[-2000:]
    raise BrokerMissingError(f"{' '.join(command)} failed {FETCH_ATTEMPTS} times: {said}")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Broker:
    """One broker and its data directory; both are gone after :meth:`stop`.

    A broker that tests kill and launch again has its controller in a process of its own, and :meth:`launch` waits until
    that one holds the broker for dead. Else Kafka 4.1 to 4.3 may forget transactions (``docs/dependencies.rst``).
    With ``jvm=()`` it is one to be measured: it starts slower and is faster (:func:`quick_start`).
    """

    def __init__(
        self,
        overrides: Sequence[str] = (),
        *,
        advertised_port: int | None = None,
        controller_apart: bool = False,
        jvm: Sequence[str] | None = None,
    ) -> None:
        java = shutil.which("java")
        if java is None:
            raise BrokerMissingError("Java is not installed (17 or newer is needed)")
        self._java: str = java
        self._overrides = overrides
        self._classpath = jars()
        self._jvm = quick_start() if jvm is None else jvm
        self.directory = Path(tempfile.mkdtemp(prefix="repertory-kafka-"))
        self.port, self._controller_port = _free_ports(2)
        #: Where clients are told to go: a proxy, or the broker itself.
        self.advertised_port = advertised_port or self.port
        self.process: subprocess.Popen[bytes] | None = None
        self._controller_apart = controller_apart
        self._controller: subprocess.Popen[bytes] | None = None
        #: When a controller apart has noticed the last kill, on the monotonic clock.
        self._dead_s = 0.0

    @property
    def address(self) -> str:
        """``host:port`` of the broker."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The log's URL."""
        return f"kafka://{self.address}"

    @property
    def pid(self) -> int:
        """The broker's process id, for tests that stop or kill it."""
        assert self.process is not None
        return self.process.pid

    def start(self) -> Broker:
        """Format the storage, start the process and wait until it answers."""
        if self._controller_apart:
            self._format("controller", self._controller_properties())
            self._controller = self._run("controller")
        self._format("server", self._properties())
        self.launch()
        return self

    def launch(self) -> None:
        """Start the process on the formatted storage: the first time, or again after a kill."""
        time.sleep(max(0.0, self._dead_s - time.monotonic()))
        self.process = self._run("server")
        self._await_answer()

    def kill(self) -> None:
        """SIGKILL it."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        if self._controller_apart:
            self._dead_s = time.monotonic() + BROKER_SESSION_S + 0.5

    def stop(self) -> None:
        """Stop the processes by their pids and delete the data. Idempotent."""
        for process in (self.process, self._controller):
            if process is not None:
                process.send_signal(signal.SIGCONT)  # a test may have stopped it
                process.terminate()
                try:
                    process.wait(STOP_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.process = self._controller = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def _format(self, name: str, properties: str) -> None:
        (self.directory / f"{name}.properties").write_text(properties)
        command = ("kafka.tools.StorageTool", "format", "-t", "dW5kZXJzdHVkeS10ZXN0cw", "-c")
        formatted = subprocess.run(
            self._command(name, *command), capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False
        )
        if formatted.returncode != 0:
            raise RuntimeError(f"kafka storage format failed: {formatted.stdout}{formatted.stderr}")

    def _run(self, name: str) -> subprocess.Popen[bytes]:
        command = self._command(name, "kafka.Kafka")
        pdeathsig = shutil.which("setpriv")  # a killed test run leaves no broker behind
        if pdeathsig is not None:
            command = [pdeathsig, "--pdeathsig", "KILL", *command]
        with (self.directory / "broker.log").open("ab") as log:
            # Its own session: Ctrl-C must reach the tests first, which then stop it in order.
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)

    def log_tail(self) -> str:
        """Return the end of what the broker logged, for a failure's message."""
        return (self.directory / "broker.log").read_text(errors="replace")[-4000:]

    def _command(self, name: str, main: str, *arguments: str) -> list[str]:
        jvm = [*self._jvm, "-Xmx1g", "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]
        properties = str(self.directory / f"{name}.properties")
        return [self._java, *jvm, "-cp", self._classpath, main, *arguments, properties]

    def _controller_properties(self) -> str:
        lines = [
            "process.roles=controller",
            "node.id=2",
            f"controller.quorum.voters=2@127.0.0.1:{self._controller_port}",
            f"listeners=CONTROLLER://127.0.0.1:{self._controller_port}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.directory / 'controller'}",
            f"broker.session.timeout.ms={round(BROKER_SESSION_S * 1000)}",
        ]
        return "\n".join(lines) + "\n"

    def _properties(self) -> str:
        roles, voter, controller = "broker,controller", 1, f",CONTROLLER://127.0.0.1:{self._controller_port}"
        if self._controller_apart:
            roles, voter, controller = "broker", 2, ""
        lines = [
            f"process.roles={roles}",
            "node.id=1",
            f"controller.quorum.voters={voter}@127.0.0.1:{self._controller_port}",
            f"listeners=PLAINTEXT://127.0.0.1:{self.port}{controller}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.advertised_port}",
            f"broker.heartbeat.interval.ms={round(BROKER_SESSION_S * 250)}",
            "controller.listener.names=CONTROLLER",
            f"log.dirs={self.directory / 'data'}",
            "auto.create.topics.enable=false",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=4",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=4",
            # Tests hold short transactions open and wait for the coordinator to end them.
            "transaction.abort.timed.out.transaction.cleanup.interval.ms=200",
            "group.initial.rebalance.delay.ms=0",
            "group.min.session.timeout.ms=500",
            *self._overrides,
        ]
        return "\n".join(lines) + "\n"

    def _await_answer(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"the broker exited with {self.process.returncode}:\n{self.log_tail()}")
            if self._answers():
                return
            time.sleep(0.05)
        tail = self.log_tail()
        self.stop()
        raise RuntimeError(f"the broker did not answer within {START_TIMEOUT_S:.0f} s:\n{tail}")

    def _answers(self) -> bool:
        """Ask for its API versions: a broker that only listens is not ready yet."""
        # ApiVersions (key 18) v0, correlation id 1, no client id.
        request = b"\x00\x12\x00\x00\x00\x00\x00\x01\xff\xff"
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as probe:
                probe.sendall(len(request).to_bytes(4, "big") + request)
                return len(probe.recv(8)) == 8
        except OSError:
            return False


def main() -> None:
    """Run a broker in the foreground."""
    broker = Broker(sys.argv[1:])
    try:
        print(broker.start().url, flush=True)  # noqa: T201 - this is its result
        while broker.process is not None:
            status = broker.process.wait()
            sys.exit(f"the broker exited with {status}:\n{broker.log_tail()}")
    except KeyboardInterrupt:
        pass
    finally:
        broker.stop()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    main()
