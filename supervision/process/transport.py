"""Makes Thespian's ``multiprocTCPBase`` safe: loopback only, authenticated, bounded.

Unpatched, Thespian 4.0.1 listens on all interfaces and unpickles all data that it receives: anybody who reaches a port
can execute code. One malformed frame can also exhaust a process's memory. :func:`secure` replaces the names in
:data:`PATCHED` before any ``ActorSystem`` exists; every process of the tree is forked afterwards and inherits the
replacements and the key.

Limits: frames are not encrypted, and a signed frame can be replayed. A process that can read the loopback traffic
(root), or that takes over the port of a worker that has just died, can read control messages but cannot forge any.
"""

from __future__ import annotations

import hmac
import importlib
import importlib.metadata
import os
import pickle
import socket
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

#: The version that these patches were written for; any other is refused.
THESPIAN_VERSION = "4.0.1"
#: The address to listen on and to advertise.
LOOPBACK = "127.0.0.1"
#: HMAC-SHA256: the bytes before the pickle in each frame.
DIGEST_BYTES = 32
#: The largest frame that is sent or read. Control messages have some hundred bytes, with a traceback some thousand.
FRAME_BYTES_MAX = 1 << 20
#: ``b"<length>>"``. Thespian's transport asks for 20 bytes while it looks for the header.
HEADER_BYTES_MAX = 20
#: A connection with an incomplete frame is closed after this time (Thespian: 7 minutes). Peers send frames at once.
INCOMPLETE_FRAME_S_MAX = 10.0

_TCP = "thespian.system.transport.TCPTransport"
_BUFFER = "thespian.system.transport.streamBuffer"
_ADDRESS = "thespian.system.transport.IPBase"
_BASE = "thespian.system.multiprocTCPBase"

#: The names that are replaced, as ``module:name``. A test asserts that each exists in Thespian.
PATCHED = (
    f"{_ADDRESS}:IPActorAddress.bindArgs",
    f"{_TCP}:serializer",
    f"{_TCP}:ackMsg",
    f"{_TCP}:ackDataErrMsg",
    f"{_TCP}:ReceiveBuffer",
    f"{_TCP}:MAX_INCOMING_SOCKET_PERIOD",
)


class TransportError(RuntimeError):
    """The installed Thespian is not the one that these patches are for. Nothing has been started."""


class FrameError(ValueError):
    """Bytes from a socket that are not a valid frame. Thespian closes the connection and continues."""


def secure(key: bytes) -> None:
    """Patch Thespian in this process and in all that it forks. Call it before any ``ActorSystem`` exists.

    ``key`` is 32 random bytes made for this run. Children inherit it over fork. It is never written to the environment,
    because programs that a worker starts could read it there. May be called again.

    Raises :class:`TransportError` if Thespian has another version or lacks a name: the caller must not start.
    """
    if len(key) < DIGEST_BYTES:
        raise TransportError(f"the key has {len(key)} bytes; {DIGEST_BYTES} are needed")
    _check_version()
    # Thespian reads it for each address that it makes: the address that it advertises, apart from the one it binds.
    os.environ["THESPIAN_BASE_IPADDR"] = LOOPBACK
    importlib.import_module(_BASE)  # It imports all modules below.
    serializer = Serializer(key)
    replacements: dict[str, object] = {
        "bindArgs": property(lambda address: ((LOOPBACK, address.bindname[1]),)),
        "serializer": serializer,
        # Thespian pickles these at import with its own serializer; unless they are replaced, every ask stalls.
        "ackMsg": frame(serializer.dumps(_constant("ackPacket"))),
        "ackDataErrMsg": frame(serializer.dumps(_constant("ackDataErrPacket"))),
        "ReceiveBuffer": ReceiveBuffer,
        "MAX_INCOMING_SOCKET_PERIOD": timedelta(seconds=INCOMPLETE_FRAME_S_MAX),
    }
    owners = [owner_of(path) for path in PATCHED]  # All are found before the first is replaced.
    for owner, name in owners:
        setattr(owner, name, replacements[name])


def owner_of(path: str) -> tuple[object, str]:
    """Return the module or class that has the name of a ``module:name`` path, and its last part.

    Raises :class:`TransportError` if there is no such name.
    """
    module_name, _, names = path.partition(":")
    *outer, name = names.split(".")
    owner: object = importlib.import_module(module_name)
    for attribute in outer:
        owner = getattr(owner, attribute, None)
    if not hasattr(owner, name):
        raise TransportError(f"thespian has no {path}: this repertory needs thespian=={THESPIAN_VERSION}")
    return owner, name


def free_port() -> int:
    """Return a port that is free now; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def log_to_stderr() -> None:
    """Send Thespian's internal log (warnings and worse) to stderr instead of a file in ``/tmp``.

    Thespian's modules import the function by name, so it is replaced in each of them. Each line is one ``write``,
    because the processes of a tree share the stream. It never raises and sends no message, so it causes no log lines
    itself.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("thespian.") and hasattr(module, "thesplog"):
            module.thesplog = _write_line  # type: ignore[attr-defined] # it was found by name, just above


