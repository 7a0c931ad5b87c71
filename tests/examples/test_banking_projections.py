"""The bank's tables say what its accounts say, after a run with kills."""

from __future__ import annotations

from collections import Counter
from random import Random

import sqlalchemy as sa

from examples.banking import Account, Balances, Statement, system
from examples.banking.load import Load


def test_the_tables_are_those_of_the_accounts() -> None:
    """Each balance, and the sum of each account's lines; money is neither made nor lost."""
    load, random = Load("p", accounts=12, transfers=150, seed=5), Random(5)  # noqa: S311  reproducible on purpose
    openings, transfers = list(load.openings()), list(load.transfers())
    with system.start("memory:") as running:
        for commands in (openings, transfers):
            running.client.tell_all(commands)
            for _ in range(4):
                for _ in range(random.randint(1, 40)):
                    running.tick()
                running.crash()
            running.settle()
        database = running.client.database(Balances)
        assert database == running.client.database(Statement)
        engine = sa.create_engine(database, poolclass=sa.NullPool)
        with engine.connect() as sql:
            balances = dict(sql.execute(sa.text("SELECT account, balance FROM balances")).all())
            lines: Counter[str] = Counter()
            for account, amount in sql.execute(sa.text("SELECT account, amount FROM statement")):
                lines[account] += amount
        found = {key: running.state(Account, key) for key in balances}
    assert balances == {key: 0 if account is None else account.balance for key, account in found.items()}
    assert {key: lines[key] for key in balances} == balances
    assert len(balances) == len({key for _, key, _ in openings})
