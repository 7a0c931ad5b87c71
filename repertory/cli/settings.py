"""``repertory settings``: every setting that a deployment runs with, and where it comes from."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from repertory.bridge.system.configuration import configuration
from repertory.bridge.system.settings import FIELDS, meanings
from repertory.bridge.system.system import load_system
from repertory.cli.shared import Target, TextTable, console, sentences


def settings(
    target: Target,
    json: Annotated[bool, typer.Option("--json", help="All of it, with the whole meaning of each, as JSON.")] = False,
) -> None:
    """Show every setting: its value, where it comes from, what it may be, and what it means.

    REPERTORY_BATCH_RECORDS_MAX=500 in the environment sets batch_records_max. It overrides [tool.repertory] in
    ./pyproject.toml, which overrides Settings(…) in the code.
    """
    with sentences():
        system = load_system(target)
        found = configuration(system.settings)
    explained = meanings()
    if json:
        console.show_json(
            {
                name: {
                    "value": getattr(found.settings, name),
                    "source": found.sources[name],
                    "allowed": field.allowed,
                    "meaning": explained.get(name, ""),
                }
                for name, field in FIELDS.items()
            }
        )
        return
    table = TextTable("setting", "value", "source", "allowed", "meaning", title=f"system {system.name}")
    for name, field in FIELDS.items():
        value = getattr(found.settings, name)
        shown = f"{value:,}" if type(value) is int else value
        table.row(name, shown, found.sources[name], field.allowed, _first_sentence(explained.get(name, "")))
    console.print(table)


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;])\s", text, maxsplit=1)[0].rstrip(".;").replace("`", "")
