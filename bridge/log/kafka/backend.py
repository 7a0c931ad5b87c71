"""The entry point to Kafka: the brokers of a URL, and the ports that they implement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka import KafkaException

from repertory.bridge.log.errors import InvalidSetting, LogUnavailable
from repertory.bridge.log.kafka.admin import Admin
from repertory.bridge.log.kafka.appender import KafkaAppender
from repertory.bridge.log.kafka.config import KafkaConfig
from repertory.bridge.log.kafka.follower import KafkaFollower
from repertory.bridge.log.kafka.log import KafkaLog
from repertory.bridge.log.kafka.messages import describe, error_of
from repertory.bridge.log.kafka.reader import KafkaReader
from repertory.bridge.log.port import Member, MemberDescription, TopicSpec
from repertory.bridge.system.settings import Settings

_SCHEME = "kafka://"
_DEFAULTS = Settings()


class KafkaBackend:
    """Implements ``Backend``. ``kafka_config`` is passed to librdkafka unchanged, or refused.

    No request is made to the brokers here; the first use shows whether they answer.

    Raises:
        InvalidSetting: a Kafka setting is unknown, has an impossible value, or would break a promise.
    """

    def __init__(self, url: str, settings: Settings = _DEFAULTS, kafka_config: Mapping[str, str] | None = None) -> None:
        if not url.startswith(_SCHEME) or not url.removeprefix(_SCHEME):
            raise InvalidSetting(f"{url!r} is not a Kafka URL: write kafka://host:port[,host:port...]")
        self.url = url
        self._config = KafkaConfig(url.removeprefix(_SCHEME), settings, kafka_config or {})
        self._admin = Admin(self._config)

    def topics(self) -> Mapping[str, int]:
        """See ``Backend.topics``."""
        return self._admin.topics()

    def ensure(self, specs: Sequence[TopicSpec]) -> Sequence[str]:
        """See ``Backend.ensure``."""
        return self._admin.ensure(specs)

    def members(self, group: str) -> Sequence[MemberDescription]:
        """See ``Backend.members``."""
        try:
            return self._admin.members(group)
        except KafkaException as failure:
            raise LogUnavailable(
                f"the group {group} cannot be asked for its members: {describe(error_of(failure))}"
            ) from None

    def log(self, member: Member, subscriptions: Sequence[str]) -> KafkaLog:
        """See ``Backend.log``. The first poll joins the group."""
        return KafkaLog(self._config, self._admin, member, subscriptions)

    def reader(self) -> KafkaReader:
        """See ``Backend.reader``."""
        return KafkaReader(self._config, self._admin)

    def appender(self) -> KafkaAppender:
        """See ``Backend.appender``."""
        return KafkaAppender(self._config, self._admin)

    def follower(self) -> KafkaFollower:
        """See ``Backend.follower``."""
        return KafkaFollower(self._config, self._admin)

    def close(self) -> None:
        """See ``Backend.close``. The owners of logs, readers and appenders close those before."""
        self._admin.close()
