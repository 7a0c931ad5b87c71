"""The headers of an ask, ``Idempotency-Key`` and ``Idempotency-Key-Made-At``, and those of its answer.

The key is that of the IETF draft (draft-ietf-httpapi-idempotency-key-header), in its quotes or without. It needs the
time of the first attempt, by which a key is refused that is older than the answers that are kept: a UUIDv7 contains it.
What is made here is made of a time and of bytes that the caller gives.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

import msgspec

from repertory.actors.asks import AskId

KEY: Final = "Idempotency-Key"
MADE_AT: Final = "Idempotency-Key-Made-At"
#: In an answer: it is that of an earlier request with the same key.
REPLAYED: Final = "Idempotency-Replayed"
#: In an answer: ``entity/partition/seq`` of the command's own record, for whoever reads a view afterwards.
POSITION: Final = "Repertory-Position"

#: In a request: ``respond-async, wait=10``.
PREFER: Final = "Prefer"

_KEY_BYTES_MAX: Final = 255
#: How long is waited for an answer that may come later, if the request does not say.
_ASYNC_WAIT_S: Final = 1.0
#: How long it is waited at least: the command has to be in the log.
_WAIT_MIN_S: Final = 0.5
#: A structured field's string (RFC 8941, 3.3.3); a backslash escapes a quote or itself.
_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_BARE: Final = re.compile(r"[!-~]([ -~]*[!-~])?")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AWARE: Final = Annotated[datetime, msgspec.Meta(tz=True)]


class BadKeyError(ValueError):
    """The headers are no idempotency key; the message says what is wrong, and the remedy."""


def ask_id(keys: list[str], times: list[str]) -> AskId | None:
    """Return the id in the values of the two headers; None if there is no key. Raises BadKeyError."""
    if len(keys) > 1 or len(times) > 1:
        raise BadKeyError(
            f"{KEY if len(keys) > 1 else MADE_AT} is given {max(len(keys), len(times))} times: give it once"
        )
    if not keys:
        if times:
            raise BadKeyError(f"{MADE_AT} is given without {KEY}")
        return None
    key = _key(keys[0].strip())
    made_at = _time(times[0].strip()) if times else _time_of_uuid(key)
    if made_at is None:
        raise BadKeyError(
            f"the time of {KEY} is unknown: use a UUIDv7, or add {MADE_AT} with the time of the first attempt, as in "
            "2026-01-31T12:00:00Z"
        )
    return AskId(key, made_at)


def new_id(now_s: float, random: bytes) -> AskId:
    """Return an id for a request that has none: a UUIDv7 of ``now_s`` and ten random bytes (RFC 9562, 5.7)."""
    now_ms = int(now_s * 1_000)
    made = bytearray(now_ms.to_bytes(6, "big") + random)
    made[6] = made[6] & 0x0F | 0x70
    made[8] = made[8] & 0x3F | 0x80
    return AskId(str(UUID(bytes=bytes(made))), _EPOCH + timedelta(milliseconds=now_ms))


def written(made: AskId) -> dict[str, str]:
    """Return the two headers by which a caller repeats a request."""
    quoted = made.id.replace("\\", "\\\\").replace('"', '\\"')
    made_at = made.made_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {KEY: f'"{quoted}"', MADE_AT: made_at}


def _key(text: str) -> str:
    if text.startswith('"'):
        found = _QUOTED.fullmatch(text)
        key = re.sub(r"\\(.)", r"\1", found[1]) if found else ""
    else:
        key = text if _BARE.fullmatch(text) else ""
    if not 1 <= len(key) <= _KEY_BYTES_MAX:
        raise BadKeyError(f"{KEY} has 1 to {_KEY_BYTES_MAX} printable characters of ASCII")
    return key


def _time(text: str) -> datetime:
    try:
        made_at: datetime = msgspec.convert(text, _AWARE).astimezone(UTC)
    except (msgspec.ValidationError, OverflowError):
        raise BadKeyError(f"{MADE_AT} is a time with its offset (RFC 3339), as in 2026-01-31T12:00:00Z") from None
    if made_at < _EPOCH:
        raise BadKeyError(f"{MADE_AT} is before 1970")
    return made_at


def _time_of_uuid(key: str) -> datetime | None:
    """Return the time in a UUIDv7; None if the key is none."""
    try:
        made = UUID(key)
    except ValueError:
        return None
    # In its usual form alone: UUID() also reads braces, "urn:uuid:" and no dashes.
    if str(made) != key.lower() or made.version != 7:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=made.int >> 80)
    except OverflowError:  # After the year 9999.
        return None


def preferred_wait_s(values: list[str]) -> float | None:
    """Return after how many seconds an answer is preferred later (RFC 7240); None if it is to be waited for."""
    wishes = [each.partition("=") for each in ",".join(values).split(",")]
    wanted = {name.strip().lower(): text.strip() for name, _, text in wishes}
    if "respond-async" not in wanted:
        return None
    wait = wanted.get("wait", "")
    is_number = wait.isascii() and wait.isdigit() and len(wait) < 10
    return max(float(wait), _WAIT_MIN_S) if is_number else _ASYNC_WAIT_S
