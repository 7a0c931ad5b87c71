"""Log lines of a node's processes: one format on stderr, with the command that user code was handling.

An application logs as any Python program does, ``logging.getLogger("shop").info(…)``. The node process sets logging up
before it imports the application, and its workers inherit that when they are forked, also those that are started again.
Coordinates cost a command nothing: a line that is logged asks which command is in a handler.
"""

from __future__ import annotations

import json
import logging
import logging.config
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.shard.changelog import ShardId
from repertory.bridge.text import one_line, printable_json

#: Longest key in a line of text. JSON lines have the whole key.
_KEY_CHARS_MAX = 100
#: What every log record has. All else was given as ``extra``.
_STANDARD = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})

LogFormat = Literal["text", "json"]


class LogOptions(msgspec.Struct, frozen=True):
    """How a node logs. ``verbose``: DEBUG lines too, of all loggers. ``config``: a file for ``logging.config``.

    The file says all itself, so it excludes the other two. It is JSON for ``dictConfig``, or an INI file for
    ``fileConfig``.
    """

    verbose: bool = False
    format: LogFormat = "text"
    config: str | None = None

    def arguments(self) -> list[str]:
        """Return the arguments by which the node process gets these options."""
        config = [] if self.config is None else ["--log-config", self.config]
        return [*(["--verbose"] if self.verbose else []), "--log-format", self.format, *config]


LOG_DEFAULTS = LogOptions()


class Handled(NamedTuple):
    """The command that is in a handler now."""

    system: str
    entity: str
    partition: int
    offset: int
    key: str


def _nothing() -> Handled | None:
    return None


class _Process:
    """This process in its log lines."""

    node, worker = "", "node"
    #: The thread that runs handlers, and the command in a handler.
    thread = 0
    handled: Callable[[], Handled | None] = staticmethod(_nothing)
    #: The handler that was installed by `set_up`.
    handler: logging.Handler | None = None


def work_as(worker: str) -> None:
    """Name this process in its log lines."""
    _Process.worker = worker


def follow(system: str, handled: Callable[[], tuple[ShardId, Envelope] | None]) -> None:
    """Name in each line that this thread logs the command that ``handled`` returns (``ShardRegion.handled``)."""

    def named() -> Handled | None:
        if (found := handled()) is None:
            return None
        shard, command = found
        return Handled(system, shard.entity, shard.partition, command.offset, command.key)

    _Process.thread, _Process.handled = threading.get_ident(), staticmethod(named)


def set_up(options: LogOptions, node: str = "") -> None:
    """Log to stderr in one format, or as a file says. Replaces what an earlier call installed.

    A program whose root logger has handlers of its own keeps them. Raises ValueError, one sentence, for options or a
    file that cannot be used.
    """
    if options.format not in get_args(LogFormat):
        raise ValueError(f"the log format is text or json, not {options.format!r}")
    if options.config is not None and (options.verbose or options.format != "text"):
        raise ValueError(f"{options.config} says how to log: leave out --verbose and --log-format")
    _Process.node = node
    if _Process.handler is not None:
        logging.root.removeHandler(_Process.handler)
        _Process.handler = None
    if not logging.root.handlers:
        if options.config is not None:
            _read_config(Path(options.config))
        else:
            _Process.handler = logging.StreamHandler()
            _Process.handler.setFormatter(JsonLines() if options.format == "json" else TextLines())
            logging.root.addHandler(_Process.handler)
            logging.root.setLevel(logging.DEBUG if options.verbose else logging.INFO)
    add_coordinates()


