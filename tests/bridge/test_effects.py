"""Effects on every log, exactly and at least once: run after their commit, tried again, parked, heard once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from repertory import ActorSystem, Running
from repertory.actors import effect as effects_of_this_build
from repertory.actors.shard.changelog import effect_key
from repertory.actors.shard.effect_settler import EffectDeath
from repertory.bridge import effect_runner
from repertory.bridge.effect_runner import EffectsBlocked, LifespanFailed, NoMarks
from repertory.operate.operator import Operator
from repertory.verify import verify
from tests.apps import errands
from tests.apps.errands import DIARY, Boy, Desk, Go
from tests.bridge.test_asks_once import during

#: The bound of each wait, also on a busy machine.
DEADLINE_S = 60.0


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where attempts are written down."""
    path = tmp_path / "diary"
    path.touch()
    monkeypatch.setenv(DIARY, str(path))
    return path


@pytest.fixture
def system(delivery: str) -> ActorSystem:
    """Return a system with a name of its own."""
    return errands.made(f"errands-{uuid.uuid4().hex[:12]}", delivery)


@pytest.fixture
def running(system: ActorSystem, url: str, diary: Path) -> Iterator[Running]:
    """Run it; at the end nothing of it is left."""
    assert diary.exists()
    with system.start(url) as running:
        yield running
    assert Desk.entered == 0


