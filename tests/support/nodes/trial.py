"""One system on one log: its nodes, its load, and the checks of the resulting log."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections import Counter as Multiset
from collections import deque
from collections.abc import Callable, Iterator
from itertools import chain, islice
from types import ModuleType
from typing import Any, TypeVar

from examples.banking.audit import LEFT, audit
from examples.banking.load import AddressedCommand, Load
from examples.banking.transfers import Transfer
from repertory.actors.placement import partition_of
from repertory.actors.saga.messages import CancelSaga
from repertory.bridge.log.connect import connect
from repertory.bridge.log.errors import LogUnavailable, OutcomeUnknown
from repertory.bridge.log.port import Backend
from repertory.bridge.log.record import Output
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.reports import NodeReport
from repertory.bridge.system.client import Client
from repertory.bridge.system.committed import entity_state, journal, shard_record
from repertory.bridge.system.failed import dead_letters
from repertory.bridge.topics import commands_topic, events_topic
from repertory.supervision.process.reports import Report
from repertory.verify import VerificationReport as Verdict
from repertory.verify import verify
from tests.support.nodes.projected_tables import ProjectedTables
from tests.support.paths import ROOT

#: The limit of all waits, also on a busy machine.
DEADLINE_S = 60.0
TALLIES = 10
ACCOUNTS = 100

R = TypeVar("R", bound=Report)


def application(name: str, module: str = "tests.apps.killed", **settings: float | str) -> ModuleType:
    """Import an application with a system name; nodes that are started afterwards inherit both."""
    os.environ["KILLED_NAME"] = name
    os.environ.update({f"KILLED_{key.upper()}": str(value) for key, value in settings.items()})
    os.environ["PYTHONPATH"] = str(ROOT)
    sys.modules.pop(module, None)
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return importlib.import_module(module)


class Trial:
    """A run of the counters of ``tests.apps.killed``. Not thread-safe.

    ``url`` is the log's URL for this process; nodes may use another one.
    """

    def __init__(self, app: ModuleType, url: str) -> None:
        self.app, self.url = app, url
        self.nodes: list[NodeHandle] = []
        self.reports: list[NodeReport] = []
        self.sent = 0
        #: Numbers whose append has an unknown outcome: they are counted once or not at all.
        self.unsure: set[int] = set()
        self._backend: Backend = connect(url)
        app.system.prepare(self._backend)
        self._client = Client(app.system, self._backend)
        self._appender = self._backend.appender()
        self.reader = self._backend.reader()
        self.tables = ProjectedTables(app.system, self._backend, self.reader)

    def node(self, name: str, workers: int, url: str | None = None) -> NodeHandle:
        """Start a node."""
        node = NodeHandle(
            f"{self.app.__name__}:system", url or self.url, workers=workers,
            projectors=1 if self.app.system.projections else 0,
            stop_timeout_s=self.app.system.settings.stop_timeout_s, node=name,
        )  # fmt: skip
        self.nodes.append(node)
        return node

    def poll(self, timeout_s: float = 0.05) -> None:
        """Collect the reports of all nodes."""
        for node in self.nodes:
            self.reports += node.poll(timeout_s / len(self.nodes))

    def reported(self, kind: type[R]) -> list[R]:
        """Return the reports of a type so far."""
        return [report for report in self.reports if isinstance(report, kind)]

    def story(self) -> str:
        """Return what the nodes last reported, a short line each, for a message."""
        return "\n".join(str(each)[:180] for each in self.reports[-30:])

    def until(self, condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
        """Collect reports until a condition holds."""
        end_s = time.monotonic() + deadline_s
        while not condition():
            assert time.monotonic() < end_s, f"never: {what}\n{self.story()}"
            self.poll()

    # --- load -------------------------------------------------------------------------------------------------

    def send(self, count: int) -> None:
        """Send additions with unique numbers, and among them one command for each kind of failure."""
        app, numbers = self.app, range(self.sent, self.sent + count)
        calls: list[tuple[Any, str, Any]] = [(app.Counter.add, f"c-{n % 50}", app.Add(by=n)) for n in numbers]
        for place, how in enumerate(("restart", "resume", "stop", "escalate")):
            key = f"{'e' if how == 'escalate' else 'bad'}-{self.sent}-{place}"
            calls.insert(count * (place + 1) // 6, (app.Counter.fail, key, app.Fail(how=how)))
        calls.insert(count // 2, (app.Counter.close, f"c-{self.sent % 50}", app.Close()))
        topic, key = commands_topic(app.system.name, "counter"), b"poison"
        self.sent += count
        try:
            self._client.tell_all(calls)
            self._appender.append([Output(topic, partition_of(key, self._count(topic)), key, b"\xc1", ())])
        except (OutcomeUnknown, LogUnavailable):
            self.unsure.update(numbers)

    def _count(self, topic: str) -> int:
        return self.reader.partition_count(topic) or 0

    # --- checks -----------------------------------------------------------------------------------------------

    def is_done(self) -> bool:
        """Return whether all committed commands are below the committed offsets."""
        return self.unhandled() is None

    def unhandled(self) -> str | None:
        """Return the place of the first committed command at or above the committed offsets, None if there is none.

        Then where a projection is behind.
        """
        for topic in self.app.system.commands_topics():
            for partition in range(self._count(topic)):
                try:
                    committed = self.reader.committed(self.app.system.name, topic, partition) or 0
                    if (record := next(self.reader.read(topic, partition, committed), None)) is not None:
                        return f"{topic}/{partition} from offset {record.offset} on"
                except LogUnavailable as passing:  # for example while the transaction of a dead worker is open
                    return f"{topic}/{partition}: {passing}"
        return self.tables.behind()

    def counted(self) -> Multiset[int]:
        """Return the counted numbers, and how often each was counted."""
        system, behaviour = self.app.system, self.app.system.behaviour("counter")
        decode = behaviour.journal.decode
        found: Multiset[int] = Multiset()
        for partition in range(self._count(events_topic(system.name, "counter"))):
            shard = shard_record(self.reader, system, behaviour, partition)
            for record in journal(self.reader, system, behaviour, partition, shard, from_seq=0)[0]:
                event = decode(record.value or b"")
                if isinstance(event, self.app.Added):
                    found[event.by] += 1
        return found

    def tallied(self) -> int:
        """Return the sum of the tallies."""
        hosted = self.app.system.hosted[self.app.Tally]
        states = [entity_state(self.reader, self.app.system, hosted, f"t-{n}") for n in range(TALLIES)]
        return sum(state.state.total for state in states if state.state is not None)

    def verdict(self) -> Verdict:
        """Verify all committed records. The nodes must be stopped."""
        return verify(self.reader, self.app.system)

    def complaints(self) -> list[str]:
        """Return the violations found in the log; empty if there are none."""
        found = []
        counted = self.counted()
        numbers = {*counted, *range(self.sent)}
        if wrong := {n: counted[n] for n in numbers if counted[n] != 1 and (counted[n] or n not in self.unsure)}:
            found.append(f"{len(wrong)} numbers were not counted exactly once: {dict(list(wrong.items())[:10])}")
        if (total := self.tallied()) != (expected := sum(n * times for n, times in counted.items())):
            found.append(f"the tallies hold {total}, but the counted numbers make {expected}")
        broken = [check for check in self.verdict().checks if not check.ok]
        found += [f"verify: {check.name} failed: {'; '.join(map(str, check.offenders))}" for check in broken]
        return found

    def stop(self) -> list[int]:
        """Stop the nodes gracefully; return their exit codes."""
        codes = [node.stop() for node in self.nodes]
        self.nodes.clear()
        return codes

    def close(self) -> None:
        """Stop the nodes that still run, and release all resources."""
        self.stop()
        self._client.close()
        self._appender.close()
        self.reader.close()
        self._backend.close()


class BankTrial(Trial):
    """A run of the bank of ``tests.apps.rough_bank``: transfers are sent, and the bank's audit checks the log."""

    def __init__(self, app: ModuleType, url: str) -> None:
        super().__init__(app, url)
        load = Load("chaos", accounts=ACCOUNTS, transfers=sys.maxsize, seed=1)
        self._calls = chain(load.openings(), self._cancelled(load.transfers()))
        self._again: list[AddressedCommand] = []

    def _cancelled(self, transfers: Iterator[AddressedCommand]) -> Iterator[AddressedCommand]:
        """Yield transfers, and for one in five a request to cancel it: at once, or when many others were sent."""
        cancel: Any = self.app.system.hosted[Transfer].behaviour.handlers[CancelSaga]
        keys = deque[str](maxlen=300)
        for number, (handler, key, start) in enumerate(transfers):
            yield handler, key, start
            keys.append(key)
            if number % 5 == 0:
                yield cancel, keys[0 if number % 2 else -1], CancelSaga(reason="a mistake")

    def send(self, count: int) -> None:
        """Send transfers. A chunk with an unknown outcome is sent again: a transfer starts once."""
        calls = self._again + list(islice(self._calls, count - len(self._again)))
        try:
            self._client.tell_all(calls)
        except (OutcomeUnknown, LogUnavailable):
            self._again = calls
        else:
            self.sent += len(calls)
            self._again = []

    def complaints(self) -> list[str]:
        """Audit all committed records. The nodes must be stopped.

        What a transfer that was cancelled had asked may have waited at its account, and is a dead letter then.
        """
        broken = [check for check in audit(self.reader, self.app.system) if not check.ok]
        revoked = sum(letter.error == "Revoked" for letter in dead_letters(self.reader, self.app.system))
        only = [f"{revoked:,} are dead-lettered"]
        broken = [check for check in broken if check.name != LEFT or [each.wrong for each in check.offenders] != only]
        found = [f"audit: {check.name} failed: {'; '.join(map(str, check.offenders))}" for check in broken]
        return found + self.tables.complaints()
