"""The ledger job on Faust, exactly once: a table in RocksDB with a changelog topic.

Runs in a virtual environment of its own; :mod:`benchmarks.peers` makes it. SIGTERM stops it, with status 0.
"""

from __future__ import annotations

import argparse
from typing import Any

import faust
import msgspec

PARTITIONS = 4


class Deposit(msgspec.Struct):
    """A command; its ``type`` is not read, since there is only one."""

    amount: int


class Deposited(msgspec.Struct, tag_field="type", tag="Deposited"):
    """An event, with the balance after it."""

    amount: int
    balance: int


_decode = msgspec.msgpack.Decoder(Deposit).decode
_encode = msgspec.msgpack.Encoder().encode


def ledger(options: argparse.Namespace) -> Any:
    """Return the app: one agent that adds each deposit to the balance of its key and sends the event."""
    given: dict[str, Any] = {}
    if options.commit_interval_ms is not None:
        given["broker_commit_interval"] = options.commit_interval_ms / 1000
    app = faust.App(
        options.name,
        broker=f"kafka://{options.brokers}",
        store="rocksdb://",
        datadir=options.directory,
        processing_guarantee=options.guarantee,
        consumer_auto_offset_reset="earliest",
        topic_partitions=PARTITIONS,
        topic_disable_leader=True,
        web_enabled=False,
        **given,
    )
    raw = {"key_type": str, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
    commands = app.topic(f"{options.name}.account.commands", **raw)
    events = app.topic(f"{options.name}.account.events", **raw)
    balances = app.Table("balances", default=int, key_type=str, value_type=int, partitions=PARTITIONS)

    async def account(stream: Any) -> None:
        async for event in stream.events():
            amount = _decode(event.value).amount
            balance = balances[event.key] + amount
            balances[event.key] = balance
            value = _encode(Deposited(amount, balance))
            await events.send(key=event.key, value=value, partition=event.message.partition, headers=event.headers)

    app.agent(commands)(account)
    return app


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--brokers", "--name", "--directory"):
        parser.add_argument(option, required=True)
    parser.add_argument("--commit-interval-ms", type=int)
    parser.add_argument("--guarantee", default="exactly_once")
    options = parser.parse_args()
    worker = faust.Worker(ledger(options), loglevel="ERROR", quiet=True)
    worker.execute_from_commandline()


if __name__ == "__main__":
    main()