class Serializer:
    """``dumps`` and ``loads`` for a frame's body: an HMAC-SHA256 digest, then a pickle. Its only state is the key.

    The digest is compared, in constant time, before the pickle is read.
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def dumps(self, value: object) -> bytes:
        """Return the body for ``value``. Raises ValueError above :data:`FRAME_BYTES_MAX`: no peer would read it."""
        data = pickle.dumps(value)
        if len(data) + DIGEST_BYTES > FRAME_BYTES_MAX:
            raise ValueError(f"a control message of {len(data)} bytes is above {FRAME_BYTES_MAX}; not sent")
        return self._digest(data) + data

    def loads(self, body: bytes | bytearray) -> object:
        """Return the value in ``body``. Raises :class:`FrameError` if it was not signed with our key."""
        view = memoryview(body)
        data = view[DIGEST_BYTES:]
        if not hmac.compare_digest(view[:DIGEST_BYTES], self._digest(data)):
            raise FrameError(f"a frame of {len(body)} bytes without our signature")
        return pickle.loads(data)  # noqa: S301 # signed by a process that has this run's key

    def _digest(self, data: bytes | memoryview) -> bytes:
        return hmac.digest(self._key, data, "sha256")


class ReceiveBuffer:
    """Collects one frame from a socket. It has the interface of Thespian's class, and adds bounds.

    Thespian's own accepts a header of any length, and any number in it: negative, zero, or gigabytes.
    """

    def __init__(self, deserialize: Callable[[bytes | bytearray], object]) -> None:
        self._deserialize = deserialize
        self._header = b""
        self._body = bytearray()  # Takes linear time even if the bytes arrive one by one.
        self._size_bytes: int | None = None
        self._extra = b""

    # The names below are Thespian's, whose transport calls them.

    def addMore(self, data: bytes) -> None:  # noqa: N802
        """Add data that was read. Raises :class:`FrameError`, upon which Thespian closes the connection."""
        if self._size_bytes is None:
            self._header += data
            header, mark, data = self._header.partition(b">")
            if not mark:
                if len(self._header) > HEADER_BYTES_MAX:
                    raise FrameError(f"no frame length in the first {HEADER_BYTES_MAX} bytes")
                return
            self._size_bytes = _frame_length(header)
        room = self._size_bytes - len(self._body)
        self._body += data[:room]
        self._extra += data[room:]

    def is_empty(self) -> bool:
        """Tell whether nothing has been received yet."""
        return not self._header

    def remainingAmount(self) -> int:  # noqa: N802
        """Return how many bytes Thespian may read next."""
        return HEADER_BYTES_MAX if self._size_bytes is None else self._size_bytes - len(self._body)

    def isDone(self) -> bool:  # noqa: N802
        """Tell whether the frame is complete."""
        return self._size_bytes is not None and len(self._body) == self._size_bytes

    def removeExtra(self) -> None:  # noqa: N802
        """Discard the bytes after the frame."""
        self._extra = b""

    def completed(self) -> tuple[object, bytes] | None:
        """Return the frame's value and the bytes after it; None while incomplete. Raises :class:`FrameError`."""
        return (self._deserialize(self._body), self._extra) if self.isDone() else None


def frame(body: bytes) -> bytes:
    """Return ``body`` with Thespian's header: its length in decimal and ``>``."""
    return b"%d>%s" % (len(body), body)


def _frame_length(header: bytes) -> int:
    # isdigit, because int() also accepts signs, blanks and underscores.
    if len(header) >= HEADER_BYTES_MAX or not header.isdigit():
        raise FrameError(f"an invalid frame length: {header[:HEADER_BYTES_MAX]!r}")
    length_bytes = int(header)
    if not DIGEST_BYTES < length_bytes <= FRAME_BYTES_MAX:
        raise FrameError(f"a frame length of {length_bytes} bytes is out of bounds")
    return length_bytes


def _check_version() -> None:
    version = importlib.metadata.version("thespian")
    if version != THESPIAN_VERSION:
        raise TransportError(
            f"thespian {version} is installed; its transport is only known to be safe at {THESPIAN_VERSION}: "
            f"pip install thespian=={THESPIAN_VERSION}"
        )


def _constant(name: str) -> object:
    owner, _ = owner_of(f"{_BUFFER}:{name}")
    return getattr(owner, name)


#: Thespian's line for a child that died before it sent its address. The Guardian sees that at the pidfd.
_REPORTED_BY_GUARDIAN = "child %s is dead but cannot translate address"


def _write_line(message: str, *args: object, **options: object) -> None:
    # Thespian's level defaults to INFO (20); WARNING is 30.
    level = options.get("level", 20)
    if not isinstance(level, int) or level < 30 or message.startswith(_REPORTED_BY_GUARDIAN):
        return
    try:
        text = message % args if args else message
    except (TypeError, ValueError):
        text = f"{message} {args}"
    line = " ".join(text.split())[-1_000:]  # The end of a traceback is its most useful part.
    thread = threading.current_thread().name
    try:
        os.write(2, f"thespian[{os.getpid()}/{thread}]: {line}\n".encode("utf-8", "replace"))
    except OSError:
        return  # stderr is closed; the line cannot be written anywhere.
