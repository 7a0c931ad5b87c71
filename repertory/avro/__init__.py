"""Avro for sources, with a schema registry's framing: the extra ``avro``.

``SchemaRegistry(url).decode(record.value, Payment)`` in a source's function; see ``registry``.
"""

from repertory.avro.registry import RegistryUnavailable, SchemaRegistry

__all__ = ["RegistryUnavailable", "SchemaRegistry"]
