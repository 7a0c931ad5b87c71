"""The timer that sent a command, as the command's header names it, and the bounds of timers.

A timer belongs to one key and has a name; scheduling it again replaces it. When it is due, its shard appends its
command to its own partition (``actors.shard.timers``), with a header that names the timer, the command that scheduled
it and when it was due. So a command of a timer that was cancelled or replaced in the meantime can be told from one that
still counts.
"""

from __future__ import annotations

import re

import msgspec

#: Longest name of a timer in bytes of UTF-8.
NAME_BYTES_MAX = 255
#: The latest due time (epoch), in the year 9999: what is later is a mistake of units.
DUE_MS_MAX = 253_402_300_799_999
#: The longest delay and period: a hundred years of 365.25 days.
DELAY_S_MAX = 3_155_760_000.0

_HEADER = re.compile(r"([0-9]{1,18})/([0-9]{1,9})/([0-9]{1,15})/(.+)", re.DOTALL)


class FiredTimer(msgspec.Struct, frozen=True, gc=False):
    """The timer that sent a command: its name, its *generation*, and when it was due (epoch).

    The generation is the cause of the timer: the offset of the command that scheduled it, and the position among what
    that command scheduled. It is never used again, as a counter in a record that is deleted would be. ``retried``: the
    command was a dead letter that an operator retries, so the timer was settled before.
    """

    name: str
    offset: int
    index: int
    due_ms: int
    retried: bool = False

    @classmethod
    def parse(cls, header: bytes, *, retried: bool = False) -> FiredTimer:
        """Return the timer in a header; ValueError if there is none."""
        if (found := _HEADER.fullmatch(header.decode())) is None or flaw_of_name(found[4]):
            raise ValueError(f"{header!r:.300} is not a timer: offset/index/due_ms/name")
        return cls(found[4], int(found[1]), int(found[2]), int(found[3]), retried)

    def header(self) -> bytes:
        """Return the value of the header."""
        return f"{self.offset}/{self.index}/{self.due_ms}/{self.name}".encode()


def flaw_of_name(name: object) -> str | None:
    """Return why a timer cannot have a name, None if it can."""
    if not isinstance(name, str):
        return f"is of type {type(name).__name__}, not str"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not encodable as UTF-8"
    if not 1 <= size <= NAME_BYTES_MAX:
        return f"has {size} bytes of UTF-8; 1 to {NAME_BYTES_MAX} are allowed"
    return "contains NUL" if "\0" in name else None
