"""Check the effects of one shard: each is open, or has one result, of a type that its annotation names.

What the world outside has answered is taken as given. An effect that returned nothing leaves no trace, if it may.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from repertory.actors.effect import Effect, registered
from repertory.actors.headers import ABOUT, EFFECT, REJECTED
from repertory.actors.message import Rejection, wire_name
from repertory.actors.saga.inner import STEP_MARK
from repertory.actors.shard.changelog import EffectRecord, effect_key
from repertory.actors.wire import written_name
from repertory.bridge.log.record import Record
from repertory.verify.findings import Finding, Place
from repertory.verify.values import Decode


class EffectResult(NamedTuple):
    """What a command says that brings the result of an effect; ``place``: the key of that in the changelog.

    ``rejected``: it tells a saga that its step was not applied.
    """

    place: str
    offset: int
    effect: str
    about: str
    key: str
    data: bytes
    rejected: bool = False


def result_of(record: Record, key: str, offset: int, index: int) -> EffectResult | None:
    """Return the result that a record brings because of a command; None if it brings none."""
    if (effect := record.header(EFFECT)) is None:
        return None
    name, about = (each.decode("utf-8", "backslashreplace") for each in (effect, record.header(ABOUT) or b""))
    is_rejected = record.header(REJECTED) is not None
    return EffectResult(effect_key(offset, index), offset, name, about, key, record.value or b"", is_rejected)


class Performed:
    """Used once, after all commands of the shard are decided again."""

    def __init__(
        self,
        performed: Mapping[str, EffectRecord],
        decode: Decode | None,
        finding: Finding,
        is_known: Callable[[str | None, int], bool],
    ) -> None:
        """``performed``: all effects of the shard, as they were performed, by their keys in the changelog.

        ``decode``: decodes the commands of the shard; ``is_known``: see `Later`.
        """
        self._performed, self._decode, self._finding, self._is_known = performed, decode, finding, is_known
        self._settled: set[str] = set()

    def check_result(self, result: EffectResult, place: Place) -> None:
        """Check one result."""
        if result.place in self._settled:
            self._finding.wrong(place, "is a second result of one effect")
        self._settled.add(result.place)
        meant = self._performed.get(result.place)
        if meant is None and not self._is_known(result.key, result.offset):
            self._finding.unverifiable += 1
        elif meant is None:
            self._finding.wrong(place, f"is the result of an effect that command {result.offset} has not performed")
        elif (meant.effect, meant.key, meant.about) != (result.effect, result.key, result.about):
            self._finding.wrong(place, f"is not the result of what command {result.offset} has performed")
        elif (effect := registered(meant.effect)) is None:
            self._finding.unverifiable += 1
        elif result.rejected != _is_rejected(effect, result):
            self._finding.wrong(place, f"tells its saga that the step was {'not ' * result.rejected}applied")
        elif (kind := self._type(result.data)) not in (None, *effect.signature.answers):
            self._finding.wrong(place, f"is a {kind.__name__ if kind else kind}, which {meant.effect} does not answer")

    def check_open(self, recorded: Mapping[str, EffectRecord], where: Place) -> None:
        """Compare the effects that are open in the changelog with those that must be."""
        for place in sorted({*recorded, *self._performed}):
            self._finding.looked_at += 1
            found, meant = recorded.get(place), self._performed.get(place)
            record = found or meant
            assert record is not None
            at = where._replace(key=place)
            if meant is None and not self._is_known(record.key, record.offset):
                self._finding.unverifiable += 1
            elif meant is None:
                self._finding.wrong(at, f"is an effect that command {record.offset} has not performed")
            elif found is not None and place in self._settled:
                self._finding.wrong(at, "is not open: its result is in the log")
            elif found is not None and not are_same(found, meant):
                self._finding.wrong(at, f"is {found!r:.300}, and should be {meant!r:.300}")
            elif found is None and place not in self._settled and not may_return_nothing(meant):
                self._finding.wrong(at, "is missing: the effect has no result")

    def _type(self, data: bytes) -> type | None:
        """Return the type of a result; None if this code cannot read it, which a dead letter says too."""
        try:
            return None if self._decode is None else type(self._decode(data))
        except Exception:  # noqa: BLE001  DecodeError, or whatever a __post_init__ raises
            return None


def _is_rejected(effect: Effect[Any, Any], result: EffectResult) -> bool:
    """Return whether a result must tell a saga that its step was not applied."""
    rejections = {wire_name(each) for each in effect.signature.answers if issubclass(each, Rejection)}
    return result.about.startswith(STEP_MARK) and written_name(result.data) in rejections


def are_same(found: EffectRecord, meant: EffectRecord) -> bool:
    """Whether a record is that of an effect, whatever has become of its attempts."""
    return meant == EffectRecord(found.effect, found.key, found.request, found.offset, found.index, found.about)


def may_return_nothing(performed: EffectRecord) -> bool:
    """Whether an effect can be settled without a result; also if this build does not have it."""
    effect = registered(performed.effect)
    return effect is None or type(None) in effect.signature.results
