"""Clients that ask with ids while workers are killed, and the checks: one effect at most for each id, equal answers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter as Multiset
from contextlib import suppress
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest

from repertory import AskId, AskResult, LogUnavailable, OutcomeUnknown
from repertory.bridge import kill_points
from repertory.bridge.log.errors import IdTooOld
from repertory.bridge.node.handle import NodeHandle
from repertory.bridge.system.committed import journal, shard_record
from repertory.supervision.process.reports import WorkerExited, WorkerKilled
from repertory.verify import verify
from tests.support.nodes.trial import DEADLINE_S, Trial

CLIENTS = 4
#: Each client asks with so many ids at least, and goes on until all kills have happened.
IDS_MIN = 40
#: An answer that a kill delays is asked for again: often enough that repetitions and answers pass each other.
TIMEOUT_S = 1.0
#: The time-out of asks that are not answered, unless a release that was repeated came first.
SHORT_S = 0.3


def effects(app: ModuleType, reader: Any, *kinds: type[Any]) -> Multiset[int]:
    """Return the numbers of the commands with such events, and how often each had one; the log must be whole."""
    report = verify(reader, app.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    behaviour = app.system.behaviour("purse")
    found: Multiset[int] = Multiset()
    for partition in range(2):
        shard = shard_record(reader, app.system, behaviour, partition)
        for record in journal(reader, app.system, behaviour, partition, shard, from_seq=0)[0]:
            event = behaviour.journal.decode(record.value or b"")
            if isinstance(event, kinds):
                found[event.number] += 1
    return found


class Asker(threading.Thread):
    """A client that asks with ids, in turn with repetitions, and notes every answer. It ends once it is told to.

    ``may_forget``: whether answers may be evicted, so that an id is too old for its shard; else that is an error.
    """

    ids_min = IDS_MIN

    def __init__(self, app: ModuleType, url: str, number: int, *, may_forget: bool = False) -> None:
        super().__init__(name=f"asker {number}", daemon=True)
        self.app, self._url, self._first, self._may_forget = app, url, number * 1_000_000, may_forget
        self._random = random.Random(number)  # noqa: S311 - not a secret
        self.ids: dict[int, AskId] = {}
        self.answers: dict[int, list[AskResult[Any]]] = {}
        self.forgotten: set[int] = set()
        self.enough = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Ask until told otherwise."""
        try:
            with self.app.system.client(self._url) as client:
                while not self.enough.is_set() or len(self.ids) < self.ids_min:
                    self._step(client)
        except BaseException as error:  # noqa: BLE001  the test looks at it
            self.error = error

    def _step(self, client: Any) -> None:
        if self.answers and self._random.random() < 0.3:
            number = self._random.choice([*self.answers])
        else:
            number = self._first + len(self.ids)
            self.ids[number] = AskId(f"order-{number}", datetime.now(UTC))
        deadline_s = time.monotonic() + DEADLINE_S
        while not self._try(client, number):
            assert time.monotonic() < deadline_s, f"{number} is not answered"

    def _try(self, client: Any, number: int) -> bool:
        return self.ask(client, number, TIMEOUT_S)

    def ask(self, client: Any, number: int, timeout_s: float) -> bool:
        """Ask once; return whether it was answered, or is too old to be."""
        handler, key, message = self.call(number)
        try:
            result = client.ask_result(handler, key, message, id=self.ids[number], timeout_s=timeout_s)
        except IdTooOld:
            if not self._may_forget:
                raise
            self.forgotten.add(number)
            return True
        except (OutcomeUnknown, LogUnavailable):
            return False
        assert number not in self.forgotten, "an id that was too old has an answer"
        self.answers.setdefault(number, []).append(result)
        return True

    def call(self, number: int) -> tuple[Any, str, Any]:
        """Return what is asked with a number's id. Every fifth is rejected."""
        amount = 1 if self.has_effect(number) else -1
        return self.app.Purse.pay, f"k-{number % 7}", self.app.Pay(number=number, amount=amount)

    def has_effect(self, number: int) -> bool:
        """Return whether the command of a number changes its purse."""
        return number % 5 != 0


