"""The documentation page: one file of HTML with its document in it. It loads nothing, so it works without a network."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import re
from importlib.resources import files
from typing import Final

_TEXT: Final = (files(__package__) / "page.html").read_text(encoding="utf-8")


def _hash(tag: str) -> str:
    """Return the source expression of the page's one script or style (CSP 3, 2.3.1)."""
    (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", _TEXT, re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


#: The page runs its own script and asks its own origin, and nothing else, whatever a docstring says.
HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; script-src {_hash('script')}; style-src {_hash('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def html(name: str, document: bytes) -> str:
    """Return the page that shows an OpenAPI document, which is in it as JSON."""
    embedded = document.decode().replace("<", "\\u003c")
    return _TEXT.replace("{{title}}", markup.escape(name)).replace("{{document}}", embedded)
