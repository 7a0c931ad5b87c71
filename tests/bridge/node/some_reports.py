"""Reports for tests: any report of a node, with any content that a line may hold."""

from __future__ import annotations

from typing import get_args

import msgspec
from hypothesis import strategies as st

from repertory.bridge.reports import NodeReport
from repertory.supervision.process.reports import Count, Report, Seconds

#: Every type of report that a node's stream may hold.
TYPES: tuple[type[Report], ...] = get_args(NodeReport)

_FIELDS = {
    Count: st.integers(0, 10**12),
    Seconds: st.floats(0, 10**12),
    int: st.integers(-(2**31), 2**31),
    bool: st.booleans(),
    str: st.text(max_size=30),
}


def reports_of(kind: type[Report]) -> st.SearchStrategy[Report]:
    """Return reports of one type."""
    return st.builds(kind, **{field.name: _FIELDS[field.type] for field in msgspec.structs.fields(kind)})


any_report = st.sampled_from(TYPES).flatmap(reports_of)
