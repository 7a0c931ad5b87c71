"""The page about asks is true: it names each answer that an ask can have, and its limits are those of the settings."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from repertory.actors.asks import AskId
from repertory.actors.shard.answers import WAITING_MAX
from repertory.actors.shard.changelog import ANSWER_KEY, AUTO_KEY, ShardRecord
from repertory.bridge.system.ask import NotApplied
from repertory.bridge.system.settings import Settings
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "asks.rst").read_text(encoding="utf-8")
LIMITS = ("answers_kept_s", "answers_per_shard_max", "ids_ahead_max_s", "ask_timeout_max_s")


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_of_the_page_is_that_of_the_settings(name: str) -> None:
    """Its row has the default."""
    found = re.search(rf"\* - ``{name}``\n     - ([\d,.]+)\n", PAGE)
    assert found is not None
    assert float(found[1].replace(",", "")) == getattr(Settings(), name)


def test_the_page_has_a_row_for_each_answer_without_a_decision() -> None:
    """Whatever an ask can be answered beside what its handler returns is in the table."""
    for kind in NotApplied.__args__:
        assert f"   * - ``{kind.__name__}``\n" in PAGE


def test_the_page_names_what_is_stored() -> None:
    """The keys of the records, the horizons, and how many may wait."""
    for key in (ANSWER_KEY, AUTO_KEY):
        assert "``" + key.replace("\0", r"\0") + "{key}" in PAGE
    for name in ShardRecord.__struct_fields__:
        assert not name.endswith("horizon_ms") or f"``{name}``" in PAGE
    assert f"{WAITING_MAX:,} askers" in PAGE


def test_the_header_of_the_page_is_an_id() -> None:
    """It is written as the client writes it."""
    found = re.search(r"``((\d+)/order-17)``", PAGE)
    assert found is not None
    made_at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=int(found[2]))
    assert AskId("order-17", made_at).header.decode() == found[1]