class Holder(Asker):
    """A client whose sender is kept: it repeats its ask while that is open, releases itself, and is answered then."""

    ids_min = 5

    def _try(self, client: Any, number: int) -> bool:
        if number not in self.answers and any(self.ask(client, number, SHORT_S) for _ in range(2)):
            return True
        _, key, _ = self.call(number)
        with suppress(OutcomeUnknown, LogUnavailable):  # It is released again if no answer comes.
            client.tell(self.app.Purse.release, key, self.app.Release())
        return self.ask(client, number, TIMEOUT_S)

    def call(self, number: int) -> tuple[Any, str, Any]:
        """Return what is asked with a number's id: each client has a purse of its own, which keeps one sender."""
        return self.app.Purse.hold, f"held-{self._first}", self.app.Hold(number=number)

    def has_effect(self, number: int) -> bool:
        """Return whether the command of a number changes its purse."""
        return True


class AskTrial(Trial):
    """A run of the purses of ``tests.apps.paying``."""

    def armed(self, points: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> NodeHandle:
        """Start a node of two workers with traps at these points, one after the other."""
        monkeypatch.setenv(kill_points.VARIABLE, ",".join(points))
        node = self.node("one", workers=2)
        monkeypatch.delenv(kill_points.VARIABLE)
        return node

    def killed(self) -> int:
        """Count the workers that were killed at a point; one that was killed otherwise fails the test."""
        assert not self.reported(WorkerKilled), self.reported(WorkerKilled)
        return sum(1 for report in self.reported(WorkerExited) if report.how == "SIGKILL")

    def ask_through(self, kills: int, askers: list[Asker]) -> None:
        """Ask until so many workers were killed, and once more with each id; then stop the nodes, and check all."""
        for asker in askers:
            asker.start()
        try:
            for killed in range(1, kills + 1):
                self.until(
                    lambda killed=killed: self.killed() >= killed or any(each.error for each in askers),  # type: ignore[misc]
                    f"kill {killed} of {kills}",
                )
        finally:
            for asker in askers:
                asker.enough.set()
        self.until(lambda: not any(each.is_alive() for each in askers), "the end of the askers", 2 * DEADLINE_S)
        assert [each.error for each in askers] == [None] * len(askers)
        self._last_word(askers)
        assert self.killed() == kills
        assert self.stop() == [0]
        self._judge(askers)

    def _last_word(self, askers: list[Asker]) -> None:
        """Ask once more with each id: all of them, once no worker is killed any more."""
        errors: list[BaseException] = []

        def ask() -> None:
            try:
                with self.app.system.client(self.url) as client:
                    for asker in askers:
                        for number in asker.ids:
                            assert asker.ask(client, number, DEADLINE_S), number
            except BaseException as error:  # noqa: BLE001  looked at below
                errors.append(error)

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        self.until(lambda: not asking.is_alive(), "the last answers", 2 * DEADLINE_S)
        assert errors == []
        for asker in askers:
            assert all(asker.answers[number][-1].again for number in asker.ids if number not in asker.forgotten)

    def _judge(self, askers: list[Asker]) -> None:
        """Check that each id had one effect, or one at most if it was forgotten, and that its answers are equal."""
        app = self.app
        answered = effects(app, self.reader, app.Paid, app.Released)
        held = effects(app, self.reader, app.Held)
        assert set(held.values()) <= {1}, "a command whose sender is kept was applied twice"
        for asker in askers:
            for number in asker.ids:
                results, times = asker.answers.get(number, []), answered.pop(number, 0)
                assert times == asker.has_effect(number) or (not results and times == 0), number
                assert results or number in asker.forgotten, f"{number} has no answer"
                assert len({(result.value, result.position) for result in results}) <= 1, results
                assert [result.again for result in results].count(False) <= 1
                for result in results:
                    kinds = (app.Paid, app.Released) if asker.has_effect(number) else app.Poor
                    assert isinstance(result.value, kinds)
        assert answered == {}
