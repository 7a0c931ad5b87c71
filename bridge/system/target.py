"""Finds an application's system by a target: ``package.module:system`` or ``path/to/file.py:system``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from repertory.actors.message import DefinitionError
from repertory.bridge.system.definition import SystemDefinition
from repertory.supervision.traceback_text import message_of

T = TypeVar("T")

#: Where Python's library and the installed packages are: an error that is raised there was caused elsewhere.
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class TargetError(Exception):
    """A target that is not a system, or cannot be found; the message is one sentence."""


def load_object(target: str, kind: type[T]) -> T:
    """Import a target and return the object that it names; TargetError unless that is a ``kind``."""
    module_name, _, attribute = target.partition(":")
    if not module_name or not attribute:
        example = f"{module_name or 'examples.banking'}:{attribute or 'system'}"
        raise TargetError(f"{target!r} is not a target: write module:system, as in {example}")
    module = _imported(module_name)
    if not hasattr(module, attribute):
        found = [name for name, value in vars(module).items() if isinstance(value, kind)]
        hint = f"; it has {', '.join(found)}" if found else f"; it has no {kind.__name__}"
        raise TargetError(f"the module {module_name} has no {attribute!r}{hint}")
    found_value = getattr(module, attribute)
    if not isinstance(found_value, kind):
        raise TargetError(f"{target} is a {type(found_value).__name__}, not an {kind.__name__}")
    return found_value


def _imported(name: str) -> ModuleType:
    """Import a module by its name or path. An error within it is a TargetError that says where it is."""
    try:
        return _load_path(name) if name.endswith(".py") or "/" in name or name.startswith(".") else _load_module(name)
    except (TargetError, DefinitionError):
        raise
    except SyntaxError as error:
        where = f"{error.filename}, line {error.lineno}"
        raise TargetError(f"{name} cannot be imported: {type(error).__name__}: {error.msg} ({where})") from error
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if not frame.filename.startswith(("<", *_LIBRARIES))] or frames
        where = f"{own[-1].filename}, line {own[-1].lineno}"
        raise TargetError(
            f"{name} cannot be imported: {type(error).__name__}: {message_of(error)} ({where})"
        ) from error


def _load_module(name: str) -> ModuleType:
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise TargetError(f"there is no module {name!r} in {Path.cwd()} or among the installed packages") from error
        raise


def _load_path(name: str) -> ModuleType:
    """Import ``path/to/file.py``, and ``path/to/file`` as a shell completes it, or the package in a folder."""
    path = Path(name)
    if path.suffix != ".py" and path.name not in ("", ".."):
        if (path / "__init__.py").is_file():
            sys.path.insert(0, str(path.parent.resolve()))
            return importlib.import_module(path.name)
        path = path.with_name(f"{path.name}.py")
    if not path.is_file():
        what = f"there is no file {path}" if path.suffix == ".py" else f"{name!r} is neither a module nor a file"
        raise TargetError(f"{what}: write module:system or path/to/file.py:system")
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
