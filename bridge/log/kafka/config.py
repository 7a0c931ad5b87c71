"""Settings of librdkafka: ours with their reasons, those that the user adds, and those that are refused."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping

from repertory.bridge.log.errors import InvalidSetting
from repertory.bridge.system.settings import Settings

#: librdkafka's settings: strings, numbers, and for a few names a callable or the receiver of log lines.
Config = dict[str, object]

logger = logging.getLogger("repertory.kafka")

#: A record may be as large as a dead letter of the largest input: librdkafka's own limit is 1,000,000 bytes.
MESSAGE_BYTES_MAX = 4 * 1024 * 1024
#: How often a worker's consumer reports the ends of its partitions, by which open transactions are detected.
STATISTICS_MS = 5_000

_OURS = "repertory sets it itself"
_EXACTLY_ONCE = "without it a record can be lost or written twice"

#: Settings that may have only one value (None: may not be set), and why. With librdkafka's aliases (CONFIGURATION.md).
_FIXED: Mapping[str, tuple[str | None, str]] = {
    "bootstrap.servers": (None, "the log's URL names the brokers"),
    "metadata.broker.list": (None, "the log's URL names the brokers"),
    "client.id": (None, "the brokers' logs name a worker by it"),
    "client.rack": (None, "fetching from a follower delays what a claim must see"),
    "group.id": (None, "the system's name is the group"),
    "group.instance.id": (None, "a worker's node and slot are its identity"),
    "group.protocol": ("classic", "the new protocol refuses a killed slot's successor until the session ends"),
    "group.remote.assignor": (None, "the classic protocol has no remote assignor"),
    "partition.assignment.strategy": ("cooperative-sticky", "shards that do not move must not be interrupted"),
    "session.timeout.ms": (None, "it is the setting session_timeout_s"),
    "enable.auto.commit": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "auto.commit.enable": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "enable.auto.offset.store": ("false", "offsets are committed in the shard's transaction, never apart from it"),
    "auto.offset.reset": ("error", "any other value silently skips or repeats records"),
    "isolation.level": ("read_committed", "aborted records would be applied"),
    "check.crcs": ("true", "a corrupt record must be an error"),
    "enable.partition.eof": (None, _OURS),
    "transactional.id": (None, "the shard's name is the transactional id: it fences earlier owners"),
    "transaction.timeout.ms": (None, "it is the setting transaction_timeout_s"),
    "enable.idempotence": ("true", _EXACTLY_ONCE),
    "acks": ("all", _EXACTLY_ONCE),
    "request.required.acks": ("all", _EXACTLY_ONCE),
    "message.timeout.ms": (None, "the transaction's timeout bounds it"),
    "delivery.timeout.ms": (None, "the transaction's timeout bounds it"),
    "delivery.report.only.error": ("false", "a commit reports the offsets of what it wrote"),
    "partitioner": (None, "records are placed by murmur2 of their key, as Java's clients do"),
    "allow.auto.create.topics": ("false", "a topic made by accident has the wrong number of partitions"),
    "log.connection.close": ("true", "a connection that broke during a commit must be detected (a torn commit)"),
    "log.queue": (None, _OURS),
    "log.thread.name": (None, _OURS),
    "test.mock.num.brokers": (None, "librdkafka's mock cluster shows aborted records as committed"),
}
_LOG_LEVEL = "log_level"
_LOG_LEVEL_MIN = 6
#: librdkafka's default of ``batch.size``.
_BATCH_BYTES = 1_000_000
_ALL_ACKS = frozenset({"all", "-1"})
_DAY_MS = 86_400_000
_SECRET_WORDS = ("password", "secret", "token", "pem", "jaas", "sasl.username", "oauthbearer.config")

_ANY_CLIENT: Config = {
    "client.id": "repertory",
    "log_level": _LOG_LEVEL_MIN,
    # A broker restarts in a second or two; librdkafka's ten seconds would be longer than a session.
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
    # Retries determine a transaction's latency: 107 ms with the defaults, 5.5 ms with these (measured).
    "retry.backoff.ms": 1,
    "retry.backoff.max.ms": 5,
    "linger.ms": 0,
    "message.max.bytes": MESSAGE_BYTES_MAX,
    # One transaction of 30,000 commands with three outputs each fits; beyond it `produce` waits for room.
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 256 * 1024,
}
#: Records of a partition that are fetched ahead: less than half a second of work.
_PREFETCHED_MAX = 10_000
_DURABLE: Config = {"enable.idempotence": True, "acks": "all"}


def parse_properties(text: str) -> dict[str, str]:
    """Parse ``key=value`` lines in the format of Java's properties files.

    ``#`` and ``!`` begin comments, ``=`` or ``:`` separates, a backslash at the end continues the line. Escapes in
    values are not interpreted: librdkafka has none.
    """
    config: dict[str, str] = {}
    for line in text.replace("\\\r\n", "").replace("\\\n", "").splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        at = min((i for i in (stripped.find("="), stripped.find(":")) if i >= 0), default=-1)
        if at <= 0:
            raise InvalidSetting(f"{stripped!r} in the Kafka settings is not a key=value line")
        config[stripped[:at].strip()] = stripped[at + 1 :].strip()
    return config


def validated(config: Mapping[str, str]) -> dict[str, str]:
    """Return the user's settings. Raise InvalidSetting, with the reason, for the first that would break a promise."""
    for name, value in config.items():
        if name in _FIXED:
            allowed, reason = _FIXED[name]
            if not _is_allowed(name, value, allowed):
                but = "may not be set" if allowed is None else f"must stay {allowed!r}"
                raise InvalidSetting(f"Kafka setting {name}={value!r} is refused: it {but}, because {reason}")
        if name == _LOG_LEVEL and (not value.isdigit() or int(value) < _LOG_LEVEL_MIN):
            raise InvalidSetting(
                f"Kafka setting log_level={value!r} is refused: it must be at least {_LOG_LEVEL_MIN}, because only "
                "the log shows that a connection broke during a commit (which makes a producer unsafe)"
            )
    return dict(config)


