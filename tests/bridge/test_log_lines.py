"""Log lines: one format, safe for terminals, with the command of the handler that logged; JSON that can be parsed."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from repertory.actors.message import Done, Envelope
from repertory.actors.shard.changelog import ShardId
from repertory.bridge import log_lines
from repertory.bridge.log_lines import Coordinates, JsonLines, LogOptions, TextLines

ENVELOPE = Envelope(17, "a-1\x1b[2J", Done(), b"", (), 0)


class Lines(logging.Handler):
    """Keeps what a formatter makes of each record."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.addFilter(Coordinates())
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture
def logger() -> logging.Logger:
    """Give a logger of its own."""
    made = logging.Logger("shop.till")
    made.setLevel(logging.DEBUG)
    return made


@pytest.fixture
def _in_a_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pretend that a command is in a handler of this thread, in a process of no node, whatever ran here before."""
    monkeypatch.setattr(log_lines._Process, "node", "")
    log_lines.work_as("worker-3")
    log_lines.follow("bank", lambda: (ShardId("account", 2), ENVELOPE))
    yield
    log_lines.work_as("node")
    log_lines.follow("bank", lambda: None)


@contextlib.contextmanager
def at_the_start() -> Iterator[logging.Logger]:
    """Give a root logger without handlers, as a program has it at its start (pytest adds its own to each test)."""
    root, before = logging.root, (logging.root.handlers[:], logging.root.level)
    root.handlers = []
    try:
        yield root
    finally:
        root.handlers = []
        root.setLevel(before[1])
        log_lines.set_up(LogOptions())  # Forgets the handler of the test.
        root.handlers = before[0]
        root.setLevel(before[1])


@pytest.mark.usefixtures("_in_a_handler")
def test_a_line_of_text_names_its_command(logger: logging.Logger) -> None:
    """Time, worker, level, logger, message, and the command; nothing in it acts on a terminal."""
    lines = Lines(TextLines())
    logger.addHandler(lines)
    logger.info("charging %s", "3\x1b]0;owned\x07")
    time, _, rest = lines.found[0].partition(" ")
    assert time.endswith("Z")
    assert rest == ("worker-3 INFO shop.till: charging 3\\x1b]0;owned\\x07 [bank account/2@17 key 'a-1\\x1b[2J']")


@pytest.mark.usefixtures("_in_a_handler")
def test_only_the_first_line_of_an_entry_begins_in_the_first_column(logger: logging.Logger) -> None:
    """A message or a traceback with line breaks cannot pass for another entry."""
    lines = Lines(TextLines())
    logger.addHandler(lines)
    try:
        int("no\n2026-01-01T00:00:00.000Z worker-0 ERROR shop: a forgery")
    except ValueError:
        logger.exception("first\r\n2026-01-01T00:00:00.000Z worker-0 ERROR shop: a forgery")
    first, *rest = lines.found[0].split("\n")
    assert "ERROR shop.till: first\\r [bank" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)


@pytest.mark.usefixtures("_in_a_handler")
def test_a_json_line_can_be_parsed(logger: logging.Logger) -> None:
    """Coordinates are fields; what is given as ``extra`` is kept apart and displaces none of them."""
    lines = Lines(JsonLines())
    logger.addHandler(lines)
    logger.warning("charging\n%s", "\x1b\x7f\u2028\ud800", extra={"key": "mine", "card": object, "offset": 17})
    (line,) = lines.found
    assert line.isprintable()
    found = json.loads(line)
    assert found.pop("time").endswith("Z")
    assert found.pop("extra") == {"key": "mine", "card": "<class 'object'>"}
    assert found == {
        "level": "WARNING",
        "logger": "shop.till",
        "node": "",
        "worker": "worker-3",
        "message": "charging\n\x1b\x7f\u2028\ud800",
        "system": "bank",
        "entity": "account",
        "partition": 2,
        "offset": 17,
        "key": "a-1\x1b[2J",
    }


@pytest.mark.usefixtures("_in_a_handler")
def test_a_format_of_the_user_can_name_the_coordinates(logger: logging.Logger) -> None:
    """``%(key)s`` and the others exist in each record, and are what the caller gave as ``extra`` if it did."""
    lines = Lines(logging.Formatter("%(worker)s %(system)s %(entity)s %(partition)s %(offset)s %(key)s|%(message)s"))
    logger.addHandler(lines)
    logger.info("one")
    logger.info("two", extra={"key": "mine"})
    log_lines.follow("bank", lambda: None)
    logger.info("three")
    assert lines.found == [
        "worker-3 bank account 2 17 a-1\x1b[2J|one",
        "worker-3 bank account 2 17 mine|two",
        "worker-3     |three",
    ]


@pytest.mark.usefixtures("_in_a_handler")
def test_another_thread_handles_no_command(logger: logging.Logger) -> None:
    """What a thread of the application logs meanwhile has nothing to do with the command."""
    lines = Lines(TextLines())
    logger.addHandler(lines)
    thread = threading.Thread(target=logger.info, args=("in the background",))
    thread.start()
    thread.join()
    assert lines.found[0].endswith("INFO shop.till: in the background")


def test_debug_lines_are_logged_if_asked_for() -> None:
    """By default INFO and above of every logger; with ``verbose`` DEBUG too."""
    with at_the_start() as root:
        log_lines.set_up(LogOptions())
        assert logging.getLogger("shop").getEffectiveLevel() == logging.INFO
        log_lines.set_up(LogOptions(verbose=True))
        assert logging.getLogger("shop").getEffectiveLevel() == logging.DEBUG
        assert len(root.handlers) == 1


def test_a_program_that_logs_keeps_its_logging() -> None:
    """An application that has set up logging itself is not touched: neither its handlers nor its level."""
    mine = Lines(TextLines())
    with at_the_start() as root:
        root.addHandler(mine)
        root.setLevel(logging.ERROR)
        log_lines.set_up(LogOptions(verbose=True, format="json"))
        assert root.handlers == [mine]
        assert root.level == logging.ERROR


BAD = {
    "missing.json": (None, "No such file"),
    "half.json": ('{"version": 1', "JSONDecodeError"),
    "list.json": ("[1]", "it is not a JSON object"),
    "version.json": ("{}", "version"),
    "handler.json": (
        '{"version": 1, "handlers": {"x": {"class": "shop.Missing"}}, "root": {"handlers": ["x"]}}',
        "shop",
    ),
    "empty.ini": ("", "empty.ini"),
    "half.ini": ("[loggers]\nkeys=root\n", "KeyError"),
    "bytes.ini": ("\x00\ud800", "UnicodeDecodeError"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_configuration_that_cannot_be_used_is_a_sentence(name: str, tmp_path: Path) -> None:
    """It names the file, and what is wrong with it."""
    text, words = BAD[name]
    if text is not None:
        (tmp_path / name).write_bytes(text.encode("utf-8", "surrogatepass"))
    with at_the_start(), pytest.raises(ValueError, match=r"the logging configuration .* cannot be used") as refused:
        log_lines.set_up(LogOptions(config=str(tmp_path / name)))
    assert name in str(refused.value)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    """A file says all itself."""
    file = str(tmp_path / "x.json")
    for options in (LogOptions(verbose=True, config=file), LogOptions(format="json", config=file)):
        with pytest.raises(ValueError, match="leave out --verbose and --log-format"):
            log_lines.set_up(options)
    with pytest.raises(ValueError, match="text or json, not 'xml'"):
        log_lines.set_up(LogOptions(format="xml"))  # type: ignore[arg-type]


def test_a_configuration_silences_no_logger_that_it_does_not_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``dictConfig`` disables all existing loggers by default: ours among them, and with them all failures."""
    config = {
        "version": 1,
        "formatters": {"mine": {"format": "MINE %(worker)s %(message)s"}},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "mine", "stream": "ext://sys.stdout"}},
        "root": {"handlers": ["out"], "level": "INFO"},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    ours = logging.getLogger("repertory")
    with at_the_start():
        log_lines.set_up(LogOptions(config=str(tmp_path / "log.json")))
        assert not ours.disabled
        ours.warning("still here")
    assert capsys.readouterr().out == "MINE node still here\n"
