"""The frames that Thespian's sockets take: signed, bounded, and not unpickled before both are known."""

from __future__ import annotations

import importlib.metadata
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repertory.supervision.process import transport
from repertory.supervision.process.transport import (
    FRAME_BYTES_MAX,
    FrameError,
    ReceiveBuffer,
    Serializer,
    TransportError,
    frame,
    owner_of,
    secure,
)

KEY = bytes(range(32))


class Explosive:
    """Unpickling it writes a file: what an attacker's frame would do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.write_text, (self.path, "boom"))


@pytest.mark.parametrize("path", transport.PATCHED)
def test_each_patched_name_exists(path: str) -> None:
    """A Thespian that lost one of the names would be left unpatched there."""
    owner, name = owner_of(path)
    assert hasattr(owner, name)


def test_missing_name_is_refused() -> None:
    """The sentence says which name and which version is needed."""
    with pytest.raises(TransportError, match=r"has no .*IPBase:IPActorAddress.nothing.*thespian==4.0.1"):
        owner_of("thespian.system.transport.IPBase:IPActorAddress.nothing")


def test_another_thespian_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An untested version starts nothing and says what to install."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "4.1.0")
    with pytest.raises(TransportError, match=r"thespian 4\.1\.0 is installed.*pip install thespian==4\.0\.1"):
        secure(KEY)


def test_short_key_is_refused() -> None:
    """A key that can be guessed protects nothing."""
    with pytest.raises(TransportError, match="3 bytes"):
        secure(b"abc")


def test_secure_may_be_called_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call replaces every name, so that acknowledgements and messages have the same key."""
    monkeypatch.setenv("THESPIAN_BASE_IPADDR", "0.0.0.0")  # noqa: S104 # what must not be kept
    for path in transport.PATCHED:
        owner, name = owner_of(path)
        monkeypatch.setattr(owner, name, getattr(owner, name))  # puts it back after the test
    for key in (KEY, KEY[::-1]):
        secure(key)
        tcp, _ = owner_of("thespian.system.transport.TCPTransport:ackMsg")
        address, _ = owner_of("thespian.system.transport.IPBase:TCPv4ActorAddress")
        assert read(tcp.ackMsg, key) == ("ACK", b"")  # type: ignore[attr-defined] # found by name
        assert read(tcp.ackDataErrMsg, key) == ("ACK+DATAERR", b"")  # type: ignore[attr-defined]
        made = address.TCPv4ActorAddress(None, 4711, external=True)  # type: ignore[attr-defined]
        assert made.bindArgs == (("127.0.0.1", 4711),)
        assert made.connectArgs == (("127.0.0.1", 4711),)


@given(
    value=st.recursive(st.none() | st.integers() | st.text() | st.binary(), st.lists, max_leaves=5),
    cuts=st.lists(st.integers(1, 40)),
    extra=st.binary(max_size=50),
)
def test_frame_arrives_in_any_pieces(value: object, cuts: list[int], extra: bytes) -> None:
    """However the bytes are cut, the value and what follows it come out."""
    buffer = ReceiveBuffer(Serializer(KEY).loads)
    data = frame(Serializer(KEY).dumps(value)) + extra
    assert buffer.is_empty()
    for cut in [*cuts, len(data)]:
        if data:
            buffer.addMore(data[:cut])
            data = data[cut:]
            assert buffer.remainingAmount() >= 0
    assert buffer.isDone()
    assert buffer.completed() == (value, extra)


@pytest.mark.parametrize(
    "data",
    [
        b"no header here, only text",
        b"1" * 21,
        b">",
        b"-5>" + b"x" * 64,
        b"0>",
        b"32>" + b"x" * 32,
        b"+64>" + b"x" * 64,
        b"6_4>" + b"x" * 64,
        b" 64>" + b"x" * 64,
        b"%d>" % (FRAME_BYTES_MAX + 1),
        b"99999999999999999>",
        bytes(range(256)),
    ],
)
@pytest.mark.parametrize("piece_bytes", [1, 20, 1000])
def test_bad_header_is_refused(data: bytes, piece_bytes: int) -> None:
    """A length that is no length, or out of bounds, closes the connection before anything is kept."""
    with pytest.raises(FrameError):
        read(data, KEY, piece_bytes)


@given(junk=st.binary(min_size=33, max_size=200))
def test_unsigned_body_is_refused(junk: bytes) -> None:
    """Bytes that nobody with the key has signed are never read."""
    with pytest.raises(FrameError):
        read(frame(junk), KEY)


def test_valid_pickle_without_signature_is_not_executed(tmp_path: Path) -> None:
    """The frame that Thespian alone would run does nothing here, also under a signature of another key."""
    target = tmp_path / "boom"
    bare = pickle.dumps(Explosive(target))
    for body in (bare, bytes(32) + bare, Serializer(KEY[::-1]).dumps(Explosive(target))):
        with pytest.raises(FrameError):
            read(frame(body), KEY)
    assert not target.exists()


@given(data=st.data())
def test_changed_frame_is_refused(data: st.DataObject) -> None:
    """One changed bit anywhere in a body makes it a stranger's."""
    body = bytearray(Serializer(KEY).dumps({"ping": 1}))
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameError):
        read(frame(bytes(body)), KEY)


def test_truncated_frame_waits() -> None:
    """A frame without its end is incomplete, not wrong: Thespian closes it after a while."""
    buffer = ReceiveBuffer(Serializer(KEY).loads)
    data = frame(Serializer(KEY).dumps("value"))
    buffer.addMore(data[:-1])
    assert not buffer.isDone()
    assert buffer.completed() is None
    assert buffer.remainingAmount() == 1


def test_too_large_a_message_is_not_sent() -> None:
    """The sender refuses what every receiver would refuse."""
    with pytest.raises(ValueError, match="not sent"):
        Serializer(KEY).dumps(b"x" * FRAME_BYTES_MAX)


def read(data: bytes, key: bytes, piece_bytes: int = 1000) -> tuple[object, bytes] | None:
    buffer = ReceiveBuffer(Serializer(key).loads)
    for start in range(0, len(data), piece_bytes):
        buffer.addMore(data[start : start + piece_bytes])
    return buffer.completed()