def _is_allowed(name: str, value: str, allowed: str | None) -> bool:
    if allowed is None:
        return False
    if name in ("acks", "request.required.acks"):
        return value.lower() in _ALL_ACKS
    return value.lower() == allowed


#: Warnings that are not logged. One file configures producers and consumers, and each warns of the other's settings.
#: The second warning is about a setting that a test checks on a real broker (``gapless``).
_KNOWN = ("will be ignored by this", "enable.gapless.guarantee is experimental")


#: Lines that are logged at another level than librdkafka's. A failed transaction is reported by its claim, which knows
#: whether that is part of a rebalance (then it is no error). What is sent again, as at each first start, is no warning.
_LEVELS = {"TXNERR": logging.DEBUG, "GETPID": logging.INFO, "REQTMOUT": logging.INFO}
#: A line of the facility ADDPARTS, of librdkafka 2.16.1: a partition that the transaction may not write.
_UNAUTHORIZED = re.compile(r'Failed to add partition "([^"]+)" \[[0-9]+\] to transaction: .*Topic authorization failed')


#: A client that cannot connect says so several times a second: the same failure is logged once in so many seconds.
_REPEATED_S = 10.0
#: What differs between two lines about one failure.
_CHANGING = re.compile(r"after \d+ms|, \d+ identical error\(s\) suppressed")


class LogLines:
    """Writes librdkafka's log lines (it calls ``log``) to the logger ``repertory.kafka``, without secrets.

    ``answer_lost`` is set by the lines that report a request whose answer may be lost: a connection that was in use
    broke, or the request timed out. They are the only sign that librdkafka may have sent it twice. ``unauthorized``
    are the topics that a transaction was not allowed to write: no error and no report names them. librdkafka calls
    ``log`` within the owner's calls of ``poll``, on the owner's thread.
    """

    def __init__(self, secrets: tuple[str, ...], clock: Callable[[], float] = time.monotonic) -> None:
        self._secrets, self._clock = secrets, clock
        #: Until when (``clock``) each failed connection is not logged again, and how often it was not.
        self._quiet: dict[str, tuple[float, int]] = {}
        self.answer_lost = False
        self.unauthorized: set[str] = set()
        self.last = ""

    def log(self, level: int, form: str, facility: str, client: str, line: str) -> None:
        """Write one line; librdkafka calls this."""
        if facility == "CONFWARN" and any(known in line for known in _KNOWN):
            return
        for secret in self._secrets:
            line = line.replace(secret, "***")  # `debug=all` prints settings
        if facility == "FAIL":
            self.last = line
        if facility == "REQTMOUT" or (facility == "FAIL" and "in state UP" in line):
            self.last, self.answer_lost = line, True
        if facility == "ADDPARTS" and (found := _UNAUTHORIZED.search(line)):
            self.unauthorized.add(found[1])
        if facility == "FAIL":
            if (again := self._repeated(line)) is None:
                return
            line += again
        logger.log(min(level, _LEVELS.get(facility, level)), form, facility, client, line)

    def _repeated(self, line: str) -> str | None:
        """Return None for a failure that was logged a moment ago, else what to add about those that were not."""
        now_s, what = self._clock(), _CHANGING.sub("", line)
        until_s, count = self._quiet.get(what, (now_s, 0))
        if now_s < until_s:
            self._quiet[what] = until_s, count + 1
            return None
        self._quiet = {each: quiet for each, quiet in self._quiet.items() if now_s < quiet[0] + _REPEATED_S}
        self._quiet[what] = now_s + _REPEATED_S, 0
        return f" ({count} times more since the last such line)" if count else ""

    def record_error(self, error: object) -> None:
        """Keep the error of an error callback, for a later error message."""
        self.last = self.last or str(error)


