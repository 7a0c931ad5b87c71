"""A foreign client may send any headers: what the shard makes of them is no damage, on both logs and in both modes."""

from __future__ import annotations

from contextlib import closing
from uuid import uuid4

import pytest

from repertory import ActorSystem, Publishes, Settings
from repertory.actors.headers import Headers
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.connect import connect
from repertory.bridge.log.port import TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.system.running import Running
from repertory.verify import VerificationReport, verify
from tests.actors.domain import Account, Deposit, Pay, Teller

#: Of a command that the system handles: ``{}`` is the system's name.
OWN, OWN_ASK = b"{}.teller.commands/0/0/0", b"{}.account.commands/0/0/1"
OUTSIDE = b"{}-outside/0/17/0"
SHARD = (("seq", b"0"), ("version", b"1"))

FORGED: dict[str, Headers] = {
    "a cause and an epoch": (("cause", OWN), ("epoch", b"3")),
    "a cause of a topic outside and an epoch": (("cause", OUTSIDE), ("epoch", b"3")),
    "an epoch alone": (("epoch", b"1"),),
    "an epoch that is none": (("cause", OWN), ("epoch", b"x")),
    "an epoch of many digits": (("cause", OWN), ("epoch", b"9" * 5_000)),
    "a cause beside another header": (("cause", OWN), ("trace", b"1")),
    "a cause that is none": (("cause", b"\xff\x00/-1"),),
    "two causes": (("cause", OWN), ("cause", OWN_ASK)),
    "a correlation": (("correlation-id", b"c"), ("cause", OWN)),
    "a correlation that is no text": (("cause", OUTSIDE), ("correlation-id", b"\xff\xfe")),
    "an about that is no text": (("about", b"\xff"),),
    "an about alone": (("about", b"debit"),),
    "an about that is too long": (("about", b"x" * 300),),
    "an empty about of a reply": (("cause", OWN), ("correlation-id", b"c"), ("about", b"")),
    "an ask of another": (
        ("cause", OWN), ("message-id", b"m"), ("correlation-id", b"m"),
        ("reply-to", b"{}.teller.commands"), ("reply-key", b"t"),
    ),
    "an address of a reply": (("reply-to", b"{}.replies/3"), ("correlation-id", b"c"), ("cause", OWN)),
    "an address that is none": (("reply-to", b"nowhere/99"), ("cause", OWN)),
    "a key of a reply alone": (("reply-key", b"t"), ("cause", OWN)),
    "the numbers of a shard": (("cause", OWN), *SHARD),
    "a turn": (("cause", OWN), *SHARD, ("epoch", b"1"), ("turn", b"0/1"), ("next", b"7")),
    "the source of a dead letter": (
        ("source-topic", b"{}.account.commands"), ("source-partition", b"0"), ("source-offset", b"0"),
    ),
    "the failure of a dead letter": (
        ("error-type", b"ValueError"), ("error-message", b"\xff"), ("attempts", b"0"), ("source-cause", OWN),
    ),
    "a retry": (("cause", OWN), ("epoch", b"3"), ("retry-of", b"{}.dead-letters/0/0")),
    "the same header again and again": (("x", b"1"),) * 50,
    "ten thousand headers": tuple((f"h{number}", b"\xff") for number in range(10_000)),
}  # fmt: skip


@pytest.fixture(params=["memory:", pytest.param("kafka", marks=pytest.mark.kafka)])
def url(request: pytest.FixtureRequest) -> str:
    """Return the URL of each kind of log."""
    return "memory:" if request.param == "memory:" else str(request.getfixturevalue("kafka_url"))


def made(name: str, **settings: str) -> ActorSystem:
    """Return the system."""
    publishes = {f"{name}-outside": Publishes(partitions=1)}
    system = ActorSystem(name, settings=Settings(**settings), publishes=publishes)  # type: ignore[arg-type]
    system.host(Account, partitions=1)
    system.host(Teller, partitions=1)
    return system


