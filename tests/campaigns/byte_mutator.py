"""Turn valid bytes into nearly valid ones: change their structure, then single bytes and bits.

Random bytes are rejected at the first byte. Decoders break on messages that are valid but for one error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import msgpack

from repertory.actors.headers import Headers


class Map(list[tuple[object, object]]):
    """A MessagePack map as its pairs: keys may repeat and have any type."""


class Raw(bytes):
    """Bytes that are written unchanged."""


#: Integers at which a value overflows or changes its sign or its encoding.
EDGES = (0, -1, 1, 127, 128, -32, -33, 255, 256, 65_535, 1 << 31, -(1 << 31), 1 << 32, 1 << 53, (1 << 63) - 1, 1 << 63,
         (1 << 64) - 1, -(1 << 63), 999_999_999_999_999_999)  # fmt: skip
TEXTS = (
    "",
    "\0",
    "\0shard",
    "k",
    "é",
    "\u0661",
    "\U0001f600",
    "type",
    "x" * 256,
    "x" * 70_000,
    "\x1b[31m",
    "9" * 4_400,
)
RAW = tuple(
    map(
        Raw,
        (
            b"\xa2\xff\xfe", b"\xa3\xed\xa0\x80",  # not UTF-8
            b"\xc1", b"\xd4\x05\x00", b"\xc7\x00\x05", b"\xd6\xff\x00\x00\x00\x00",  # no type, extension types
            b"\xd7\xff" + b"\xff" * 8, b"\xc7\x0c\xff" + b"\xff" * 12,  # timestamps beyond the calendar
            b"\xdb\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff",
            b"\xc9\xff\xff\xff\xff\x05",  # lengths of gigabytes
            b"\xca\x7f\xc0\x00\x00", b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00",  # not a number, infinity
            b"\x81\x90\x01", b"\x81\x80\x01", b"\x81\xc4\x01\xff\x01", b"\x81\xc0\x01", b"\x81\xcb" + b"\x00" * 9,
            b"\x82\xa1a\x01\xa1a\x02",  # keys that cannot be hashed, are not text, or are equal
        ),
    )
)  # fmt: skip
#: The head of one more level: of an array, of a map, and of both with the longest encodings.
OPENERS = (b"\x91", b"\x81\xa1x", b"\xdc\x00\x01", b"\xdd\x00\x00\x00\x01", b"\xdf\x00\x00\x00\x01\xa1x")
DEPTHS = (5, 31, 32, 33, 40, 600, 20_000)

#: One in this many containers and strings has a wrong length; as many integers are longer than they need to be.
LIE_ONE_IN = 60


class Mutator:
    """Mutates bytes. Everything is drawn from one source: the same source gives the same bytes."""

    def __init__(self, source: Random) -> None:
        self.source = source

    def chance(self, probability: float) -> bool:
        """Draw True with a probability."""
        return self.source.random() < probability

    # --- values -----------------------------------------------------------------------------------------------

    def packed(self, data: bytes) -> bytes:
        """Return a mutation of ``data``, which is MessagePack: of its structure, its bytes, both or neither."""
        if self.chance(0.75) and (tree := tree_of(data)) is not _NO_TREE:
            with suppress(RecursionError):  # deeply nested data is left unchanged
                for _ in range(self.source.choice((1, 1, 1, 2, 3))):
                    tree = self._changed(tree)
                data = self._pack(tree)
        if self.chance(0.35):
            data = self.damaged(data)
        return data

    def damaged(self, data: bytes) -> bytes:
        """Return bytes with a few bits, bytes or ranges changed, removed, repeated or added."""
        made = bytearray(data)
        draw = self.source.randrange
        for _ in range(self.source.choice((1, 1, 2, 4))):
            at = draw(len(made) + 1)
            match draw(8):
                case 0 | 1 if at < len(made):
                    made[at] ^= 1 << draw(8)
                case 2 if at < len(made):
                    made[at] = self.source.choice(b"\x00\x7f\x80\x90\xa0\xc0\xc1\xc4\xc7\xca\xcf\xd3\xd9\xdc\xdf\xff")
                case 3:
                    del made[at:]
                case 4:
                    del made[at : at + 1 + draw(8)]
                case 5:
                    made[at:at] = self.source.randbytes(1 + draw(8))
                case 6:
                    made[at:at] = made[at : at + 1 + draw(16)]
                case 7 if at < len(made):
                    made[at] = (made[at] + self.source.choice((-1, 1))) & 0xFF
        return bytes(made)

    def odd(self) -> object:
        """Return an unusual value."""
        match self.source.randrange(9):
            case 0 | 1:
                return self.source.choice(EDGES)
            case 2:
                return self.source.choice(TEXTS)
            case 3:
                return self.source.choice(RAW)
            case 4:
                depth = self.source.choice(DEPTHS)
                return Raw(self.source.choice(OPENERS) * depth + b"\x01")
            case 5:
                return self.source.choice((None, True, False, 0.5, -0.0, 1e308, float("nan"), float("inf")))
            case 6:
                return self.source.choice((b"", b"\xff", self.source.randbytes(20)))
            case 7:
                return self.source.choice((Map(), [], Map([("type", "Shard")]), [Map(), [None]], [0] * 40))
            case _:
                return self.source.getrandbits(64) - self.source.choice((0, 1 << 63))

    def _changed(self, node: object) -> object:
        """Return a tree with one place changed."""
        if isinstance(node, Map) and node and self.chance(0.9):
            return self._changed_map(node)
        if isinstance(node, list) and node and self.chance(0.85):
            at = self.source.randrange(len(node))
            match self.source.randrange(6):
                case 0:
                    return node[:at] + node[at + 1 :]
                case 1:
                    return [*node[:at], *node[at : at + 1] * self.source.choice((2, 40)), *node[at + 1 :]]
                case _:
                    return [*node[:at], self._changed(node[at]), *node[at + 1 :]]
        if isinstance(node, bytes) and self.chance(0.6) and isinstance(inner := tree_of(node), Map):
            return self._pack(self._changed(inner))  # a snapshot or a command within a changelog record
        if isinstance(node, bytes) and node and self.chance(0.3):
            return self.damaged(node)
        if type(node) is int and self.chance(0.5):
            return max(-(1 << 63), min((1 << 64) - 1, node + self.source.choice((-1, 1, 2, -node - 1, 1 << 31))))
        return self.odd()

    def _changed_map(self, node: Map) -> Map:
        at = self.source.randrange(len(node))
        (key, value), made = node[at], list(node)
        match self.source.randrange(12):
            case 0:
                del made[at]
            case 1:
                made.append((key, self._changed(value)))  # the same key twice
            case 2:
                made[at] = (self.source.choice([self.odd(), *(name for name, _ in node)]), value)
            case 3:
                made.append((self.source.choice(TEXTS), self.odd()))
            case 4:
                self.source.shuffle(made)
            case _:
                made[at] = (key, self._changed(value))
        return Map(made)

    # --- writing ----------------------------------------------------------------------------------------------

    def _pack(self, node: object) -> bytes:
        match node:
            case Raw():
                return bytes(node)
            case Map():
                body = b"".join(self._pack(key) + self._pack(value) for key, value in node)
                return self._head(len(node), (0x80, 15), ((0xDE, 2), (0xDF, 4))) + body
            case list() | tuple():
                body = b"".join(map(self._pack, node))
                return self._head(len(node), (0x90, 15), ((0xDC, 2), (0xDD, 4))) + body
            case str():
                text = node.encode("utf-8", "surrogatepass")
                return self._head(len(text), (0xA0, 31), ((0xD9, 1), (0xDA, 2), (0xDB, 4))) + text
            case bytes():
                return self._head(len(node), (0, -1), ((0xC4, 1), (0xC5, 2), (0xC6, 4))) + node
            case int() if not isinstance(node, bool) and self._lies():
                return (
                    b"\xd3" + node.to_bytes(8, "big", signed=True)
                    if -(1 << 63) <= node < 1 << 63
                    else msgpack.packb(node)
                )
            case _:
                return bytes(msgpack.packb(node))

    def _head(self, count: int, fixed: tuple[int, int], sized: Sequence[tuple[int, int]]) -> bytes:
        """Return a head for a number of items or bytes: the shortest, sometimes a longer or a wrong one."""
        if self._lies():
            count = self.source.choice((count + 1, max(0, count - 1), 0, 65_535, 0xFFFF_FFFF))
        first, most = fixed
        if count <= most and not self._lies():
            return bytes([first | count])
        fitting = [(code, width) for code, width in sized if count < 1 << (8 * width)]
        code, width = fitting[0] if not self._lies() else fitting[-1]
        return bytes([code]) + count.to_bytes(width, "big")

    def _lies(self) -> bool:
        return self.source.randrange(LIE_ONE_IN) == 0

    # --- headers and keys -------------------------------------------------------------------------------------

    def headers(self, headers: Headers, names: Sequence[str], values: Sequence[bytes]) -> Headers:
        """Return headers with some changed, removed, repeated, renamed or added. ``values`` fit some headers."""
        made = list(headers)
        for _ in range(self.source.choice((1, 1, 2, 3))):
            at = self.source.randrange(len(made) + 1)
            match self.source.randrange(6):
                case 0:
                    del made[at : at + 1]
                case 1 | 2 if at < len(made):
                    made[at] = (made[at][0], self._header_value(made[at][1], values))
                case 3 if at < len(made):
                    made[at] = (self.source.choice(names), made[at][1])
                case 4:
                    made += made[at : at + 1]
                case _:
                    made.insert(at, (self.source.choice(names), self._header_value(b"", values)))
        return tuple(made)

    def _header_value(self, value: bytes, values: Sequence[bytes]) -> bytes:
        match self.source.randrange(7):
            case 0:
                return self.source.choice(TEXTS).encode()
            case 1:
                return self.source.choice(
                    (b"\xff", b"\xed\xa0\x80", b"", b" 1", b"+1", b"1_0", b"-1", b"1/2", b"9" * 4_400)
                )
            case 2:
                return b"%d" % self.source.choice(EDGES)
            case 3:
                return self.source.randbytes(self.source.choice((1, 16, 300)))
            case 4 if value:
                return self.damaged(value)
            case _:
                return self.damaged(self.source.choice(values)) if self.chance(0.3) else self.source.choice(values)

    def key(self, key: bytes | None, others: Sequence[bytes]) -> bytes | None:
        """Return another key: of another entity, None, or an invalid one."""
        match self.source.randrange(6):
            case 0:
                return None
            case 1:
                return self.source.choice(TEXTS).encode()
            case 2:
                return b"%d" % self.source.choice(EDGES)
            case 3:
                return self.source.choice(
                    (b"\xff", b"\xed\xa0\x80", b"\0", b"", b"k" * 255, b"k" * 256, b"-1", b"\xc2")
                )
            case 4 if key:
                return self.damaged(key)
            case _:
                return self.source.choice(others)


class _NoTree:
    """The result of ``tree_of`` for bytes that are not MessagePack."""


_NO_TREE = _NoTree()


def tree_of(data: bytes) -> object:
    """Return the decoded value, with maps as their pairs; ``_NO_TREE`` if the bytes are not one MessagePack value."""
    try:
        return msgpack.unpackb(data, object_pairs_hook=Map, strict_map_key=False)
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException):
        return _NO_TREE
