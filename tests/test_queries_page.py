"""The page about queries is true: its program runs, and prints what its comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "queries.rst"


def test_the_program_of_the_page_prints_what_it_says(tmp_path: Path) -> None:
    """Each ``print`` has its output behind it."""
    found = re.search(r"code-block:: python\n\n((?:    .*\n|\n)+)", PAGE.read_text(encoding="utf-8"))
    assert found is not None
    program = tmp_path / "status.py"
    program.write_text(dedent(found[1]), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"print\(.*\)\s+# (.*)", found[1])