def until(running: Running, is_so: Callable[[], bool], what: str) -> None:
    """Work until something is so."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline_s, what
        running.tick(0.01)


def attempts(diary: Path) -> list[tuple[str, int, str, int, int]]:
    """Return the attempts: key, number, id, attempt, epoch."""
    lines = [line.split() for line in diary.read_text(encoding="utf-8").splitlines()]
    return [(key, int(number), fx_id, int(attempt), int(epoch)) for key, number, fx_id, attempt, epoch in lines]


def heard(running: Running, *keys: str) -> Counter[int]:
    """Return the numbers that entities have heard, and how often; the log must be whole."""
    assert isinstance(running.system, ActorSystem)
    report = verify(running.reader, running.system)
    assert report.ok, [check for check in report.checks if not check.ok]
    states = [running.state(Boy, key) for key in keys]
    return Counter(number for state in states if state is not None for number in state.heard)


def test_a_result_is_heard_once_and_in_order(running: Running, diary: Path) -> None:
    """Each effect runs once where nothing fails; those of a key one after the other; ``settle`` waits for them."""
    for number in range(40):
        running.client.tell(Boy.go, f"k{number % 4}", Go(number=number))
    running.settle()
    assert heard(running, "k0", "k1", "k2", "k3") == dict.fromkeys(range(40), 1)
    state = running.state(Boy, "k1")
    assert state is not None
    assert state.heard == tuple(range(1, 40, 4))
    assert len({fx_id for _, _, fx_id, _, _ in attempts(diary)}) == len(attempts(diary)) == 40
    assert running.effects() == []


def test_crashes_repeat_an_effect_and_not_its_result(running: Running, diary: Path) -> None:
    """The same id at each run, a greater epoch for each owner, and one result."""
    for number in range(30):
        running.client.tell(Boy.go, f"k{number % 5}", Go(number=number, how="slow" if number % 7 == 0 else ""))
    for ticks in range(6):
        for _ in range(3 * ticks):
            running.tick(0.01)
        running.crash()
    running.settle()
    assert heard(running, *(f"k{number}" for number in range(5))) == dict.fromkeys(range(30), 1)
    ids = {}
    epochs: dict[str, list[int]] = {}
    for _, number, fx_id, attempt, epoch in attempts(diary):
        assert ids.setdefault(number, fx_id) == fx_id
        assert attempt == 1
        epochs.setdefault(fx_id, []).append(epoch)
    assert all(found == sorted({*found}) for found in epochs.values()), "an owner ran one twice"


def test_a_failed_attempt_is_tried_again_and_its_number_survives_a_crash(running: Running, diary: Path) -> None:
    """A later one succeeds, and the entity hears of that."""
    running.client.tell(Boy.go, "a", Go(number=1, how="late"))
    until(running, lambda: any(each.record.attempt == 2 for each in running.effects()) or not running.effects(), "one")
    running.crash()
    until(running, lambda: len(attempts(diary)) >= 3 and not running.effects(), "the third attempt")
    running.settle()
    assert heard(running, "a") == {1: 1}
    assert {attempt for _, _, _, attempt, _ in attempts(diary)} == {1, 2, 3}


def test_what_fails_too_often_is_parked_until_an_operator_acts(running: Running, system: ActorSystem) -> None:
    """The key goes on; a retry begins with attempt 1, a drop tells the entity."""
    running.client.tell(Boy.go, "a", Go(number=1, how="fail"))
    running.client.tell(Boy.go, "a", Go(number=2, how="hang"))
    running.client.tell(Boy.go, "a", Go(number=3))
    until(running, lambda: sum(each.parked for each in running.effects()) == 2, "two are parked")
    running.settle()
    assert heard(running, "a") == {3: 1}
    first, second = running.effects()
    assert (first.record.error, first.record.reason, first.record.attempt) == ("OSError", "the door was closed", 3)
    assert "no end after 0.5 s" in second.record.reason
    running.crash()
    with closing(Operator(system, running._backend)) as operator:
        during(running, lambda: operator.retry_effect(operator.find_effect("boy", first.address)))
        until(running, lambda: running.effects()[0].parked, "it is parked again")
        during(running, lambda: operator.drop_effect(operator.find_effect("boy", first.address), "never mind"))
        during(running, lambda: operator.drop_effect(operator.find_effect("boy", second.address), "nor that"))
        with pytest.raises(LookupError, match="boy has no effect"):
            operator.find_effect("boy", first.address)
    running.settle()
    assert heard(running, "a") == {3: 1, -1: 2}
    assert running.effects() == []


def test_what_this_build_cannot_run_waits_for_one_that_can(
    running: Running, system: ActorSystem, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shown, and in nobody's way; an operator can drop it, and the next owner that has its function starts it."""
    running._effects._is_sure = lambda: False  # None starts before the crash.
    for number, key in enumerate("aab"):
        running.client.tell(Boy.go, key, Go(number=number))
    running.client.tell(Boy.go, "a", Go(number=3, how="wait"))
    until(running, lambda: len(running.effects()) == 4, "all are performed")
    Path(f"{diary}.over").touch()
    with monkeypatch.context() as patch:
        patch.delitem(effects_of_this_build._effects, "errands.run")
        running.crash()
        running.settle()
        assert heard(running, "a") == {3: 1}
        first, *_ = waiting = running.effects()
        assert [(each.key, each.not_in_build, each.parked) for each in waiting] == [
            ("a", True, False), ("a", True, False), ("b", True, False)
        ]  # fmt: skip
        assert first.record.reason == "this build has no @effect of the name 'errands.run'"
        running.crash()
        running.settle()
        with closing(Operator(system, running._backend)) as operator:
            with pytest.raises(LookupError, match=r"it waits, since this build has no @effect .* and starts by itself"):
                operator.retry_effect(operator.find_effect("boy", first.address))
            during(running, lambda: operator.drop_effect(operator.find_effect("boy", first.address), "no"))
        running.settle()
        assert heard(running, "a") == {3: 1, -1: 1}
    assert {number for _, number, _, _, _ in attempts(diary)} == {3}
    running.crash()
    running.settle()
    assert heard(running, "a", "b") == {3: 1, -1: 1, 1: 1, 2: 1}
    assert running.effects() == []


