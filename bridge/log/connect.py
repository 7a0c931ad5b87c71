"""Opens the backend of a log by its URL."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from repertory.bridge.log.clock import Clock
from repertory.bridge.log.embedded.backend import EmbeddedBackend
from repertory.bridge.log.errors import InvalidSetting
from repertory.bridge.log.port import Backend
from repertory.bridge.system.settings import Settings
from repertory.bridge.text import without_login

_DEFAULTS = Settings()
_BROKER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")


def connect(
    url: str, settings: Settings = _DEFAULTS, kafka_config: Mapping[str, str] = {}, *, clock: Clock | None = None
) -> Backend:
    """Return the log that a URL names. Nothing is opened yet: the first use of the backend fails if it is unreachable.

    ``memory:`` keeps all records in this process and thread, shared by all ports that the returned backend opens;
    ``sqlite:PATH`` is a file for the processes of one machine; ``kafka://host:port[,host:port…]`` is a cluster.
    ``kafka_config`` contains librdkafka settings; the other logs ignore it. ``clock``: that of ``memory:``, by default
    the machine's.

    Raises:
        InvalidSetting: the URL has none of the three forms, or a Kafka setting is refused.
    """
    scheme, _, rest = url.partition(":")
    match scheme:
        case "memory" if url == "memory:":
            return EmbeddedBackend(url, settings, clock=clock)
        case "sqlite" if rest and not rest.startswith("//") and "\0" not in rest:
            return EmbeddedBackend(url, settings, path=rest)
        case "kafka" if rest.startswith("//") and all(map(_is_broker, rest[2:].split(","))):
            # Imported here: librdkafka takes 30 ms to load, and the other logs do not need it.
            from repertory.bridge.log.kafka.backend import KafkaBackend  # noqa: PLC0415

            return KafkaBackend(url, settings, kafka_config)
    shown = without_login(url)
    then = "; user and password stand in the file of the Kafka settings" if shown != url else ""
    raise InvalidSetting(
        f"{shown!r} names no log: write memory:, sqlite:PATH (as in sqlite:bank.db or sqlite:/var/lib/bank.db) "
        f"or kafka://host:port[,host:port…]{then}"
    )


def read_kafka_config(path: str | None) -> Mapping[str, str]:
    """Return the librdkafka settings of a properties file (``key=value`` lines, ``#`` comments); {} without a path.

    Raises:
        InvalidSetting: the file cannot be read, or a line is invalid.
    """
    if path is None:
        return {}
    from repertory.bridge.log.kafka.config import parse_properties  # noqa: PLC0415  as in connect

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"the Kafka settings in {path} cannot be read: {error}") from error
    return parse_properties(text)


def _is_broker(text: str) -> bool:
    """Return whether a text is ``host:port`` with a valid port number."""
    match = _BROKER.fullmatch(text)
    return match is not None and 0 < int(match[2]) < 65_536
