"""The README and the architecture page are true: the example runs, tables and maps are those of the code."""

from __future__ import annotations

import ast
import inspect
import io
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from mypy import api

from repertory.bridge import assigned_shard
from repertory.bridge.assigned_shard import SHARD_PHASE_TABLE, ShardChange, ShardPhase
from repertory.bridge.log.kafka.shard import PHASE_TABLE as KAFKA_PHASE_TABLE
from repertory.bridge.log.kafka.shard import KafkaChange, KafkaPhase, KafkaShard
from repertory.bridge.system.settings import Settings
from repertory.supervision import PHASE_TABLE, ChildChange, ChildPhase, phase_table_rst
from tests.support.paths import ROOT, located, named

README = ROOT / "README.rst"
ARCHITECTURE = ROOT / "docs" / "architecture.rst"

#: What the file map lists, in this order.
MAPPED = (
    "supervision", "actors", "bridge", "repertory/cli", "repertory/avro", "repertory/gateway", "repertory/projections",
    "repertory/operate", "repertory/inspect", "repertory/verify", "repertory/simulation", "examples", "benchmarks",
)  # fmt: skip

#: Names that only the at-least-once mode needs: a module that uses one knows of the mode.
AT_LEAST_ONCE_NAMES = {
    "AT_LEAST_ONCE", "Append", "CountingJournal", "EPOCH", "NEXT", "NontransactionalRecovery", "Redelivery",
    "SeenCauses", "SeenRecord", "TURN", "append_of", "nontransactional", "seen_causes", "seen_causes_max",
    "with_epoch",
}  # fmt: skip


def between(path: Path, name: str) -> str:
    """Return what a document has between two comments."""
    found = re.search(
        rf"^\.\. {name}\n\n(.*?)^\.\. /{name}$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert found, f"{path.name} has no {name}"
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
    """Render every setting with its default and reason, from the comments above it."""
    source = located("bridge/system/settings.py").read_text(encoding="utf-8")
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


def modules(*folders: str) -> Iterator[Path]:
    """Yield the modules of folders, packages first, as paths below the root."""
    for folder in folders:
        yield from sorted(
            (Path(named(path)) for path in located(folder).rglob("*.py")),
            key=lambda path: (path.parent.as_posix(), path.name),
        )


def docstring(path: Path) -> str:
    """Return the docstring of a module."""
    found = ast.get_docstring(ast.parse(located(str(path)).read_text(encoding="utf-8")))
    assert found, f"{path} has no docstring"
    return found


def file_map() -> str:
    """Render every module with the first sentence of its docstring."""
    lines = ["::", ""]
    for path in modules(*MAPPED):
        sentence = re.split(r"\.(?:\s|$)", docstring(path).split("\n\n")[0].replace("\n", " "), maxsplit=1)[0]
        sentence = re.sub(r"`+", "", sentence)
        if path.name == "__init__.py":
            lines += ["", f"    {path.parent.as_posix() + '/':<34}{sentence}"]
        else:
            lines.append(f"      {path.name:<32}{sentence}")
    return "\n".join(line for line, before in zip(lines, ["", *lines], strict=False) if line or before)


def diagram(subject: object) -> str:
    """Return the literal block of a docstring."""
    found = re.search(r"^::\n\n((?:    .*\n|\n)+)", inspect.cleandoc(str(subject)) + "\n", re.MULTILINE)
    assert found
    return f"::\n\n{found[1].rstrip()}"


#: What is made from the code: the document, the name between whose comments it is, and how it is made.
GENERATED: list[tuple[Path, str, Callable[[], str]]] = [
    (README, "file-map", file_map),
    (README, "settings-table", settings_table),
    (ARCHITECTURE, "child-phases", partial(phase_table_rst, PHASE_TABLE, ChildChange, ChildPhase)),
    (ARCHITECTURE, "shard-diagram", partial(diagram, assigned_shard.__doc__)),
    (ARCHITECTURE, "shard-phases", partial(phase_table_rst, SHARD_PHASE_TABLE, ShardChange, ShardPhase)),
    (ARCHITECTURE, "kafka-diagram", partial(diagram, KafkaShard.__doc__)),
    (ARCHITECTURE, "kafka-phases", partial(phase_table_rst, KAFKA_PHASE_TABLE, KafkaChange, KafkaPhase)),
]


@pytest.mark.parametrize(("path", "name", "made"), GENERATED, ids=[name for _, name, _ in GENERATED])
def test_what_is_made_from_the_code_is_up_to_date(path: Path, name: str, made: Callable[[], str]) -> None:
    """The documents show the modules, settings, phases and changes that there are."""
    assert between(path, name) == made().strip(), "write it again: python -m tests.test_readme"


def test_the_journey_names_functions_that_exist() -> None:
    """Each step of "One record's journey" names a file and a function, and the function is in that file."""
    text = README.read_text(encoding="utf-8")
    journey = text[text.index("One record's journey") : text.index("The four values")]
    steps = re.findall(r"``([\w/]+\.py)`` ``(\w+)``", journey)
    assert len(steps) >= 10
    for path, name in steps:
        tree = ast.parse(located(str(path)).read_text(encoding="utf-8"))
        names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        assert name in names, f"{path} has no {name}"


@pytest.mark.parametrize("path", [README, *sorted((ROOT / "docs").glob("*.rst"))], ids=lambda path: path.name)
def test_documents_name_files_that_exist(path: Path) -> None:
    """Every path of a module or document that a document names is there."""
    named = re.findall(
        r"``((?:actors|bridge|supervision|repertory|examples|benchmarks|tests|docs)/[\w/]+\.(?:py|rst))``",
        path.read_text(encoding="utf-8"),
    )
    assert not [name for name in named if not located(name).is_file()]


def test_the_architecture_page_lists_every_place_that_knows_of_at_least_once() -> None:
    """A module that uses a name of that mode is in the list, and no other is."""
    text = ARCHITECTURE.read_text(encoding="utf-8")
    listed = set(re.findall(r"``([\w/]+\.py)``", text[text.index("\nAt least once\n") :]))
    knowing = set()
    for path in modules(*MAPPED[:-2]):
        tokens = tokenize.generate_tokens(io.StringIO(located(str(path)).read_text(encoding="utf-8")).readline)
        if any(token.type == tokenize.NAME and token.string in AT_LEAST_ONCE_NAMES for token in tokens):
            knowing.add(path.as_posix())
    assert listed == knowing


if __name__ == "__main__":
    for document, part, made in GENERATED:
        block = f".. {part}\n\n{made().strip()}\n\n.. /{part}\n"
        before = document.read_text(encoding="utf-8")
        after = re.sub(
            rf"^\.\. {part}\n.*?^\.\. /{part}\n", lambda _, block=block: block, before, flags=re.DOTALL | re.MULTILINE
        )
        document.write_text(after, encoding="utf-8")
