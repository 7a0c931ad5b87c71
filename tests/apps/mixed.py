"""An application with every kind of entity and every kind of fate, and a load that brings all of them about."""

from __future__ import annotations

import os
import random
from typing import Self

from repertory import (
    ActorSystem,
    Backoff,
    Command,
    Context,
    Directive,
    Entity,
    Event,
    Publishes,
    Rejection,
    command,
    event,
    restart,
)
from repertory.actors.control import DropParked, RetryParked
from repertory.actors.headers import Headers
from repertory.actors.message import Message
from repertory.actors.placement import partition_of
from repertory.actors.wire import encode
from repertory.bridge.log.port import Appender, TopicSpec
from repertory.bridge.log.record import Output
from repertory.bridge.system.settings import Settings
from tests.actors.domain import (
    Account,
    Close,
    Deposit,
    Desk,
    Hold,
    Pay,
    Release,
    Router,
    Split,
    Teller,
    Trip,
    Withdraw,
)

NAME = os.environ.get("MIXED_NAME", "v")
#: A topic outside the system.
NEWS = f"{NAME}-news"
NEWS_SPEC = TopicSpec(NEWS, 2, {})


class Print(Command):
    """Publish."""

    page: int


class Printed(Event):
    """Published."""

    page: int


class Sold(Rejection):
    """There are no more pages."""


class Paper(Entity):
    """Journaled; publishes outside the system."""

    pages: int = 0

    @command
    def print(self, cmd: Print, ctx: Context) -> Printed | Sold:
        """Publish a page; the hundredth is refused."""
        if cmd.page >= 100:
            return Sold()
        ctx.publish(NEWS, f"page {cmd.page}".encode(), key=ctx.key)
        return Printed(page=cmd.page)

    @event
    def printed(self, evt: Printed) -> Self:
        """Count."""
        return self.replace(pages=self.pages + evt.page)


POLICY = restart(
    max_restarts=2,
    backoff=Backoff(first_s=0.001, max_s=0.002),
    on={ValueError: Directive.STOP, KeyError: Directive.RESUME},
)
#: Small, so that every shard has snapshots, a tail that is in none, and many transactions.
system = ActorSystem(
    NAME,
    settings=Settings(
        snapshot_window_bytes_max=1,
        snapshot_window_records=12,
        batch_records_max=int(os.environ.get("MIXED_BATCH", "5")),
    ),
    publishes={NEWS: Publishes(partitions=2)},
)
for entity in (Account, Teller, Router, Desk, Paper):
    system.host(entity, partitions=2, supervise=POLICY)


class Sender:
    """A client that may write whatever it likes."""

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._asked = 0

    def tell(self, entity: str, message: Message | bytes | None, key: str = "a", headers: Headers = ()) -> int:
        """Append a command, whatever the bytes are; return its offset."""
        data = message if isinstance(message, bytes | None) else encode(message)
        topic, partition = f"{NAME}.{entity}.commands", partition_of(key.encode(), 2)
        return self._appender.append([Output(topic, partition, key.encode(), data, headers)])[0]

    def ask(self, entity: str, message: Message, key: str = "a") -> int:
        """Append a command that wants an answer."""
        self._asked += 1
        address = f"{NAME}.replies/{self._asked % 8}".encode()
        return self.tell(entity, message, key, (("reply-to", address), ("correlation-id", b"c%d" % self._asked)))

    def misplace(self, entity: str, message: Message, key: str = "a") -> None:
        """Append a command to the partition that its key does not belong to."""
        topic, partition = f"{NAME}.{entity}.commands", partition_of(key.encode(), 2)
        self._appender.append([Output(topic, 1 - partition, key.encode(), encode(message))])


def load(sender: Sender, draw: random.Random, commands: int) -> None:  # noqa: PLR0912  one branch per kind
    """Send all kinds of commands in all kinds of ways."""
    for _ in range(commands):
        send = draw.choice([sender.tell, sender.ask])
        key = draw.choice("abcdefgh")
        amount = draw.randrange(1, 9)
        kind = draw.choice(["restart", "restart", "resume", "stop"])
        times = draw.choice([1, 1, 2, 5])
        match draw.randrange(16):
            case 0 | 1:
                send("account", Deposit(amount=amount), key)
            case 2 | 3:
                send("account", Withdraw(amount=amount), key)
            case 4:
                send("account", Split(amounts=(amount, 2, 3)), key)
            case 5 | 6:
                send("teller", Pay(account=draw.choice("abcdefgh"), amount=amount), key)
            case 7 | 8:
                send("router", Deposit(amount=amount), key)
            case 9:
                send("paper", Print(page=amount * 14), key)
            case 10:
                entity = draw.choice(["account", "teller", "router"])
                send(entity, Trip(times=times, error=kind), draw.choice(["p-1", "p-2", key]))
            case 11:
                send(draw.choice(["account", "teller"]), Close(), key)
            case 12:
                send("desk", draw.choice([Hold(), Hold(), Release()]), key)
            case 13:
                sender.tell("account", draw.choice([b"\xc1", None, b"\x80"]), key)
            case 14:
                sender.misplace("account", Deposit(amount=1), key)
            case 15:
                offset = draw.randrange(20)
                control = draw.choice([RetryParked(offset=offset), DropParked(offset=offset, reason="enough")])
                send(draw.choice(["account", "teller"]), control, draw.choice(["p-1", "p-2", key]))
