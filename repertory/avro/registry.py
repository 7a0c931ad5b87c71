"""``SchemaRegistry``: decodes Avro whose schema is in a registry: a zero byte, the schema's id in four, and the data.

That is the wire format of Confluent's serializers, which other registries (Apicurio, Karapace, Redpanda) have too. A
schema of an id never changes, so each is asked for once.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from io import BytesIO
from typing import Any, Final, TypeGuard, TypeVar, overload
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urlsplit, urlunsplit
from urllib.request import Request, urlopen

import msgspec

try:
    import fastavro
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("repertory.avro needs fastavro: pip install 'repertory[avro]'") from missing

T = TypeVar("T")

#: The zero byte and the id of the schema, big-endian.
_FRAME: Final = struct.Struct(">bI")
#: An answer of a registry is no larger.
_ANSWER_BYTES_MAX: Final = 10_000_000
_NOT_FOUND: Final = 404
#: What a registry says of a subject, a version or a schema that it does not have. Of a wrong path it says 404.
_HAS_NOT: Final = (40401, 40402, 40403)
#: Schemas that refer to each other: how deep.
_REFERENCES_MAX: Final = 20


class RegistryUnavailable(Exception):
    """The registry does not answer, or not as a registry does. The source's partition stops, and is tried again."""


class SchemaRegistry:
    """The schemas of a registry, by id. One thread may use it, as a source's function does.

    ``headers`` are sent with each request, for a registry that wants an authorization; a user and a password in the URL
    are one, and are shown nowhere. A redirection gets neither. ``schemas_max``: how many schemas are kept. Once a
    request has failed, others fail for ``timeout_s`` without being sent, so that a registry that is down does not hold
    up each partition for that long.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
        schemas_max: int = 1_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raise ValueError for a URL that is not ``http://…`` or ``https://…``. The registry is not asked here."""
        user, self._url = _checked(url)
        authorization = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
        self._timeout_s, self._headers = timeout_s, authorization | dict(headers or {})
        self._schemas_max, self._clock = schemas_max, clock
        self._schemas: dict[int, Any] = {}
        self._failed: tuple[float, str] | None = None

    @overload
    def decode(self, data: bytes | None) -> object: ...
    @overload
    def decode(self, data: bytes | None, type: type[T]) -> T: ...
    def decode(self, data: bytes | None, type: Any = object) -> Any:  # noqa: A002
        """Return framed Avro as an instance of ``type``; without one as dicts, lists and scalars.

        The data is read by the schema that it was written with; what that has and ``type`` has not is left out.

        Raises:
            ValueError: the data is not framed, names a schema that the registry does not have or that is no Avro, or
                does not fit the schema or the type. The record becomes a dead letter.
            RegistryUnavailable: the registry cannot be asked. The source's partition stops, and is tried again.
        """
        if data is None or len(data) < _FRAME.size or data[0] != 0:
            found = "null" if data is None else f"{data[:5]!r}"
            raise ValueError(f"no Avro of a schema registry: it begins with a zero byte and a schema's id, not {found}")
        (_, schema_id) = _FRAME.unpack_from(data)
        schema = self._schema(schema_id)
        value = _read(data, schema, schema_id)
        try:
            return value if type is object else msgspec.convert(value, type)
        except RecursionError:
            raise ValueError(f"the data, of schema {schema_id}, is nested too deeply") from None

    def _schema(self, schema_id: int) -> Any:
        """Return a schema, parsed; ask for one that is not known."""
        if schema_id not in self._schemas:
            found = self._asked(f"/schemas/ids/{schema_id}")
            if found is None:
                raise ValueError(f"the registry {self._url} has no schema {schema_id}")
            if len(self._schemas) >= self._schemas_max:
                del self._schemas[next(iter(self._schemas))]
            self._schemas[schema_id] = self._parsed(found, f"schema {schema_id}", {}, 0)
        return self._schemas[schema_id]

    def _parsed(self, found: Mapping[str, Any], what: str, named: dict[str, Any], depth: int) -> Any:
        """Parse a schema, after those that it refers to."""
        kind = found.get("schemaType", "AVRO")
        if kind != "AVRO":
            raise ValueError(f"{what} of {self._url} is {kind}, not Avro")
        if depth > _REFERENCES_MAX:
            raise ValueError(f"{what} of {self._url} refers to others without end")
        for each in found.get("references") or ():
            subject, number = each["subject"], each["version"]
            other = self._asked(f"/subjects/{quote(subject, safe='')}/versions/{number}")
            if other is None:
                raise ValueError(f"{what} refers to version {number} of {subject}, which {self._url} does not have")
            self._parsed(other, f"version {number} of {subject}", named, depth + 1)
        try:
            return fastavro.parse_schema(json.loads(found["schema"]), named_schemas=named)
        except (ValueError, KeyError, TypeError, RecursionError, fastavro.schema.SchemaParseException) as error:
            raise ValueError(f"{what} of {self._url} is no valid Avro schema: {error}") from error

    def _asked(self, path: str) -> Mapping[str, Any] | None:
        """Ask the registry; None if it says that there is no such thing."""
        now_s = self._clock()
        if self._failed is not None and now_s < self._failed[0]:
            raise RegistryUnavailable(self._failed[1])
        self._failed = None
        accepts = {"Accept": "application/vnd.schemaregistry.v1+json, application/json"}
        request = Request(self._url + path, headers=accepts)  # noqa: S310 - the scheme was checked
        for name, value in self._headers.items():
            request.add_unredirected_header(name, value)
        try:
            with urlopen(request, timeout=self._timeout_s) as answer:  # noqa: S310
                found = json.loads(answer.read(_ANSWER_BYTES_MAX))
        except HTTPError as error:
            with error:
                if error.code == _NOT_FOUND and _is_registrys(error):
                    return None
            raise self._unavailable(path, f"{error.code} {error.reason}") from None
        except (URLError, HTTPException, OSError, ValueError, RecursionError) as error:
            raise self._unavailable(path, str(getattr(error, "reason", error))) from None
        if not _is_schema(found):
            raise self._unavailable(path, "it is no answer of a schema registry")
        return found

    def _unavailable(self, path: str, why: str) -> RegistryUnavailable:
        what = f"the schema registry {self._url} cannot be asked for {path}: {why}"
        self._failed = self._clock() + self._timeout_s, what
        return RegistryUnavailable(what)


