"""Proxies in front of one broker: one holds a Kafka request back and delivers it late, one is a bad network."""

from __future__ import annotations

import contextlib
import enum
import socket
import struct
import threading
import time

END_TXN, TXN_OFFSET_COMMIT = 26, 28  # the Kafka protocol's API keys


class Catch(enum.Enum):
    """What happens to a request that is caught, and to its client."""

    CUT = "the request is held back, its connection closed"
    """As a broken network does: the client repeats the request elsewhere, and the first copy arrives late."""
    HOLD = "the request is held back, and the client waits for its answer"
    """As a network that is silent: the client repeats the request when it has waited long enough."""
    ANSWER = "the request is passed on, its answer held back"
    """As a slow broker: there is no second request."""


class LateRequestProxy:
    """Forwards bytes; the next request of ``api_key`` after :meth:`arm` is caught, until :meth:`deliver`."""

    def __init__(self, api_key: int) -> None:
        self.api_key = api_key
        self._catch: Catch | None = None
        self.caught = threading.Event()
        self._answered, self._released = threading.Event(), threading.Event()
        self._late: tuple[socket.socket, bytes] | None = None
        #: The connection on which answers are held back.
        self._slow: socket.socket | None = None
        self._target: tuple[str, int] | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def forward_to(self, port: int) -> None:
        """Name the broker behind it."""
        self._target = ("127.0.0.1", port)

    def arm(self, catch: Catch = Catch.CUT) -> None:
        """Catch the next such request."""
        self.caught.clear()
        self._answered.clear()
        self._released.clear()
        self._catch = catch

    def deliver(self) -> None:
        """Send the caught request on, late, and wait for the broker's answer; or let the caught answer through."""
        if self._slow is not None:
            self._released.set()
            return
        assert self._late is not None
        upstream, request = self._late
        upstream.sendall(request)
        assert self._answered.wait(10.0), "the broker did not answer the late request"

    def close(self) -> None:
        """Close everything."""
        self._released.set()
        for each in [self._server, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                assert self._target is not None
                upstream = socket.create_connection(self._target)
                self._open += [client, upstream]
                threading.Thread(target=self._requests, args=(client, upstream), daemon=True).start()
                threading.Thread(target=self._answers, args=(upstream, client), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (header := _exactly(client, 4)) is not None:
                body = _exactly(client, struct.unpack(">i", header)[0])
                if body is None:
                    break
                if self._catch is not None and struct.unpack(">h", body[:2])[0] == self.api_key:
                    catch, self._catch = self._catch, None
                    if catch is Catch.ANSWER:
                        self._slow = upstream
                    else:
                        self._late = (upstream, header + body)
                    if catch is Catch.CUT:
                        client.shutdown(socket.SHUT_RDWR)
                    self.caught.set()
                    if catch is not Catch.ANSWER:
                        return
                upstream.sendall(header + body)
            upstream.shutdown(socket.SHUT_RDWR)

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65_536):
                if self._late is not None and self._late[0] is upstream:
                    self._answered.set()
                if self._slow is upstream:
                    self._released.wait()
                client.sendall(data)


def _exactly(source: socket.socket, count: int) -> bytes | None:
    data = b""
    while len(data) < count:
        more = source.recv(count - len(data))
        if not more:
            return None
        data += more
    return data


class RoughProxy:
    """Forwards bytes as a bad network does. The thread of its owner turns the knobs, at any time."""

    def __init__(self) -> None:
        #: Added to each piece, in both directions.
        self.delay_s = 0.0
        #: Nothing gets through while it is cleared: to the broker, to the clients.
        self.open_in, self.open_out = threading.Event(), threading.Event()
        self._target: tuple[str, int] | None = None
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._late = threading.Event()
        self._lock = threading.Lock()
        self.late_requests = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self.heal()
        threading.Thread(target=self._accept, daemon=True).start()

    def forward_to(self, port: int) -> None:
        """Name the broker behind it."""
        self._target = ("127.0.0.1", port)

    def heal(self) -> None:
        """Be a good network."""
        self.delay_s = 0.0
        self._late.clear()
        self.open_in.set()
        self.open_out.set()

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _shut(*pair)

    def make_late(self) -> None:
        """Let the next EndTxn lose its client before it is sent on, which happens half a second later."""
        self._late.set()

    def close(self) -> None:
        """Close everything."""
        self.heal()
        _cut(self._server)
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                assert self._target is not None
                try:
                    upstream = socket.create_connection(self._target, 5.0)
                except OSError:  # the broker is down
                    client.close()
                    continue
                upstream.settimeout(None)
                with self._lock:
                    self._pairs.append((client, upstream))
                answers = threading.Thread(target=self._answers, args=(client, upstream), daemon=True)
                answers.start()
                threading.Thread(target=self._requests, args=(client, upstream, answers), daemon=True).start()

    def _requests(self, client: socket.socket, upstream: socket.socket, answers: threading.Thread) -> None:
        """Pass requests on; the last of the two threads of a connection to end closes its sockets, nobody before."""
        with contextlib.suppress(OSError):
            while (header := _exactly(client, 4)) is not None:
                body = _exactly(client, struct.unpack(">i", header)[0])
                if body is None:
                    break
                if self._late.is_set() and struct.unpack(">h", body[:2])[0] == END_TXN:
                    self._late.clear()
                    self.late_requests += 1
                    client.shutdown(socket.SHUT_RDWR)
                    time.sleep(0.5)
                    upstream.sendall(header + body)
                    upstream.recv(65_536)
                    break
                self._pass(self.open_in)
                upstream.sendall(header + body)
        _shut(client, upstream)
        answers.join()
        _cut(client, upstream)

    def _answers(self, client: socket.socket, upstream: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65_536):
                self._pass(self.open_out)
                client.sendall(data)
        _shut(client)

    def _pass(self, way: threading.Event) -> None:
        way.wait()
        if self.delay_s:
            time.sleep(self.delay_s)


def _shut(*sockets: socket.socket) -> None:
    """End connections. Their threads notice; a socket that is closed under them could be another one by then."""
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


def _cut(*sockets: socket.socket) -> None:
    _shut(*sockets)
    for each in sockets:
        each.close()
