"""Makes untrusted text safe for terminals and log lines: keys, reasons and names come from messages and handlers."""

from __future__ import annotations

import json
import re


def one_line(text: str) -> str:
    """Escape, as Python does, all characters that a terminal would interpret or that would break the log line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def printable_json(text: str) -> str:
    """Escape the same characters in JSON text, as JSON does. Line breaks outside of strings are kept."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escaped(c) for c in text)


def without_login(url: str) -> str:
    """Return what looks like a URL without its user and password, to be shown."""
    return re.sub(r"//.*@", "//…@", url)


def _json_escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x1_0000 else json.dumps(character)[1:-1]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
