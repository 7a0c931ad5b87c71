"""Proxies in front of one broker: one holds a Kafka request back and delivers it late, one is a bad network."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

END_TXN = 26  # the Kafka protocol's API key


class LateRequestProxy:
    """Forwards bytes; the next request of ``api_key`` after :meth:`arm` loses its client before it is sent on.

    That is what a broken network does to a request that is under way: the client sees the connection close and
    repeats it elsewhere, while the first copy arrives when it likes (:meth:`deliver`).
    """

    def __init__(self, api_key: int) -> None:
        self._api_key = api_key
        self._armed = threading.Event()
        self.caught = threading.Event()
        self._answered = threading.Event()
        self._late: tuple[socket.socket, bytes] | None = None
        self._target: tuple[str, int] | None = None
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def forward_to(self, port: int) -> None:
        """Name the broker behind it."""
        self._target = ("127.0.0.1", port)

    def arm(self) -> None:
        """Catch the next such request."""
        self.caught.clear()
        self._armed.set()

    def deliver(self) -> None:
        """Send the caught request on, late, and wait for the broker's answer (nobody else does)."""
        assert self._late is not None
        upstream, request = self._late
        upstream.sendall(request)
        assert self._answered.wait(10.0), "the broker did not answer the late request"

    def close(self) -> None:
        """Close everything."""
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
                if self._armed.is_set() and struct.unpack(">h", body[:2])[0] == self._api_key:
                    self._armed.clear()
                    self._late = (upstream, header + body)
                    client.shutdown(socket.SHUT_RDWR)
                    self.caught.set()
                    return
                upstream.sendall(header + body)
            upstream.shutdown(socket.SHUT_RDWR)

    def _answers(self, upstream: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := upstream.recv(65_536):
                if self._late is not None and self._late[0] is upstream:
                    self._answered.set()
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
