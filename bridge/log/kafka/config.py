"""Settings of librdkafka: ours with their reasons, the user's passed through, and those that are refused."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from repertory.bridge.log.port import InvalidSetting
from repertory.bridge.system.settings import Settings

#: What librdkafka takes: texts, numbers, and for a few names a callable or the taker of log lines.
Config = dict[str, object]

logger = logging.getLogger("repertory.kafka")

#: A record may be as large as a dead letter of the largest input: librdkafka's own limit is 1,000,000 bytes.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
#: A worker's consumer tells so often where its partitions end: transactions that hang are seen by it.
STATISTICS_MS = 5_000

_OURS = "repertory sets it itself"
_EXACTLY_ONCE = "without it a record can be lost or written twice"

#: Names that may only have one value (None: none at all), and why. Aliases are librdkafka's (CONFIGURATION.md).
_FIXED: Mapping[str, tuple[str | None, str]] = {
    "bootstrap.servers": (None, "the log's URL names the brokers"),
    "metadata.broker.list": (None, "the log's URL names the brokers"),
    "client.id": (None, "the brokers' logs name a worker by it"),
    "client.rack": (None, "fetching from a follower delays what a claim must see"),
    "group.id": (None, "the system's name is the group"),
    "group.instance.id": (None, "a worker's node and slot are its identity"),
    "group.protocol": ("classic", "the new protocol refuses a killed slot's successor until the session ends"),
    "group.remote.assignor": (None, "the classic protocol has none"),
    "partition.assignment.strategy": ("cooperative-sticky", "shards that stay must not be interrupted"),
    "session.timeout.ms": (None, "it is the setting session_timeout_s"),
    "enable.auto.commit": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "auto.commit.enable": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "enable.auto.offset.store": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "auto.offset.reset": ("error", "any other value skips or repeats records without a word"),
    "isolation.level": ("read_committed", "aborted records would be applied"),
    "check.crcs": ("true", "a corrupt record must be an error"),
    "enable.partition.eof": (None, _OURS),
    "transactional.id": (None, "the shard's name is the transactional id: it shuts out earlier owners"),
    "transaction.timeout.ms": (None, "it is the setting transaction_timeout_s"),
    "enable.idempotence": ("true", _EXACTLY_ONCE),
    "acks": ("all", _EXACTLY_ONCE),
    "request.required.acks": ("all", _EXACTLY_ONCE),
    "message.timeout.ms": (None, "the transaction's timeout bounds it"),
    "delivery.timeout.ms": (None, "the transaction's timeout bounds it"),
    "delivery.report.only.error": ("false", "a commit reports the offsets of what it wrote"),
    "partitioner": (None, "records are placed by murmur2 of their key, as Java's clients do"),
    "allow.auto.create.topics": ("false", "a topic made by accident has the wrong number of partitions"),
    "log.connection.close": ("true", "a broken connection to the coordinator must be seen (a torn commit)"),
    "log.queue": (None, _OURS),
    "log.thread.name": (None, _OURS),
    "test.mock.num.brokers": (None, "librdkafka's mock cluster shows aborted records as committed"),
}
_LOG_LEVEL = "log_level"
_LOG_LEVEL_MIN = 6
_ALL_ACKS = frozenset({"all", "-1"})
_DAY_MS = 86_400_000
_SECRET_WORDS = ("password", "secret", "token", "pem", "jaas", "sasl.username", "oauthbearer.config")

_ANY_CLIENT: Config = {
    "client.id": "repertory",
    "log_level": _LOG_LEVEL_MIN,
    # A broker that restarts is back in a second or two; librdkafka's ten seconds would outlast a session.
    "reconnect.backoff.ms": 50,
    "reconnect.backoff.max.ms": 1_000,
    "socket.keepalive.enable": True,
}
_COMMITTED_ONLY: Config = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "check.crcs": True,
    "allow.auto.create.topics": False,
}
_PRODUCING: Config = {
    # Retries decide a transaction's latency: 107 ms at the defaults, 5.5 ms with these (measured).
    "retry.backoff.ms": 1,
    "retry.backoff.max.ms": 5,
    "linger.ms": 0,
    "message.max.bytes": MESSAGE_BYTES_MAX,
    # One transaction of 1,000 commands with their outputs fits; beyond it `produce` waits for room.
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 256 * 1024,
}
_DURABLE: Config = {"enable.idempotence": True, "acks": "all"}


def parse_properties(text: str) -> dict[str, str]:
    """Read a file of ``key=value`` lines as Java's properties have it.

    ``#`` and ``!`` begin comments, ``=`` or ``:`` separates, a backslash at the end continues the line. Values
    are taken as they stand otherwise: librdkafka knows no escapes.
    """
    config: dict[str, str] = {}
    for line in text.replace("\\\r\n", "").replace("\\\n", "").splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        at = min((i for i in (stripped.find("="), stripped.find(":")) if i >= 0), default=-1)
        if at <= 0:
            raise InvalidSetting(f"{stripped!r} in the Kafka settings is no key=value line")
        config[stripped[:at].strip()] = stripped[at + 1 :].strip()
    return config


def checked(config: Mapping[str, str]) -> dict[str, str]:
    """Return the user's settings, or refuse with the reason the first one that would break a promise."""
    for name, value in config.items():
        if name in _FIXED:
            allowed, reason = _FIXED[name]
            if not _agrees(name, value, allowed):
                but = "may not be set" if allowed is None else f"must stay {allowed!r}"
                raise InvalidSetting(f"Kafka setting {name}={value!r} is refused: it {but}, because {reason}")
        if name == _LOG_LEVEL and (not value.isdigit() or int(value) < _LOG_LEVEL_MIN):
            raise InvalidSetting(
                f"Kafka setting log_level={value!r} is refused: at least {_LOG_LEVEL_MIN} is needed, because a lost "
                "connection to the coordinator is only seen in the log (it makes a producer unsafe)"
            )
    return dict(config)


