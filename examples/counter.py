"""Example 1, a counter: one entity, a command, its state; run it with ``python -m examples.counter``.

It runs in this process on ``memory:``, so it needs no Kafka, and its records are gone at exit. The same system on a
file, with supervised workers: ``repertory run examples.counter:system --log sqlite:counter.db``.
"""

from typing import Self

from repertory import ActorSystem, Command, Entity, command


class Add(Command):
    """Add so much."""

    amount: int


class Counter(Entity):
    """A counter; its key is its name."""

    count: int = 0

    @command
    def add(self, cmd: Add) -> Self:
        return self.replace(count=self.count + cmd.amount)


system = ActorSystem("counting")
system.host(Counter, partitions=2)


def main() -> None:
    """Count visitors, lose all that is not in the log, and count on."""
    with system.start("memory:") as running:
        for _ in range(3):
            running.client.tell(Counter.add, "visitors", Add(amount=1))  # Returns when the command is in the log,
        running.settle()  # and here it is applied, with all others.
        print(running.state(Counter, "visitors"))
        running.crash()  # As ``kill -9`` does: the state is recovered from the log.
        running.client.tell(Counter.add, "visitors", Add(amount=4))
        running.settle()
        print(running.state(Counter, "visitors"))
        print(running.state(Counter, "nobody"))


if __name__ == "__main__":
    main()
