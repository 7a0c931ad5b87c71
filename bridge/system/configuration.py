"""Resolves the settings of a deployment: the environment, over ``./pyproject.toml``, over the code, over the defaults.

``REPERTORY_BATCH_RECORDS_MAX=500`` sets ``batch_records_max``; so does ``batch_records_max = 500`` in the table
``[tool.repertory]`` of the ``pyproject.toml`` in the current directory. Whatever starts a system on a log, or reads its
log, asks once (``SystemDefinition.configured``); a node passes the result on to its workers, wherever they run.
Importing an application asks nothing.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from repertory.bridge.log.errors import InvalidSetting
from repertory.bridge.system.settings import FIELDS, Settings

#: Begins the name of each variable; the rest is the name of a setting in capitals.
PREFIX = "REPERTORY_"
FILE = "pyproject.toml"
TABLE = "[tool.repertory]"

#: Variables with that prefix that are no settings: of the command line, of kill points and nodes, and of our own tests.
OTHER_VARIABLES = frozenset(
    {
        "REPERTORY_LOG",
        "REPERTORY_HTTP_TOKEN",
        "REPERTORY_IN_A_NODE",
        "REPERTORY_KILL_AT",
        "REPERTORY_TEST_KAFKA",
        "REPERTORY_KILL_ROUNDS",
        "REPERTORY_DIFFERENTIAL",
        "REPERTORY_DIFFERENTIAL_FIRST",
        "REPERTORY_RECORDED_KILLS",
        "REPERTORY_NONTRANSACTIONAL_SEEDS",
        "REPERTORY_RELAY_SEEDS",
        "REPERTORY_PROJECTION_SEEDS",
        "REPERTORY_SAGA_SEEDS",
        "REPERTORY_SIMULATION_SEED",
        "REPERTORY_TIMERS",
    }
)
#: What Kubernetes sets in every container for a service that is called "repertory" or "repertory-…".
_KUBERNETES = re.compile(r"REPERTORY(_\w+)?_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
_WHOLE = re.compile(r"[+-]?\d+(_\d+)*")
_NUMBER = re.compile(r"[+-]?(\d+(_\d+)*)?\.?\d*(e[+-]?\d+)?", re.IGNORECASE)
_TRUTH = {"true": True, "1": True, "false": False, "0": False}


class Configuration(NamedTuple):
    """Settings, and where each one comes from: "default", "code", a file, or a variable of the environment."""

    settings: Settings
    sources: Mapping[str, str]


def configuration(
    code: Settings, environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> Configuration:
    """Resolve the settings of this process: by default those of its environment and current directory.

    Raises:
        InvalidSetting: a name is unknown or a value is not allowed; the message names the source, the value and what is
            allowed. Or the file cannot be read.
    """
    path = (folder or Path.cwd()) / FILE
    sources = {name: "default" if getattr(code, name) == getattr(_DEFAULTS, name) else "code" for name in FIELDS}
    changes: dict[str, object] = {}
    for origin, found in (
        (str(path), _from_file(path)),
        ("", _from_environment(os.environ if environment is None else environment)),
    ):
        changes.update(found)
        sources.update({name: origin or _variable(name) for name in found})
    return Configuration(msgspec.structs.replace(code, **changes), sources)


_DEFAULTS = Settings()


def _from_environment(environment: Mapping[str, str]) -> dict[str, object]:
    """Return the settings in the environment. An empty variable is like none: compose files set such."""
    found: dict[str, object] = {}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or _KUBERNETES.fullmatch(variable):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if variable != _variable(name) or name not in FIELDS:
            near = _near(name, _variable)
            raise InvalidSetting(f"the variable {variable}={text!r:.100} of the environment is no setting{near}")
        if not text:
            continue
        value = _parsed(FIELDS[name].kind, text.strip())
        if not FIELDS[name].allows(value):
            raise InvalidSetting(
                f"the variable {variable}={text!r:.100} of the environment is invalid: it must be "
                f"{FIELDS[name].allowed}"
            )
        found[name] = value
    return found


def _from_file(path: Path) -> dict[str, object]:
    """Return the settings in a file; {} if there is no file, or no table of ours in it."""
    try:
        tool = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:  # Both decoders raise kinds of ValueError.
        raise InvalidSetting(f"{path} cannot be read, and may have settings ({TABLE}): {error}") from error
    table = tool.get("repertory", {}) if isinstance(tool, dict) else {}
    if not isinstance(table, dict):
        raise InvalidSetting(f"tool.repertory = {table!r:.100} in {path} is no table of settings: write {TABLE}")
    found: dict[str, object] = {}
    for name, value in table.items():
        if name not in FIELDS:
            raise InvalidSetting(f"{name} = {value!r:.100} in {TABLE} of {path} is no setting{_near(name, str)}")
        if not FIELDS[name].allows(value):
            raise InvalidSetting(
                f"{name} = {value!r:.100} in {TABLE} of {path} is invalid: it must be {FIELDS[name].allowed}"
            )
        found[name] = value
    return found


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _parsed(kind: type, text: str) -> object:
    """Read the text of a variable; a text that is no such value is returned as it is, and allowed nowhere."""
    if kind is bool:
        return _TRUTH.get(text.lower(), text)
    if kind is int:
        return int(text) if _WHOLE.fullmatch(text) else text
    if kind is float:
        return float(text) if _NUMBER.fullmatch(text) and any(map(str.isdigit, text)) else text
    return text


def _near(name: str, written: Callable[[str], str]) -> str:
    """Return the setting that may have been meant, as its source writes it, and the command that lists all."""
    meant = "".join(f"; did you mean {written(found)}?" for found in difflib.get_close_matches(name, FIELDS, n=1))
    return f"{meant or ';'} repertory settings MODULE:SYSTEM lists all"
