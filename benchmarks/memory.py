"""The memory that entities take in a worker, by their number: ``python -m benchmarks.memory``.

The accounts of the ledger job, one command each, on a SQLite file, in this process. Unlike the other figures, this one
does not depend on how busy the machine is.
"""

from __future__ import annotations

import gc
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.job import Account, Deposit, ledger_system

_BATCH = 10_000
_SETTLE_TIMEOUT_S = 600.0


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4_096


def main(entities: Annotated[int, typer.Option(min=1, help="How many accounts.")] = 100_000) -> None:
    """Print the resident bytes of each entity, with the journal and the log that the process holds for it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ledger_system("memory").start(f"sqlite:{folder}/log.db") as running,
    ):
        running.settle()
        before = resident_bytes()
        for first in range(0, entities, _BATCH):
            numbers = range(first, min(first + _BATCH, entities))
            running.client.tell_all((Account.deposit, f"account-{n}", Deposit(amount=1)) for n in numbers)
            running.settle(_SETTLE_TIMEOUT_S)
        print(f"{entities:,} entities: {(resident_bytes() - before) / entities:,.0f} bytes each")


if __name__ == "__main__":
    typer.run(main)