def _agrees(name: str, value: str, allowed: str | None) -> bool:
    if allowed is None:
        return False
    if name in ("acks", "request.required.acks"):
        return value.lower() in _ALL_ACKS
    return value.lower() == allowed


#: Warnings that tell nothing new. One file configures producers and consumers: each says the first of the other's
#: settings. The second is of one that a test tries on a real broker (``gapless``).
_KNOWN = ("will be ignored by this", "enable.gapless.guarantee is experimental")


class LogLines:
    """Takes librdkafka's log lines (it wants something with ``log``) to ``repertory.kafka``, without secrets.

    ``coordinator_lost`` is set by the line that tells that a transaction coordinator's connection broke: the one
    sign that a commit may have been sent twice (librdkafka repeats it silently). Lines are served within the
    owner's calls of ``poll``, on the owner's thread.
    """

    def __init__(self, secrets: tuple[str, ...]) -> None:
        self._secrets = secrets
        self.coordinator_lost = False
        self.last = ""

    def log(self, level: int, form: str, facility: str, client: str, line: str) -> None:
        """Write one line; librdkafka calls this."""
        if facility == "CONFWARN" and any(said in line for said in _KNOWN):
            return
        for secret in self._secrets:
            line = line.replace(secret, "***")  # `debug=all` prints settings
        if facility == "FAIL":
            self.last = line
            if "TxnCoordinator" in line and "Disconnected" in line:
                self.coordinator_lost = True
        logger.log(level, form, facility, client, line)

    def note(self, error: object) -> None:
        """Keep what an error callback was told, for the sentence of a failure."""
        self.last = self.last or str(error)