class KafkaConfig:
    """Builds the configuration of each kind of client from the URL, the settings and the user's file."""

    def __init__(self, brokers: str, settings: Settings, user: Mapping[str, str]) -> None:
        self.brokers = brokers
        self.settings = settings
        self._user = validated(user)
        #: The most bytes of a batch of shards' producers: librdkafka's default, the user's, or what a topic takes.
        self.batch_bytes_max = int(self._user.get("batch.size", _BATCH_BYTES))
        self.secrets = tuple(
            value for name, value in user.items() if value and any(word in name for word in _SECRET_WORDS)
        )

    def lines(self) -> LogLines:
        """Return a new receiver of log lines, one per client."""
        return LogLines(self.secrets)

    def admin(self, lines: LogLines) -> Config:
        """Build for the admin client."""
        return self._build(lines, {}, {"error_cb": lines.record_error})

    def member(self, lines: LogLines, group: str, instance_id: str, client_id: str) -> Config:
        """Build for a worker's consumer in the group: static, cooperative, without commits of its own."""
        session_ms = int(self.settings.session_timeout_s * 1_000)
        busy_ms = int(self.settings.busy_s * 1_000)
        working: Config = {
            # A fetch returns with the first record; only a shard that begins while all others are idle waits for it.
            "fetch.wait.max.ms": 100,
            # Decides how soon the other members learn of a rebalance, which is most of a planned handover's time.
            "heartbeat.interval.ms": min(500, max(1, session_ms // 3)),
            # A worker that does not poll delays every rebalance for this long (librdkafka's default: 5 minutes). A
            # handler may take as long as its limit; after that its worker is killed, and does not leave by itself.
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
        return self._build(lines, self._fetching() | working, _COMMITTED_ONLY | identity)

    def reader(self, lines: LogLines) -> Config:
        """Build for a consumer that reads assigned partitions; librdkafka requires a group id, but it never joins."""
        return self._build(
            lines, self._fetching(), self._outside_group("repertory-reader") | {"enable.partition.eof": True}
        )

    def asker(self, lines: LogLines, group: str) -> Config:
        """Build for a consumer that asks for a group's offsets; its isolation level makes it wait for pending ones."""
        return self._build(lines, {}, self._outside_group(group))

    def uncommitted(self, lines: LogLines, group: str = "repertory-reader") -> Config:
        """Build for a consumer that must not wait for open transactions: of internal topics, and of pending offsets."""
        return self._build(
            lines,
            self._fetching(),
            self._outside_group(group) | {"isolation.level": "read_uncommitted", "enable.partition.eof": True},
        )

    def _outside_group(self, group: str) -> Config:
        # The session is not used, but librdkafka compares it with max.poll.interval.ms, which the user may set.
        return _COMMITTED_ONLY | {"group.id": group, "session.timeout.ms": int(self.settings.session_timeout_s * 1_000)}

    def shard(self, lines: LogLines, transactional_id: str) -> Config:
        """Build for one shard's transactional producer."""
        timeout_ms = int(self.settings.transaction_timeout_s * 1_000)
        identity: Config = {"transactional.id": transactional_id, "transaction.timeout.ms": timeout_ms}
        return self._build(lines, _PRODUCING, _DURABLE | identity | {"batch.size": self.batch_bytes_max})

    def appender(self, lines: LogLines) -> Config:
        """Build for an idempotent producer outside any shard."""
        timeout_ms = int(self.settings.transaction_timeout_s * 1_000)
        return self._build(lines, _PRODUCING, _DURABLE | {"delivery.timeout.ms": timeout_ms})

    def nontransactional(self, lines: LogLines) -> Config:
        """Build for a shard's producer without transactions: after a lost record all later ones are lost too.

        It does not time out records while its owner waits (``KafkaAppender``): they would time out one by one, and a
        later one could still be appended.
        """
        timeout_ms = int(self.settings.transaction_timeout_s * 1_000) + 60_000
        gapless: Config = {"enable.gapless.guarantee": True, "delivery.timeout.ms": timeout_ms}
        return self._build(lines, _PRODUCING, _DURABLE | gapless | {"batch.size": self.batch_bytes_max})

    def _fetching(self) -> Config:
        return {
            # An empty fetch returns after this. With the default of 500 ms, an empty restore would take that long.
            "fetch.wait.max.ms": 10,
            # Each pause and seek discards what was fetched ahead: a few batches per partition suffice.
            "queued.min.messages": min(4 * self.settings.batch_records_max, _PREFETCHED_MAX),
            "queued.max.messages.kbytes": 16 * 1024,
            # How long a partition with that much fetched ahead is not fetched. With the default of 1 s, reading 8,000
            # records took 1.1 s, in a restore as in a fetch; with 5 ms it takes 0.15 s (measured).
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
        }

    def _build(self, lines: LogLines, preferred: Config, needed: Config) -> Config:
        """Merge our preferences, then the user's settings, then what the promises require."""
        client: Config = {"bootstrap.servers": self.brokers, "logger": lines}
        return _ANY_CLIENT | preferred | self._user | needed | client
