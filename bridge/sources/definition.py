"""``SourceDefinition``: a foreign topic whose records become commands, as a system declares it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction

import msgspec

from repertory.actors.source import DecodeRecord

EARLIEST, LATEST = BEGINNINGS = ("earliest", "latest")

#: The schemes of the logs that more than one process can reach.
_SCHEMES = ("kafka", "sqlite")
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NAME_CHARS_MAX = 100
#: What Kafka allows as the name of a topic.
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class SourceDefinition(msgspec.Struct, frozen=True):
    """One source of a system. See ``ActorSystem.source``."""

    name: str
    topic: str
    decode: DecodeRecord
    cluster: str | None = None
    from_: str = EARLIEST
    kafka_config: str | None = None


def checked_source(system: str, source: SourceDefinition, others: Mapping[str, SourceDefinition]) -> SourceDefinition:
    """Return a source; ValueError for what cannot be one."""
    where = f"source {source.name!r:.300} of {system}"
    if not isinstance(source.name, str) or not _NAME.fullmatch(source.name) or len(source.name) > _NAME_CHARS_MAX:
        raise ValueError(f"{where}: a name has 1 to {_NAME_CHARS_MAX} lower-case letters, digits and dashes")
    if source.name in others:
        raise ValueError(f"{where} is declared twice; its positions are kept under its name: rename one of the two")
    topic = source.topic
    if not isinstance(topic, str) or not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise ValueError(
            f"{where} reads {topic!r:.300}: a topic's name has 1 to 249 letters, digits, dots, dashes and underscores"
        )
    if topic.startswith((f"{system}.", "__")):
        whose = "Kafka's own" if topic.startswith("__") else "the system's own: tell its entities instead"
        raise ValueError(f"{where} reads {topic}: topics that begin so are {whose}")
    if not callable(source.decode):
        raise ValueError(  # noqa: TRY004  one class to catch
            f"{where}: give the function that takes a SourceRecord and returns its routes, not {source.decode!r:.100}"
        )
    if any(each(source.decode) for each in (iscoroutinefunction, isgeneratorfunction, isasyncgenfunction)):
        raise ValueError(
            f"{where}: its function is async, or yields; make it a plain def that returns a list of routes"
        )
    if source.from_ not in BEGINNINGS:
        raise ValueError(f'{where}: from_ is "earliest" or "latest", not {source.from_!r:.100}')
    cluster = source.cluster
    if cluster is not None and (not isinstance(cluster, str) or cluster.partition(":")[0] not in _SCHEMES):
        raise ValueError(f"{where}: cluster is the URL of a log, as in kafka://host:port, not {cluster!r:.100}")
    if source.kafka_config is not None and cluster is None:
        raise ValueError(f"{where}: kafka_config is for another cluster; give its URL as cluster=")
    return source
