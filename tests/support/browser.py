"""A headless Chromium, as Debian packages it: ``make test`` installs it where it may."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
TIMEOUT_S = 90


def page_of(url: str, folder: Path) -> str:
    """Return the document of a page after its scripts have run. No other host can be reached.

    Without a browser the test is skipped, or fails if ``CI`` is set.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("CI must look at the page in a browser: apt-get install chromium-headless-shell")
        pytest.skip("there is no Chromium: apt-get install chromium-headless-shell")
    command = [
        found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=20000", "--dump-dom", url,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