def test_a_takeover_that_blames_effects_is_verified(
    running: Running, diary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An owner writes what has become of the effects that ran in a process which died; at least once, its epoch too."""
    running._effects._is_sure = lambda: False  # None starts before the crash.
    for number in range(4):
        running.client.tell(Boy.go, f"k{number}", Go(number=number))
    until(running, lambda: len(running.effects()) == 4, "all are performed")
    ran = {partition: [each for each in running.effects() if each.partition == partition] for partition in range(2)}
    with monkeypatch.context() as patch:
        patch.setattr(
            NoMarks,
            "deaths",
            lambda _marks, shard: [
                EffectDeath(effect_key(each.offset, each.index), is_sole=False) for each in ran.pop(shard, ())
            ],
        )
        running.crash()
        running.settle()
    assert not ran
    assert heard(running, *(f"k{number}" for number in range(4))) == dict.fromkeys(range(4), 1)
    assert len(attempts(diary)) == 4


def test_the_lifespan_is_entered_once_and_left(system: ActorSystem, url: str, diary: Path) -> None:
    """By the first effect of a worker; one that fails ends the worker with a sentence, and the effect is not lost."""
    with system.start(url) as running:
        assert Desk.entered == 0
        for number in range(5):
            running.client.tell(Boy.go, f"k{number}", Go(number=number))
        running.settle()
        assert Desk.entered == 1
        running.crash()
        running.client.tell(Boy.go, "k0", Go(number=9))
        running.settle()
        assert Desk.entered == 1
    assert Desk.entered == 0
    assert len(attempts(diary)) == 6


def test_a_lifespan_that_fails_is_a_sentence(diary: Path) -> None:
    """Nothing hangs, and the effect runs once it is mended."""
    system = errands.made("broken", "exactly-once")
    entered, system.lifespan = system.lifespan, _broken
    with system.start() as running:
        running.client.tell(Boy.go, "a", Go(number=1))
        with pytest.raises(LifespanFailed, match="the lifespan of the system failed: OSError: no desk"):
            running.settle()
        running.system.lifespan = entered
        running.crash()
        running.settle()
        assert running.effects() == []
    assert len(attempts(diary)) == 1


def test_a_lifespan_that_is_never_entered_is_a_sentence(diary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it waits for."""
    monkeypatch.setattr(effect_runner, "ENTER_S", 0.05)
    system = errands.made("endless", "exactly-once")
    system.lifespan = _endless
    with system.start() as running:
        running.client.tell(Boy.go, "a", Go(number=1))
        with pytest.raises(LifespanFailed, match=r"it was not entered within 0\.05 s"):
            until(running, lambda: False, "it is entered")
    assert attempts(diary) == []


@asynccontextmanager
async def _endless() -> AsyncIterator[None]:
    await asyncio.sleep(3_600)
    yield


def test_a_sync_call_that_blocks_all_effects_is_named(
    diary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With its stack; the others go on when it ends, and it ends the worker when it takes too long."""
    monkeypatch.setattr(effect_runner, "BLOCKED_S", 0.1)

    def named() -> list[str]:
        return [each.exc_text or "" for each in caplog.records if "blocks the event loop" in each.getMessage()]

    with errands.made("blocked", "exactly-once").start() as running:
        running.client.tell(Boy.go, "a", Go(number=1, how="block"))
        until(running, lambda: len(named()) == 1, "it is named")
        assert "effect 'errands.run' of key 'a' blocks the event loop" in caplog.text
        assert "in _block" in named()[0]
        running.client.tell(Boy.go, "b", Go(number=2))
        until(running, lambda: len(running.effects()) == 2, "the other waits")
        Path(f"{diary}.over").touch()
        running.settle()
        assert heard(running, "a", "b") == {1: 1, 2: 1}
        assert len(named()) == 1
    Path(f"{diary}.over").unlink()
    with errands.made("stuck", "exactly-once", progress_timeout_s=0.3).start() as running:
        running.client.tell(Boy.go, "a", Go(number=3, how="block"))
        with pytest.raises(EffectsBlocked, match=r"of key 'a' blocks the event loop .* for more than 0\.3 s"):
            until(running, lambda: False, "it ends the worker")
        Path(f"{diary}.over").touch()
        running.crash()
        running.settle()
        assert heard(running, "a") == {3: 1}


def _broken() -> object:
    raise OSError("no desk")


def test_time_that_is_advanced_reaches_the_retries(diary: Path) -> None:
    """In memory nobody waits for a backoff."""
    with errands.made("advanced", "exactly-once").start() as running:
        running.client.tell(Boy.go, "a", Go(number=1, how="late"))
        running.advance(3_600)
        assert heard(running, "a") == {1: 1}
    assert len(attempts(diary)) == 3
