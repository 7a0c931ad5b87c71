"""Finds an application's system by a target: ``package.module:system`` or ``path/to/file.py:system``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from repertory.bridge.system.definition import SystemDefinition

T = TypeVar("T")


class TargetError(Exception):
    """A target that is not a system, or cannot be found; the message is one sentence."""


def load_object(target: str, kind: type[T]) -> T:
    """Import a target and return the object that it names; TargetError unless that is a ``kind``."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        raise TargetError(f"{target!r} is not a target: write module:system, as in examples.banking:system")
    module = _load_file(Path(module_name)) if module_name.endswith(".py") else _load_module(module_name)
    if not hasattr(module, attribute):
        found = [name for name, value in vars(module).items() if isinstance(value, kind)]
        hint = f"; it has {', '.join(found)}" if found else f"; it has no {kind.__name__}"
        raise TargetError(f"the module {module_name} has no {attribute!r}{hint}")
    found_value = getattr(module, attribute)
    if not isinstance(found_value, kind):
        raise TargetError(f"{target} is a {type(found_value).__name__}, not an {kind.__name__}")
    return found_value


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"there is no module {name!r} in {Path.cwd()} or among the installed packages") from error
        raise


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, path
    assert spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent.resolve()))
    spec.loader.exec_module(module)
    return module


def target_of(system: SystemDefinition) -> str:
    """Return the target by which another process can import a system of this process; TargetError if there is none."""
    # __main__ comes last: a script may have imported the system from the module that defines it.
    for module in sorted(sys.modules.values(), key=lambda module: getattr(module, "__name__", "") == "__main__"):
        for attribute, value in list(getattr(module, "__dict__", {}).items()):
            if value is system:
                return f"{_address(module)}:{attribute}"
    raise TargetError(
        f"the system {system.name} is not an attribute of a module, so worker processes cannot import it; "
        "assign it at the top level of a module"
    )


def _address(module: ModuleType) -> str:
    if module.__name__ != "__main__":
        return module.__name__
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, "__file__", None)
    if file is None:
        raise TargetError(
            "a system defined in an interactive session cannot run in other processes; use system.start()"
        )
    return str(Path(file).resolve())
