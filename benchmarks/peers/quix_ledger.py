"""The ledger job on Quix Streams, exactly once, with its defaults: a RocksDB store with a changelog topic.

Runs in a virtual environment of its own; :mod:`benchmarks.peers` makes it. SIGTERM stops it, with status 0. By default
Quix commits every 5 seconds. Its key-value state encodes values as JSON.
"""

from __future__ import annotations

import argparse
from typing import Any

import msgspec
from quixstreams import Application, State


class Deposit(msgspec.Struct):
    """A command; its ``type`` is not read, since there is only one."""

    amount: int


class Deposited(msgspec.Struct, tag_field="type", tag="Deposited"):
    """An event, with the balance after it."""

    amount: int
    balance: int


_decode = msgspec.msgpack.Decoder(Deposit).decode
_encode = msgspec.msgpack.Encoder().encode


def deposit(value: bytes, state: State) -> bytes:
    """Add a deposit to the balance of its key and return the event."""
    amount = _decode(value).amount
    balance = state.get("balance", 0) + amount
    state.set("balance", balance)
    return _encode(Deposited(amount, balance))


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--brokers", "--name", "--directory"):
        parser.add_argument(option, required=True)
    parser.add_argument("--commit-interval-ms", type=int)
    options = parser.parse_args()
    given: dict[str, Any] = {}
    if options.commit_interval_ms is not None:
        given["commit_interval"] = options.commit_interval_ms / 1000
    app = Application(
        broker_address=options.brokers,
        consumer_group=options.name,
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        state_dir=options.directory,
        loglevel="WARNING",
        **given,
    )
    commands = app.topic(f"{options.name}.account.commands", key_deserializer="bytes", value_deserializer="bytes")
    # Quix sends headers along, and its producer's partitioner is murmur2, as Java's.
    events = app.topic(f"{options.name}.account.events", key_serializer="bytes", value_serializer="bytes")
    app.dataframe(commands).apply(deposit, stateful=True).to_topic(events)
    app.run()


if __name__ == "__main__":
    main()
