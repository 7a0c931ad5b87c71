"""Where the checkout is, for tests that start programs or read its files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The folders of a checkout that are installed as ``repertory.…``, and only as that.
LINKED = ("actors", "bridge", "supervision")


def located(name: str) -> Path:
    """Return where a file or folder is that documents call ``bridge/loop.py``.

    In an unpacked sdist, which holds no links, that is ``repertory/bridge/loop.py``.
    """
    folder = name.split("/", maxsplit=1)[0]
    return ROOT / "repertory" / name if folder in LINKED and not (ROOT / folder).is_dir() else ROOT / name


def named(path: Path) -> str:
    """Return what documents call a file."""
    name = path.relative_to(ROOT).as_posix()
    return name.removeprefix("repertory/") if name.startswith(tuple(f"repertory/{each}/" for each in LINKED)) else name