class Outsider:
    """Runs a system, and appends commands beside its client."""

    def __init__(self, url: str, **settings: str) -> None:
        self.system = made(f"f{uuid4().hex[:8]}", **settings)
        backend = connect(url, self.system.settings)
        backend.ensure([TopicSpec(f"{self.system.name}-outside", 1, {})])
        self.running = Running(self.system, backend)
        self._appender = backend.appender()

    def send(self, headers: Headers, value: bytes | None = None, key: bytes = b"a") -> None:
        """Append a deposit with any headers."""
        assert partition_of(key, 1) == 0
        named = tuple((name, data.replace(b"{}", self.system.name.encode())) for name, data in headers)
        value = encode(Deposit(amount=1)) if value is None else value
        self._appender.append([Output(f"{self.system.name}.account.commands", 0, key, value, named)])

    def report(self) -> VerificationReport:
        """Handle everything, crash, recover, and verify."""
        self.running.settle()
        self.running.crash()
        self.running.settle()
        return verify(self.running.reader, self.system)


def test_forged_headers_are_no_damage(url: str) -> None:
    """Each kind is sent twice, beside genuine commands; in an exactly-once system nothing is a repetition."""
    outsider = Outsider(url)
    with closing(outsider.running) as running:
        for number, headers in enumerate([*FORGED.values(), *FORGED.values()]):
            running.client.tell(Teller.pay, "t", Pay(account="a", amount=number % 3))
            outsider.send(headers)
            outsider.send(headers, value=b"\xc1")
            if number % 5 == 0:
                running.settle()
        report = outsider.report()
        assert report.ok, [str(each) for check in report.checks for each in check.offenders]
        assert not any(check.unverifiable for check in report.checks)
        assert "repeated" not in report.fates


@pytest.mark.parametrize("kind", FORGED)
def test_each_forgery_alone_is_no_damage(kind: str) -> None:
    """Each is sent twice: with a command, and with bytes that are none."""
    outsider = Outsider("memory:")
    with closing(outsider.running) as running:
        running.client.tell(Teller.pay, "t", Pay(account="a", amount=1))
        for _ in range(2):
            outsider.send(FORGED[kind])
            outsider.send(FORGED[kind], value=b"\xc1")
        report = outsider.report()
        assert report.ok, [str(each) for check in report.checks for each in check.offenders]


def test_a_repetition_is_what_the_shard_takes_for_one(url: str) -> None:
    """At least once, the second of two commands with one cause of an existing topic is dropped, and is no damage."""
    outsider = Outsider(url, delivery="at-least-once")
    with closing(outsider.running) as running:
        for _ in range(2):
            outsider.send(FORGED["a cause of a topic outside and an epoch"])
        outsider.send(FORGED["a retry"])
        outsider.send(FORGED["a retry"])
        report = outsider.report()
        assert report.ok, [str(each) for check in report.checks for each in check.offenders]
        assert report.fates["repeated"] == 1
        account = running.state(Account, "a")
        assert account is not None and account.balance == 3


def test_repetitions_are_dropped_from_the_first_epoch_on(tmp_path: object) -> None:
    """A log that was written exactly once, and goes on at least once: earlier commands were handled twice."""
    log = f"sqlite:{tmp_path}/log.db"
    forged = FORGED["a cause of a topic outside and an epoch"]
    name = f"f{uuid4().hex[:8]}"
    for delivery in ("exactly-once", "at-least-once"):
        system = made(name, delivery=delivery)
        with closing(connect(log)) as backend:
            backend.ensure([TopicSpec(f"{name}-outside", 1, {})])
        with system.start(log) as running, closing(connect(log)) as backend, closing(backend.appender()) as appender:
            named = tuple((header, data.replace(b"{}", name.encode())) for header, data in forged)
            value = encode(Deposit(amount=1))
            for _ in range(2):
                appender.append([Output(f"{name}.account.commands", 0, b"a", value, named)])
            running.settle()
            report = verify(running.reader, system)
            assert report.ok, [str(each) for check in report.checks for each in check.offenders]
    assert report.fates["repeated"] == 1


def test_a_command_that_imitates_a_shard_is_reported() -> None:
    """With every header of a shard it cannot be told from an output that the shard has sent too much."""
    outsider = Outsider("memory:")
    with closing(outsider.running) as running:
        running.client.tell(Teller.pay, "t", Pay(account="a", amount=1))
        outsider.send((("cause", OWN),))
        assert not outsider.report().ok
