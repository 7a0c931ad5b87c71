"""The databases that projections are tested on."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest


@pytest.fixture(params=["sqlite", "postgresql"])
def sql_kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of the database under test."""
    return str(request.param)


@pytest.fixture
def sql_url(sql_kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database; PostgreSQL is started for the first test that needs it."""
    if sql_kind == "sqlite":
        return f"sqlite:///{tmp_path / 'projections.db'}"
    return str(request.getfixturevalue("postgres").make(f"test_{uuid.uuid4().hex[:12]}"))
