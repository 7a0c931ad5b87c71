"""The link of a network namespace, cut and healed: what chaos does to a node's network."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.kafka.namespace import Namespace, NotPermittedError

pytestmark = pytest.mark.processes

#: Longer than a packet takes, shorter than a patience.
SILENCE_S = 0.5
PATIENCE_S = 20.0
ECHO = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as peer:
    while data := peer.recv(100):
        print(data.decode(), end="", flush=True)
        peer.sendall(data)
"""


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """Give a namespace; where none can be had the reason is said."""
    try:
        made = Namespace()
    except NotPermittedError as error:
        pytest.skip(f"no network namespaces here: {error}")
    with made:
        yield made


def received(peer: socket.socket, patience_s: float) -> bytes:
    peer.settimeout(patience_s)
    try:
        return peer.recv(100)
    except TimeoutError:
        return b""


def test_a_link_is_cut_in_silence_each_way_and_heals(namespace: Namespace) -> None:
    """What is sent meanwhile arrives afterwards, or did arrive and its answer is late; no connection breaks."""
    with closing(socket.create_server((namespace.outside, 0))) as server:
        command = [sys.executable, "-c", ECHO, namespace.outside, str(server.getsockname()[1])]
        with namespace.entered():
            within = subprocess.Popen(command, stdout=subprocess.PIPE)
        server.settimeout(PATIENCE_S)
        peer, (address, _) = server.accept()
        assert address == namespace.inside
        with within, peer:
            assert within.stdout is not None
            for ways, is_heard in (("in", False), ("out", True), ("in out", False)):
                peer.sendall(b"before\n")
                assert received(peer, PATIENCE_S) == b"before\n"
                namespace.cut(ways)
                peer.sendall(b"meanwhile\n")
                assert received(peer, SILENCE_S) == b""
                if is_heard:  # only the way back is cut: this does not wait for the link
                    assert [within.stdout.readline() for _ in range(2)] == [b"before\n", b"meanwhile\n"]
                namespace.heal()
                assert received(peer, PATIENCE_S) == b"meanwhile\n"
                if not is_heard:
                    assert [within.stdout.readline() for _ in range(2)] == [b"before\n", b"meanwhile\n"]


def test_this_process_stays_where_it_is(namespace: Namespace) -> None:
    """Only what is started within is there."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        with namespace.entered():
            tried = subprocess.run(
                [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=5)"],
                stderr=subprocess.PIPE, text=True, check=False, timeout=PATIENCE_S,
            )  # fmt: skip
        assert "refused" in tried.stderr
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S).close()


def test_nothing_is_left(namespace: Namespace) -> None:
    """Its name and its link are gone once it is closed."""
    namespace.close()
    listed = [
        subprocess.run(["ip", *what], capture_output=True, text=True, check=True).stdout
        for what in (["netns"], ["link"])
    ]
    assert namespace.name not in listed[0]
    assert namespace._outer not in listed[1]
