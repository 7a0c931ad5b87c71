"""``OutputOrder``: whether the outputs of one entity to a partition are in the order of its commands."""

from __future__ import annotations

from repertory.verify.findings import Finding
from repertory.verify.produced import Made, Targets


class OutputOrder:
    """Of one shard, whose commands are given in their order."""

    def __init__(self, targets: Targets, finding: Finding) -> None:
        self._targets, self._finding = targets, finding
        #: (key, partition) -> the offset of the last output of that key to that partition.
        self._sent: dict[tuple[str, int], int] = {}

    def check(self, key: str, made: list[Made]) -> None:
        """Check the outputs of the next command of a key."""
        for each in made:
            if each.target in self._targets.lows:
                self._finding.looked_at += 1
                before = self._sent.get((key, each.target), -1)
                if each.place < before:
                    self._finding.wrong(self._targets.place(each), f"is before an earlier output of key {key!r}")
                self._sent[key, each.target] = max(each.place, before)
