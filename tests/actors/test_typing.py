"""The example of section 2 passes ``mypy --strict``, and mistakes are type errors."""

from __future__ import annotations

import re
from pathlib import Path

from mypy import api

SNIPPET = Path(__file__).parent / "snippets" / "typed.py"


def test_mistakes_are_type_errors_and_nothing_else_is() -> None:
    """Exactly the lines with an ``error`` comment are errors, with the code in the comment."""
    lines = SNIPPET.read_text(encoding="utf-8").splitlines()
    expected = {
        number: found[1] for number, line in enumerate(lines, 1) if (found := re.search(r"# error: (\S+)", line))
    }
    said, complaint, _ = api.run(["--strict", "--no-error-summary", str(SNIPPET)])
    assert not complaint
    found = re.findall(r"typed\.py:(\d+): error: .* \[(\S+)\]", said)
    assert {int(number): code for number, code in found} == expected, said
