"""The log on Apache Kafka. The only package that imports ``confluent_kafka``.

``backend`` is the door; ``log`` is a worker's shards, and ``shard`` the phases of each, as a table; ``group`` is the
worker's place in the group and its poll; ``claim`` is one shard's thread with its transactional producer; ``reader``
and ``appender`` serve everybody else; ``admin`` asks the cluster questions; ``config`` holds the settings of
librdkafka and says which may not be changed, and why.
"""

from repertory.bridge.log.kafka.backend import KafkaBackend
from repertory.bridge.log.kafka.config import parse_properties

__all__ = ["KafkaBackend", "parse_properties"]
