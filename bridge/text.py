"""Makes untrusted text safe for terminals and log lines: keys, reasons and names come from messages and handlers."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Escape, as Python does, all characters that a terminal would interpret or that would break the log line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
