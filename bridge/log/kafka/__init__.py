"""The log on Apache Kafka. The only package that imports ``confluent_kafka``.

Start with ``backend``, the entry point. ``log`` is a worker's view of its shards, and ``shard`` the phases of each, as
a table; ``group`` is the worker's membership of the group, with its ``lease`` and ``slot``; ``claim`` is one shard's
thread with its transactional producer, and ``hanging`` ends transactions that Kafka left open. ``reader`` (with
``ranges``) and ``appender`` serve everything else. ``admin`` makes requests to the cluster, ``hidden`` reports
transactions that stay open, ``messages`` translates librdkafka's messages and errors, and ``config`` holds its settings
and says which may not be changed, and why.
"""

from repertory.bridge.log.kafka.backend import KafkaBackend
from repertory.bridge.log.kafka.config import parse_properties

__all__ = ["KafkaBackend", "parse_properties"]
