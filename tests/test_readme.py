"""The README is true: its example runs and is well typed, its tables are those of the code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

from repertory.bridge.system.settings import Settings
from repertory.supervision import phase_table_rst
from tests.support.paths import ROOT

README = ROOT / "README.rst"


def between(name: str) -> str:
    """Return what stands between two comments of the README."""
    found = re.search(
        rf"^\.\. {name}\n\n(.*?)^\.\. /{name}$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, f"README.rst has no {name}"
    return found[1].strip()


def example(path: Path) -> Path:
    """Write the README's first Python block to a file."""
    block = re.search(
        r"^\.\. code-block:: python\n\n(.*?)^\S", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert block
    file = path / "bank.py"
    file.write_text(re.sub(r"^    ", "", block[1], flags=re.MULTILINE), encoding="utf-8")
    return file


def settings_table() -> str:
    """Render every setting with its default and reason, from the comments that stand above it."""
    source = (ROOT / "bridge" / "system" / "settings.py").read_text(encoding="utf-8")
    rows = re.findall(r"((?:    #: .*\n)+)    (\w+): \w+ = (.*)\n", source)
    assert [name for _, name, _ in rows] == list(Settings.__struct_fields__)
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - setting", "     - default", "     - reason"]
    for comment, name, default in rows:
        reason = " ".join(part.strip().removeprefix("#:").strip() for part in comment.strip().splitlines())
        lines += [f"   * - ``{name}``", f"     - {default.replace('_', ',')}", f"     - {reason}"]
    return "\n".join(lines)


def test_the_example_runs_and_says_what_its_comment_says(tmp_path: Path) -> None:
    """A newcomer copies the first block into a file, runs it, and sees the balance."""
    command = [sys.executable, str(example(tmp_path))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert (done.returncode, done.stdout) == (0, "Account(balance=7)\n"), done.stderr


def test_the_example_is_well_typed(tmp_path: Path) -> None:
    """The example is clean under mypy --strict, without a plugin."""
    out, _, code = api.run(["--strict", "--no-incremental", str(example(tmp_path))])
    assert code == 0, out


@pytest.mark.parametrize(("name", "table"), [("phase-table", phase_table_rst), ("settings-table", settings_table)])
def test_tables_are_those_of_the_code(name: str, table: object) -> None:
    """The README shows the transitions that the machine follows and the settings that there are."""
    assert callable(table)
    assert between(name) == str(table()).strip(), "write it anew: python -m tests.test_readme"


def rewritten(text: str, name: str, table: str) -> str:
    """Return the README with a table as the code has it."""
    body = f".. {name}\n\n{table.strip()}\n\n.. /{name}\n"
    return re.sub(rf"^\.\. {name}\n.*?^\.\. /{name}\n", lambda _: body, text, flags=re.DOTALL | re.MULTILINE)


if __name__ == "__main__":
    written = rewritten(README.read_text(encoding="utf-8"), "phase-table", phase_table_rst())
    README.write_text(rewritten(written, "settings-table", settings_table()), encoding="utf-8")
