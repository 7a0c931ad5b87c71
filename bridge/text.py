"""Text from anybody, for a terminal or a log line: keys, reasons and names come from messages and their handlers."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return text without what a terminal would obey or a log would take for a new line: escaped, as Python does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
