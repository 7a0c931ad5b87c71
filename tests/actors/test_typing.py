"""The examples of the design pass ``mypy --strict`` and pyright, and mistakes are type errors in both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from mypy import api

from tests.support.paths import ROOT

SNIPPETS = Path(__file__).parent / "snippets"


def mistakes(snippet: Path) -> dict[int, str]:
    """Return the lines of a snippet that must be errors, with mypy's code."""
    lines = snippet.read_text(encoding="utf-8").splitlines()
    return {number: found[1] for number, line in enumerate(lines, 1) if (found := re.search(r"# error: (\S+)", line))}


@pytest.mark.parametrize("name", ["typed.py", "typed_sagas.py"])
def test_mistakes_are_type_errors_and_nothing_else_is(name: str) -> None:
    """Exactly the lines with an ``error`` comment are errors, with the code in the comment."""
    expected = mistakes(SNIPPETS / name)
    said, complaint, _ = api.run(["--strict", "--no-error-summary", str(SNIPPETS / name)])
    assert not complaint
    found = defaultdict[int, set[str]](set)
    for number, code in re.findall(rf"{name}:(\d+): error: .* \[(\S+)\]", said):
        found[int(number)].add(code)
    assert set(found) == set(expected), said
    assert all(code in found[number] for number, code in expected.items()), said


def test_pyright_finds_the_mistakes_in_sagas_too() -> None:
    """On the same lines, and nothing else."""
    snippet = SNIPPETS / "typed_sagas.py"
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, str(snippet)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    said = json.loads(done.stdout)["generalDiagnostics"]
    found = {each["range"]["start"]["line"] + 1 for each in said}
    assert found == set(mistakes(snippet)), said
    assert len(found) >= 7
