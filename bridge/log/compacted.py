"""Which topics are compacted: the last record of each key stays, superseded ones are deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping


def is_compacted(config: Mapping[str, str]) -> bool:
    """Return whether a topic with this configuration is compacted. ``cleanup.policy`` is a list."""
    return "compact" in [policy.strip() for policy in config.get("cleanup.policy", "").split(",")]
