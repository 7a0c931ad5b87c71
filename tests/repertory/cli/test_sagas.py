"""``repertory sagas``: what each waits for is listed and shown; one is cancelled, and helped where it is stuck."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from repertory import Cancelled, Done, NoSuchSaga, TooLate
from repertory.bridge.reports import IncidentReport
from repertory.cli.app import app
from repertory.inspect.cycles import cycles
from tests.apps import trips
from tests.apps.trips import AskFee, Book, Confirm, Guide, Hotel, Plan, Planned, Trip
from tests.support.working import working

TARGET = "tests.repertory.cli.test_sagas:system"
system = trips.made()
ANSWERING = "tests.repertory.cli.test_sagas:answering"
answering = trips.made("answering", asked="answer")
ON_KAFKA = "tests.repertory.cli.test_sagas:on_kafka"
on_kafka = trips.made(f"travel-{uuid.uuid4().hex[:8]}")


@pytest.fixture(autouse=True)
def mended() -> Iterator[None]:
    """No hotel is broken before a test, nor after it."""
    trips.BROKEN.clear()
    yield
    trips.BROKEN.clear()


@pytest.fixture
def log(tmp_path: Path) -> str:
    """A log with a trip that waits for a signal, one that is stuck, one whose undo is parked, and two guides."""
    url = f"sqlite:{tmp_path / 'travel.db'}"
    with system.start(url) as running:
        client = running.client
        for name in ("waits", "sticks", "hangs"):
            client.tell(Trip.plan, name, Plan(hotel=f"of-{name}", flight=f"to-{name}"))
        client.tell(Hotel.ask_fee, "of-sticks", AskFee(fee=7))
        client.tell(Guide.lead, "g-1", Plan(hotel="g-2", flight=""))
        running.settle()
        assert client.cancel(Trip, "sticks", reason="rain") == Done()
        running.settle()
        trips.BROKEN.add("of-hangs")
        assert client.cancel(Trip, "hangs", reason="snow") == Done()
        running.settle()
    return url


def run(*arguments: str) -> Result:
    done = CliRunner(env={"COLUMNS": "400"}).invoke(app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def listed(log: str, *arguments: str, target: str = TARGET) -> dict[str, dict[str, Any]]:
    found = json.loads(run("sagas", "list", target, "--log", log, "--json", *arguments).output)
    return {each["key"]: each for each in found}


def test_open_sagas_are_listed_with_what_they_wait_for(log: str) -> None:
    """A signal, an operator, a parked key with its reason; as a table and as JSON, and only those in trouble."""
    found = listed(log)
    assert {key: (each["phase"], [wait["kind"] for wait in each["waits"]]) for key, each in found.items()} == {
        "waits": ("running", ["signal"]),
        "sticks": ("stuck", ["operator"]),
        "hangs": ("undoing", ["undo"]),
        "g-1": ("running", ["ask"]),
        "g-2": ("running", ["ask"]),
    }
    (hangs,) = found["hangs"]["waits"]
    assert (hangs["place"]["parked"], hangs["place"]["reason"]) == (True, "the till is broken")
    table = run("sagas", "list", TARGET, "--log", log).output
    for text in (
        "signal Confirm", "an operator, since hotel 'of-sticks' has refused to undo it",
        "the undo of step 0 was rejected: FeeTooLow: asked=7", "RuntimeError: the till is broken",
    ):  # fmt: skip
        assert text in table
    assert set(listed(log, "--stuck")) == {"sticks", "hangs"}
    assert set(listed(log, "--entity", "guide")) == {"g-1", "g-2"}
    assert "and 4 more" in run("sagas", "list", TARGET, "--log", log, "--first", "1").output


def test_who_waits_in_a_circle_is_named(log: str) -> None:
    """Two guides that ask each other; once they are cancelled there is none any more, and neither waits for ever."""
    circle = run("sagas", "list", TARGET, "--log", log, "--cycles")
    assert circle.exit_code == 1
    assert circle.output.strip() == "guide 'g-1' waits for guide 'g-2' waits for guide 'g-1'"
    with working(system, log):
        assert run("sagas", "cancel", TARGET, "guide", "g-1", "--reason", "enough", "--log", log).exit_code == 0
    with system.start(log) as running:
        running.settle()
        assert {each.key: each.phase for each in running.sagas() if each.entity == "guide"} == {
            "g-1": "undone", "g-2": "undone"
        }  # fmt: skip
    done = run("sagas", "list", TARGET, "--log", log, "--cycles")
    assert (done.exit_code, done.output.strip()) == (0, "no keys wait for each other")


@pytest.mark.parametrize(
    ("waits", "circles"),
    [
        ({}, []),
        ({1: [2], 2: [3]}, []),
        ({1: [1]}, [[1, 1]]),
        ({1: [2], 2: [3, 4], 3: [1], 4: [5], 5: []}, [[1, 2, 3, 1]]),
        ({1: [2], 2: [1], 3: [4], 4: [5, 3], 5: [3]}, [[1, 2, 1], [3, 4, 3]]),
    ],
)
def test_each_circle_is_found_once(waits: dict[int, list[int]], circles: list[list[int]]) -> None:
    """The shortest one through each group; who only waits for a circle is in none."""
    assert cycles(waits) == circles
    chain = {number: [number + 1] for number in range(5_000)}
    assert cycles(chain) == []
    assert len(cycles({**chain, 5_000: [0]})[0]) == 5_002


def test_a_saga_is_shown_with_its_steps(log: str) -> None:
    """What each asked whom, the answer, what undoes it and whether it has; of one that is over, from the journal."""
    shown = run("sagas", "show", TARGET, "trip", "sticks", "--log", log).output
    for text in (
        "trip 'sticks': stuck for", 'started by: {"type": "Plan", "hotel": "of-sticks"', "hotel.book",
        '{"type": "Booked", "trip": "sticks"}', "attempt 1 was rejected: FeeTooLow: asked=7: hotel 'of-sticks'",
        'outcome: {"type": "repertory.cancelled", "reason": "rain"}',
    ):  # fmt: skip
        assert text in shown
    waits = json.loads(run("sagas", "show", TARGET, "trip", "waits", "--log", log, "--json").output)
    assert [(each["what"], each["receiver"], each["key"]) for each in waits["steps"]] == [
        ("require", "hotel.book", "of-waits"), ("signal", "Confirm", "")
    ]  # fmt: skip
    assert waits["steps"][0]["undo"].startswith("if it has to be: hotel 'of-waits'")
    with system.start(log) as running:
        running.client.tell(Trip.confirm, "waits", Confirm(by="eve"))
        running.settle()
        assert {each.key: each.phase for each in running.sagas()}["waits"] == "done"
    over = run("sagas", "show", TARGET, "trip", "waits", "--log", log).output
    for text in ("done for", 'outcome: {"type": "Planned", "by": "eve"}', "pivot", "it stands", "to-waits"):
        assert text in over
    for entity, key, sentence in (
        ("trip", "never", "there is no trip 'never'"),
        ("hotel", "of-waits", "hotel is no saga; travel has trip, guide"),
    ):
        refused = run("sagas", "show", TARGET, entity, key, "--log", log)
        assert refused.exit_code == 64
        assert sentence in refused.stderr


def test_an_operator_helps_a_saga_that_is_stuck(log: str) -> None:
    """Each request says how it ended: done, not stuck there, too late, no such saga, nobody there."""
    at = ("--log", log, "--wait", "30")
    nobody = run("sagas", "retry", TARGET, "trip", "sticks", "1", "--log", log, "--wait", "0.1")
    assert nobody.exit_code == 69
    assert "no node of travel is running" in nobody.output
    with working(system, log):
        for arguments, code, text in (
            (("retry", TARGET, "trip", "sticks", "1"), 1, "not stuck at step 1: it is stuck at step 0"),
            (("retry", TARGET, "trip", "waits", "0"), 1, "NotStuck"),
            (("retry", TARGET, "trip", "never", "0"), 1, "NoSuchSaga"),
            (("retry", TARGET, "trip", "sticks", "9" * 20), 2, "less than or equal to"),
            (("cancel", TARGET, "trip", "waits", "--reason", "\udcff"), 64, r"this is not UTF-8: '\udcff'"),
            (("cancel", TARGET, "trip", "sticks", "--reason", "x"), 1, "TooLate"),
            (("amend", TARGET, "trip", "sticks", "0", "{"), 64, "the message is not JSON"),
            (("amend", TARGET, "trip", "sticks", "0", "[]"), 64, "a JSON object with the fields of the undo"),
            (("amend", TARGET, "trip", "sticks", "0", '{"fee": "much"}'), 64, "the message is no Unbook"),
            (("amend", TARGET, "trip", "sticks", "0", '{"type": "Fly"}'), 64, "hotel takes no 'Fly'"),
            (("amend", TARGET, "trip", "sticks", "0", '{"type": ["Unbook"]}'), 64, "hotel takes no ['Unbook']"),
            (("amend", TARGET, "trip", "sticks", "0", '{"trip": "sticks", "Fee": 9}'), 64, "Unbook has no field 'Fee'"),
            (("amend", TARGET, "trip", "sticks", "1", "{}"), 64, "step 1 of trip 'sticks' has no undo"),
            (("skip", TARGET, "trip", "sticks", "0", "--reason", " "), 64, "an undo is skipped with a reason"),
            (("amend", TARGET, "trip", "sticks", "0", '{"trip": "sticks", "fee": 9}'), 0, "as the undo of step 0"),
            (("cancel", TARGET, "trip", "waits", "--reason", "x"), 0, "is cancelled"),
        ):
            done = run("sagas", *arguments, *at)
            assert (done.exit_code, text in (done.output + done.stderr)) == (code, True), done.output + done.stderr
    with system.start(log) as running:
        running.settle()
        assert {each.key: each.phase for each in running.sagas()}["sticks"] == "undone"
        assert running.state(Hotel, "of-sticks") == Hotel(fee=7)


def test_an_undo_is_skipped(log: str) -> None:
    """The saga ends as if it had been undone, and the journal keeps why."""
    with working(system, log):
        done = run("sagas", "skip", TARGET, "trip", "sticks", "0", "--reason", "eve called", "--log", log)
    assert "goes on without the undo of step 0" in done.output
    with system.start(log) as running:
        running.settle()
        assert {each.key: each.phase for each in running.sagas()}["sticks"] == "undone"
        assert running.state(Hotel, "of-sticks") == Hotel(trips=("sticks",), fee=7)
    assert "skipped" in run("tail", "travel.trip.events", "--log", log, "--last", "100").output


def test_status_counts_open_sagas_and_fails_for_a_stuck_one(log: str) -> None:
    """With since when the oldest waits; a saga that waits for a parked key is not stuck, and its key is named."""
    found = json.loads(run("status", TARGET, "--log", log, "--json").output)
    shards = [each for each in found["shards"] if each["entity"] != "hotel"]
    assert sum(each["sagas"] for each in shards) == 5
    assert [key for each in shards for key in each["stuck_sagas"]] == ["sticks"]
    assert all(each["saga_since_ms"] for each in shards if each["sagas"])
    assert "stuck: sticks" in run("status", TARGET, "--log", log).output
    with working(system, log):
        done = run("status", TARGET, "--log", log, "--check")
    assert done.exit_code == 1
    assert done.output == "travel: 1 key is parked: hotel of-hangs; 1 saga is stuck: trip sticks\n"


def test_a_stuck_saga_is_an_incident(caplog: pytest.LogCaptureFixture) -> None:
    """One line says which saga, which step, why, and what to do; each time that it gets stuck."""
    reports: list[Any] = []
    with system.start("memory:") as running:
        running.report = reports.append
        running.client.tell(Trip.plan, "t", Plan(hotel="h", flight="f"))
        running.client.tell(Hotel.ask_fee, "h", AskFee(fee=7))
        running.settle()
        running.client.cancel(Trip, "t")
        running.settle()
    (report,) = (each for each in reports if isinstance(each, IncidentReport))
    assert (report.error, report.outcome) == ("SagaStuck", "stuck")
    assert re.fullmatch(r"trip/\d@\d key 't'", report.where)
    line = next(each.getMessage() for each in caplog.records if "SagaStuck" in each.getMessage())
    assert "hotel 'h' has rejected the undo of step 0: FeeTooLow: asked=7" in line
    assert "repertory sagas retry|skip|amend" in line
    assert "\n" not in line


def test_a_saga_is_readable_in_the_log_and_as_a_state(log: str) -> None:
    """What is kept as bytes within it is shown as what it says."""
    lines = run("tail", "travel.trip.events", "--log", log, "--last", "100").output
    assert '"command": {"type": "Plan", "hotel": "of-sticks"' in lines
    assert '"value": {"type": "Booked", "trip": "sticks"}' in lines
    found = json.loads(run("state", TARGET, "trip", "sticks", "--log", log).output)["state"]["progress"]
    assert found["outcome"] == {"type": "repertory.cancelled", "reason": "rain"}
    assert found["steps"][0]["undo"]["message"] == {"type": "Unbook", "trip": "sticks", "fee": 0}


def test_a_start_that_is_parked_is_listed(tmp_path: Path) -> None:
    """Nothing of it has happened, and somebody may wait for it."""
    url = f"sqlite:{tmp_path / 'travel.db'}"
    with system.start(url) as running:
        running.client.tell(Trip.plan, "t", Plan(hotel="", flight="f"))
        running.settle()
    (found,) = listed(url).values()
    assert (found["phase"], found["stash"]["reason"]) == ("new", "a trip without a hotel")


def test_an_undo_that_is_answered_instead_of_parked_leaves_a_stuck_saga(tmp_path: Path) -> None:
    """``restart(asked="answer")``: it is a dead letter, and to have that applied later answers nobody."""
    url = f"sqlite:{tmp_path / 'answering.db'}"
    with answering.start(url) as running:
        running.client.tell(Trip.plan, "t", Plan(hotel="of-hangs", flight="f"))
        running.settle()
        trips.BROKEN.add("of-hangs")
        running.client.cancel(Trip, "t")
        running.settle()
        (saga,) = running.sagas()
        assert (saga.phase, saga.stuck) == ("stuck", "Undelivered: RuntimeError: the till is broken")
    (letter,) = json.loads(run("dead-letters", "list", ANSWERING, "--log", url, "--json").output)
    assert (letter["answered"], letter["error"]) == (True, "RuntimeError")
    trips.BROKEN.clear()
    with working(answering, url):
        retried = run("dead-letters", "retry", ANSWERING, letter["address"], "--log", url)
        assert "was an ask and was answered with Undelivered" in retried.stderr.replace("\n", " ")
        assert run("dead-letters", "retry", ANSWERING, letter["address"], "--force", "--log", url).exit_code == 0
        assert set(listed(url, target=ANSWERING)) == {"t"}
        by_hand = ("--reason", "the dead letter was retried", "--log", url)
        assert run("sagas", "skip", ANSWERING, "trip", "t", "0", *by_hand).exit_code == 0
    with answering.start(url) as running:
        running.settle()
        assert [each.phase for each in running.sagas()] == ["undone"]
        assert running.state(Hotel, "of-hangs") == Hotel()


def test_a_parked_key_names_the_sagas_that_wait_for_it(log: str) -> None:
    """For the answer to a step, or to an undo."""
    (parked,) = json.loads(run("parked", "list", TARGET, "--log", log, "--json").output)
    assert (parked["key"], parked["asked_by"]) == ("of-hangs", ["trip hangs"])


@pytest.mark.kafka
def test_the_commands_work_on_kafka(kafka_url: str) -> None:
    """One is listed, shown, stuck, amended, and another one cancelled."""
    at = ("--log", kafka_url)
    with on_kafka.start(kafka_url) as running:
        for name in ("sticks", "waits"):
            running.client.tell(Trip.plan, name, Plan(hotel=f"of-{name}", flight=f"to-{name}"))
        running.client.tell(Hotel.ask_fee, "of-sticks", AskFee(fee=7))
        running.settle()
        assert running.client.cancel(Trip, "sticks", reason="rain", timeout_s=60) == Done()
        running.settle()
    found = json.loads(run("sagas", "list", ON_KAFKA, *at, "--json").output)
    assert {each["key"]: each["phase"] for each in found} == {"sticks": "stuck", "waits": "running"}
    with working(on_kafka, kafka_url):
        amended = ("trip", "sticks", "0", '{"trip": "sticks", "fee": 9}', *at, "--wait", "60")
        assert run("sagas", "amend", ON_KAFKA, *amended).exit_code == 0
        cancelled = ("trip", "waits", "--reason", "snow", *at, "--wait", "60")
        assert run("sagas", "cancel", ON_KAFKA, *cancelled).exit_code == 0
    with on_kafka.start(kafka_url) as running:
        running.settle()
        assert {each.key: each.phase for each in running.sagas()} == {"sticks": "undone", "waits": "undone"}
    assert "Booked" in run("sagas", "show", ON_KAFKA, "trip", "waits", *at).output


def test_a_client_cancels_a_saga() -> None:
    """What it has done is undone, and who waits for it is told why; what it cannot be is told in types."""
    with system.start("memory:") as running:
        client = running.client
        assert client.cancel(Trip, "t") == NoSuchSaga()
        client.tell(Trip.plan, "t", Plan(hotel="h", flight="f"))
        running.settle()
        assert client.cancel(Trip, "t", reason="rain") == Done()
        assert client.ask(Trip.plan, "t", Plan(hotel="h", flight="f")) == Cancelled(reason="rain")
        assert client.cancel(Trip, "t") == TooLate(reason="the saga is over")
        assert running.state(Hotel, "h") == Hotel()
        client.tell(Hotel.book, "full", Book(trip="another"))
        client.tell(Trip.plan, "u", Plan(hotel="h", flight="f"))
        client.tell(Trip.confirm, "u", Confirm(by="eve"))
        assert client.ask(Trip.plan, "u", Plan(hotel="h", flight="f")) == Planned(by="eve")
        with pytest.raises(ValueError, match="only sagas can be cancelled"):
            client.cancel(Hotel, "h")  # type: ignore[arg-type]


def test_an_async_client_cancels_a_saga(tmp_path: Path) -> None:
    """As the other one does."""
    url = f"sqlite:{tmp_path / 'travel.db'}"
    with system.start(url) as running:
        running.client.tell(Trip.plan, "t", Plan(hotel="h", flight="f"))
        running.settle()

    async def cancelled() -> object:
        async with client:
            return await client.cancel(Trip, "t", reason="rain", timeout_s=30)

    with working(system, url):
        client = system.async_client(url)
        assert asyncio.run(cancelled()) == Done()