def _read_config(path: Path) -> None:
    """Configure logging from a file. Loggers that exist stay as they are, unless the file says otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json" or text.lstrip().startswith("{"):
            config = json.loads(text)
            if not isinstance(config, dict):
                raise TypeError("it is not a JSON object")  # noqa: TRY301  as what dictConfig raises
            config.setdefault("disable_existing_loggers", False)
            logging.config.dictConfig(config)
        else:
            logging.config.fileConfig(path, disable_existing_loggers=False, encoding="utf-8")
    except Exception as error:  # A configuration names classes of the user, and has expressions in it.
        cause = error if error.__cause__ is None else error.__cause__
        why = f"{error}: {cause}" if cause is not error else str(error)
        raise ValueError(f"the logging configuration {path} cannot be used: {type(cause).__name__}: {why}") from error


def add_coordinates() -> None:
    """Let the lines of all handlers that exist now have coordinates."""
    for handler in handlers():
        if not any(isinstance(each, Coordinates) for each in handler.filters):
            handler.addFilter(Coordinates())


def handlers() -> Iterator[logging.Handler]:
    """Yield the handlers of all loggers, each once."""
    found: dict[int, logging.Handler] = {}
    for logger in (logging.root, *logging.root.manager.loggerDict.values()):
        for handler in getattr(logger, "handlers", ()):
            found[id(handler)] = handler
    if logging.lastResort is not None:
        found[id(logging.lastResort)] = logging.lastResort
    yield from found.values()


class Coordinates(logging.Filter):
    """Adds where a line comes from, for any format: ``%(node)s %(worker)s %(system)s %(entity)s %(partition)s
    %(offset)s %(key)s``. Outside of handlers the last five are empty. What a line has as ``extra`` is kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them, and let the line pass."""
        handled = _Process.handled() if record.thread == _Process.thread else None
        known = vars(record)
        known["repertory"] = handled
        for name, value in (("node", _Process.node), ("worker", _Process.worker)):
            known.setdefault(name, value)
        for name, each in zip(Handled._fields, handled or ("",) * len(Handled._fields), strict=True):
            known.setdefault(name, each)
        return True


class TextLines(logging.Formatter):
    """``TIME WORKER LEVEL LOGGER: MESSAGE [SYSTEM ENTITY/PARTITION@OFFSET key 'KEY']``, in UTC; tracebacks below it.

    Nothing in it acts on a terminal, and only the first line of an entry begins in the first column.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of one entry."""
        first, *rest = record.getMessage().rstrip("\n").split("\n")
        where = ""
        if (handled := handled_of(record)) is not None:
            shard = f"{handled.entity}/{handled.partition}@{handled.offset}"
            where = f" [{handled.system} {shard} key {handled.key!r:.{_KEY_CHARS_MAX}}]"
        head = f"{_time(record)} {_Process.worker} {record.levelname} {record.name}: {first}{where}"
        return "\n    ".join(map(one_line, (head, *rest, *_below(self, record))))


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, node, worker and message; in a handler system, entity, partition,
    offset and key; after an error its traceback; what was given as ``extra``.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        shown: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "node": _Process.node,
            "worker": _Process.worker,
            "message": record.getMessage(),
        }
        if (handled := handled_of(record)) is not None:
            shown |= handled._asdict()
        if trace := _below(self, record):
            shown["traceback"] = "\n".join(trace)
        if extra := _extra(record, handled):
            shown["extra"] = extra
        return printable_json(json.dumps(shown, ensure_ascii=False, default=_text))


def entry(logger: logging.Logger, level: int, line: str, trace: str = "") -> logging.LogRecord:
    """Return a log record of one line. The traceback is where any formatter of ``logging`` prints one: below it.

    Both come from messages and handlers, and nothing in them acts on a terminal.
    """
    record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (one_line(line),), None)
    if trace:
        record.exc_text = "\n".join(map(one_line, trace.splitlines()))
    return record


def handled_of(record: logging.LogRecord) -> Handled | None:
    """Return the command in whose handler a line was logged."""
    found = getattr(record, "repertory", None)
    return found if isinstance(found, Handled) else None


def _extra(record: logging.LogRecord, handled: Handled | None) -> dict[str, Any]:
    """Return what the caller of ``logging`` gave as ``extra``."""
    ours = {"repertory": handled, "node": _Process.node, "worker": _Process.worker}
    ours |= dict.fromkeys(Handled._fields, "") if handled is None else handled._asdict()
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and not (name in ours and value == ours[name])
    }


def _below(formatter: logging.Formatter, record: logging.LogRecord) -> Sequence[str]:
    """Return the lines of the traceback and of the stack that belong to an entry."""
    if record.exc_info and not record.exc_text:
        record.exc_text = formatter.formatException(record.exc_info)
    stack = [formatter.formatStack(record.stack_info)] if record.stack_info else []
    return "\n".join([*([record.exc_text] if record.exc_text else []), *stack]).splitlines()


def _time(record: logging.LogRecord) -> str:
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"


def _text(value: object) -> str:
    """Return a value that JSON does not know as text."""
    try:
        return repr(value)
    except Exception:  # noqa: BLE001  user code
        return f"<{type(value).__name__}>"
