"""The ledger job as programs of other tools, to be measured beside Repertory: Kafka Streams, Quix Streams and Faust.

Each function builds what is missing below ``target/bench`` and returns the command line of one process. That process
reads ``NAME.account.commands``, keeps the balance of each key in RocksDB with a changelog topic, and produces an event
for each command to ``NAME.account.events``: to the same partition, with the command's headers. Both topics must exist,
with four partitions. Its consumer group is ``NAME``, whose committed offsets show the progress. It starts from the
earliest command, and SIGTERM stops it with status 0. ``directory`` is an empty directory for its local state.
``commit_interval_ms`` is the tool's default unless given. ``python -m benchmarks.peers`` checks all of this.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_HERE = Path(__file__).parent
_BUILT = _HERE.parents[1] / "target" / "bench"
_BUILD_TIMEOUT_S = 600.0
#: Warnings, but not of requests that are repeated, of a handler that is not used, and of a state directory in ``/tmp``.
_LOG_LEVELS = (
    "defaultLogLevel=warn",
    "log.org.apache.kafka.clients.producer.internals.Sender=error",
    "log.org.apache.kafka.streams.StreamsConfig=error",
    "log.org.apache.kafka.streams.processor.internals.StateDirectory=error",
)

#: What is installed for the peers in Python. The versions for Kafka Streams are in ``streams/pom.xml``.
QUIX = ("quixstreams==3.28.1", "msgspec==0.22.0")
FAUST = (
    "faust-streaming==0.15.3",
    "aiokafka==0.14.0",
    "cramjam==2.14.0",
    "rocksdict==0.3.29",
    "msgspec==0.22.0",
)


class PeerMissingError(Exception):
    """A peer cannot be had on this machine; the message says what is missing."""


def streams(
    brokers: str, name: str, directory: Path, *, threads: int = 1, commit_interval_ms: int | None = None
) -> list[str]:
    """Return the command line of Kafka Streams, exactly once; its commit interval is 100 ms by default.

    Raises PeerMissingError.
    """
    java, built, pom = _program("java"), _BUILT / "streams", _HERE / "streams" / "pom.xml"
    sources = [path.read_text(encoding="utf-8") for path in (pom, pom.with_name("Ledger.java"))]
    if _is_stale(built, sources):
        goals = ["compile", "dependency:copy-dependencies", f"-DoutputDirectory={built / 'jars'}"]
        _run(_program("mvn"), "-q", "-B", "-f", str(pom), *goals)
        _mark(built, sources)
    quiet = (f"-Dorg.slf4j.simpleLogger.{setting}" for setting in _LOG_LEVELS)
    jvm = ["-Xmx1g", *quiet, "-cp", f"{built / 'classes'}:{built / 'jars'}/*"]
    options = [*_options(brokers, name, directory, commit_interval_ms), "--threads", str(threads)]
    return [java, *jvm, "Ledger", *options]


def quix(brokers: str, name: str, directory: Path, *, commit_interval_ms: int | None = None) -> list[str]:
    """Return the command line of Quix Streams, exactly once; its commit interval is 5 s by default.

    Raises PeerMissingError.
    """
    python = _environment(_BUILT / "quix", QUIX)
    return [python, "-I", str(_HERE / "quix_ledger.py"), *_options(brokers, name, directory, commit_interval_ms)]


def faust(brokers: str, name: str, directory: Path, *, commit_interval_ms: int | None = None) -> list[str]:
    """Return the command line of Faust; its commit interval is 2.8 s by default.

    In effect it runs at least once: ``faust_ledger.py`` says why. Raises PeerMissingError.
    """
    python = _environment(_BUILT / "faust", FAUST)
    return [python, "-I", str(_HERE / "faust_ledger.py"), *_options(brokers, name, directory, commit_interval_ms)]


def _options(brokers: str, name: str, directory: Path, commit_interval_ms: int | None) -> list[str]:
    options = ["--brokers", brokers, "--name", name, "--directory", str(directory)]
    return options if commit_interval_ms is None else [*options, "--commit-interval-ms", str(commit_interval_ms)]


def _environment(folder: Path, requirements: Sequence[str]) -> str:
    """Make a virtual environment, unless it has these requirements, and return its Python."""
    python = str(folder / "bin" / "python")
    if _is_stale(folder, requirements):
        _run(sys.executable, "-m", "venv", "--clear", str(folder))
        _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        _mark(folder, requirements)
    return python


def _is_stale(folder: Path, inputs: Sequence[str]) -> bool:
    mark = folder / ".complete"
    return not mark.exists() or mark.read_text(encoding="ascii") != _digest(inputs)


def _mark(folder: Path, inputs: Sequence[str]) -> None:
    (folder / ".complete").write_text(_digest(inputs), encoding="ascii")


def _digest(inputs: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise PeerMissingError(f"{name} is not installed; Kafka Streams needs Java 17 or newer, and Maven to be built")
    return found


def _run(*command: str) -> None:
    try:
        subprocess.run(command, capture_output=True, text=True, timeout=_BUILD_TIMEOUT_S, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        output = f"{getattr(error, 'stdout', '')}{getattr(error, 'stderr', '')}"[-2000:]
        raise PeerMissingError(f"{' '.join(command)} failed: {error}\n{output}") from error