def _is_registrys(error: HTTPError) -> bool:
    """Return whether a registry says that it does not have something: another server says 404 too."""
    try:
        found = json.loads(error.read(_ANSWER_BYTES_MAX))
    except (ValueError, OSError, HTTPException, RecursionError):
        return False
    return isinstance(found, dict) and found.get("error_code") in _HAS_NOT


def _is_schema(found: Any) -> TypeGuard[Mapping[str, Any]]:
    """Return whether an answer is what a registry says of a schema: its text, and what that refers to."""
    if not isinstance(found, dict) or not isinstance(found.get("schema"), str):
        return False
    references = found.get("references") or []
    return isinstance(references, list) and all(
        isinstance(each, dict) and isinstance(each.get("subject"), str) and isinstance(each.get("version"), int)
        for each in references
    )


def _checked(url: str) -> tuple[str, str]:
    """Return the user and the password of a registry's URL, "" without, and the URL without them; ValueError."""
    try:
        parts = urlsplit(url)
        is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_right = False
    shown = url.rpartition("@")[2]
    if not is_right:
        raise ValueError(f"{shown!r} is no URL of a schema registry: write http://host:port or https://host")
    user, _, host = parts.netloc.rpartition("@")
    return unquote(user), urlunsplit(parts._replace(netloc=host)).rstrip("/")


def _read(data: bytes, schema: Any, schema_id: int) -> Any:
    """Read the data behind the frame by the schema that wrote it. ValueError if it does not fit, or is longer."""
    buffer = BytesIO(data)
    buffer.seek(_FRAME.size)
    try:
        value = fastavro.schemaless_reader(buffer, schema, None)
    except MemoryError:
        raise
    except Exception as error:  # fastavro raises whatever its reader meets: EOFError, IndexError, struct.error.
        raise ValueError(f"the data does not fit schema {schema_id}: {error!r:.200}") from error
    if left := len(data) - buffer.tell():
        raise ValueError(f"the data does not fit schema {schema_id}: {left} bytes are left behind it")
    return value