class KafkaConfig:
    """Makes the configuration of each kind of client from the URL, the settings and the user's file."""

    def __init__(self, brokers: str, settings: Settings, user: Mapping[str, str]) -> None:
        self.brokers = brokers
        self.settings = settings
        self._user = checked(user)
        self.secrets = tuple(
            value for name, value in user.items() if value and any(word in name for word in _SECRET_WORDS)
        )

    def lines(self) -> LogLines:
        """Return a new taker of log lines, one per client."""
        return LogLines(self.secrets)

    def admin(self, lines: LogLines) -> Config:
        """Build for the client that asks questions and makes topics."""
        return self._built(lines, {}, {"error_cb": lines.note})

    def member(self, lines: LogLines, group: str, instance_id: str, client_id: str) -> Config:
        """Build for a worker's place in the group: static, cooperative, and no offsets but the transactions'."""
        session_ms = int(self.settings.session_timeout_s * 1_000)
        busy_ms = int(self.settings.busy_s * 1_000)
        # How soon the others hear of a rebalance: this is most of a planned handover's time.
        beat: Config = {
            "heartbeat.interval.ms": min(500, max(1, session_ms // 3)),
            # A worker that does not poll holds up every rebalance for so long (librdkafka's default: 5 minutes). One
            # handler may take as long as its limit; beyond that its worker is killed, and does not leave by itself.
            "max.poll.interval.ms": min(max(60_000, session_ms, busy_ms), _DAY_MS),
            "statistics.interval.ms": STATISTICS_MS,
        }
        identity: Config = {
            "group.id": group,
            "group.instance.id": instance_id,
            "client.id": client_id,
            "group.protocol": "classic",
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": session_ms,
        }
        return self._built(lines, self._fetching() | beat, _COMMITTED_ONLY | identity)

    def reader(self, lines: LogLines) -> Config:
        """Build for reading what `assign` says; librdkafka wants a group's name, but nothing joins it."""
        return self._built(lines, self._fetching(), self._alone("repertory-reader") | {"enable.partition.eof": True})

    def asker(self, lines: LogLines, group: str) -> Config:
        """Build for asking a group's coordinator; ``isolation.level`` makes it wait for pending offsets."""
        return self._built(lines, {}, self._alone(group))

    def uncommitted(self, lines: LogLines, group: str = "repertory-reader") -> Config:
        """Build for what must not wait for open transactions: Kafka's own topics, and whether an offset is pending."""
        return self._built(
            lines,
            self._fetching(),
            self._alone(group) | {"isolation.level": "read_uncommitted", "enable.partition.eof": True},
        )

    def _alone(self, group: str) -> Config:
        # The session is not used, but librdkafka compares it with max.poll.interval.ms, which is the user's.
        return _COMMITTED_ONLY | {"group.id": group, "session.timeout.ms": int(self.settings.session_timeout_s * 1_000)}

    def shard(self, lines: LogLines, transactional_id: str) -> Config:
        """Build for one shard's transactional producer."""
        timeout_ms = int(self.settings.transaction_timeout_s * 1_000)
        identity: Config = {"transactional.id": transactional_id, "transaction.timeout.ms": timeout_ms}
        return self._built(lines, _PRODUCING, _DURABLE | identity)

    def appender(self, lines: LogLines) -> Config:
        """Build for an idempotent producer outside any shard."""
        timeout_ms = int(self.settings.transaction_timeout_s * 1_000)
        return self._built(lines, _PRODUCING, _DURABLE | {"delivery.timeout.ms": timeout_ms})

    def nontransactional(self, lines: LogLines) -> Config:
        """Build for a shard's producer without transactions: behind a record that is lost all others are.

        It gives no record up by itself while its owner waits (``KafkaAppender``): they would be given up one by one,
        and one behind could still get through.
        """
        give_up_ms = int(self.settings.transaction_timeout_s * 1_000) + 60_000
        gapless: Config = {"enable.gapless.guarantee": True, "delivery.timeout.ms": give_up_ms}
        return self._built(lines, _PRODUCING, _DURABLE | gapless)

    def _fetching(self) -> Config:
        return {
            # An empty read returns after this; the default of 500 ms would be the time of an empty restore.
            "fetch.wait.max.ms": 10,
            # What is fetched ahead is thrown away at each pause and seek: a few batches a partition suffice.
            "queued.min.messages": 4 * self.settings.batch_records_max,
            "queued.max.messages.kbytes": 16 * 1024,
            # How long a partition is left alone once that much is there. With the default of 1 s, reading 8,000
            # records took 1.1 s, a restore as well as a fetch; with 5 ms it takes 0.15 s (measured).
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
        }

    def _built(self, lines: LogLines, preferred: Config, needed: Config) -> Config:
        """Our preferences, then the user's settings, then what the promises need."""
        client: Config = {"bootstrap.servers": self.brokers, "logger": lines}
        return _ANY_CLIENT | preferred | self._user | needed | client
