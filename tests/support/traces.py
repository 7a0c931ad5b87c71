"""Runs seeds of a simulated application in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT


def traces_elsewhere(module: str, seeds: int, hash_seed: str, directory: Path) -> list[str]:
    """Return the traces of so many seeds of the ``system`` and ``commands`` of a module, with that PYTHONHASHSEED."""
    code = (
        f"import json; from repertory.simulation import Scenario; from {module} import commands, system; "
        "c = Scenario(system=system, commands=commands); "
        f"print(json.dumps([c.run(i).trace for i in range({seeds})]))"
    )
    path = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment, cwd=directory
    )
    found: list[str] = json.loads(done.stdout)
    return found
