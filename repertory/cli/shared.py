"""Shared by the commands of ``repertory``: their arguments, their tables, and one sentence for each error."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from repertory.actors.message import DefinitionError
from repertory.actors.wire import DecodeError
from repertory.bridge.log.connect import connect, read_kafka_config
from repertory.bridge.log.errors import LogError, LogUnavailable
from repertory.bridge.log.port import Backend
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem, load_system
from repertory.bridge.system.target import TargetError
from repertory.bridge.text import one_line, printable_json
from repertory.bridge.topics import schemas_topic, source_specs


class PlainConsole(Console):
    """The only way of the commands to a terminal: text as it is, with what a terminal would interpret escaped.

    Names, keys, values and reasons come from messages and handlers, and may hold control sequences or rich's markup.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print text without markup, and tables. See ``rich.console.Console.print``."""
        super().print(*(_plain(thing) if isinstance(thing, str) else thing for thing in objects), **options)

    def show_json(self, shown: object) -> None:
        """Print a value as indented JSON; what JSON does not know is printed as ``repr``."""
        text = json.dumps(msgspec.to_builtins(shown, str_keys=True, enc_hook=repr), indent=2, ensure_ascii=False)
        super().print(Text(printable_json(text)), soft_wrap=True)


console = PlainConsole(highlight=False)
errors = PlainConsole(stderr=True, highlight=False)

#: Exit codes of sysexits.h, so that a script knows whether to correct the call or the code, or to wait.
EX_USAGE, EX_UNAVAILABLE, EX_SOFTWARE = 64, 69, 70

Target = Annotated[
    str, typer.Argument(metavar="MODULE:SYSTEM", help="Where the system is, as in examples.banking:system.")
]
LogUrl = Annotated[
    str, typer.Option("--log", envvar="REPERTORY_LOG", help="memory:, sqlite:PATH or kafka://host:port[,host:port…]")
]
HandlerOutput = Annotated[
    bool, typer.Option("--handler-output", help="Show what handlers log and print while they decide again.")
]
KafkaConfig = Annotated[
    Path | None, typer.Option(help="librdkafka settings, key=value lines: passed through, or refused with the reason.")
]


class TextTable(Table):
    """A table of plain text. Cells are not read as markup. Long cells are folded, not cut: they may be addresses.

    Line breaks in a cell are kept; all other control characters are escaped.
    """

    def __init__(self, *names: str, title: str | None = None) -> None:
        columns = (Column(name, overflow="fold") for name in names)
        super().__init__(*columns, title=None if title is None else _plain(title))

    def row(self, *cells: object) -> None:
        """Add a row."""
        self.add_row(*(_plain(str(cell)) for cell in cells))


def _plain(text: str) -> Text:
    return Text("\n".join(map(one_line, text.split("\n"))))


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turn each error that a user can act on into one sentence and a non-zero exit code."""
    try:
        yield
    except LogUnavailable as error:
        code, sentence = EX_UNAVAILABLE, str(error)
    except UnicodeEncodeError as error:
        code, sentence = EX_USAGE, f"this is not UTF-8: {error.object!r:.100}"
    except (LogError, TargetError, DefinitionError, DecodeError, LookupError, ValueError) as error:
        code, sentence = EX_USAGE, str(error)
    else:
        return
    errors.print(f"repertory: {sentence}", soft_wrap=True)
    raise typer.Exit(code)


def configured(target: str) -> ActorSystem:
    """Import a system, with the settings of this environment and directory. See ``load_system`` for the errors."""
    return load_system(target).configured()


@contextlib.contextmanager
def opened(
    log: str,
    kafka_config: Path | None,
    settings: Settings,
    *,
    system: ActorSystem | None = None,
    may_be_new: bool = False,
) -> Iterator[Backend]:
    """Open a log, and close it afterwards.

    Raises LookupError if it is a file that does not exist, unless it ``may_be_new``, or if ``system`` never ran on it.
    """
    backend = connect(log, settings, read_kafka_config(None if kafka_config is None else str(kafka_config)))
    try:
        if not may_be_new:
            _check_file(log)
        found = backend.topics()
        if system is not None:
            _check_topics(system, log, found)
        yield backend
    finally:
        backend.close()


class _Operates(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Operates)


@contextlib.contextmanager
def operating(
    make: Callable[[ActorSystem, Backend], T], target: str, log: str, kafka_config: Path | None
) -> Iterator[T]:
    """Give an operator of a system on a log; an error of theirs is a sentence and an exit code."""
    with sentences():
        system = configured(target)
        with (
            opened(log, kafka_config, system.settings, system=system) as backend,
            contextlib.closing(make(system, backend)) as operator,
        ):
            yield operator


def _check_file(log: str) -> None:
    """Refuse a path that leads nowhere: to open it would make an empty log, in which nothing is wrong."""
    scheme, _, path = log.partition(":")
    if scheme == "sqlite":
        with contextlib.suppress(PermissionError):  # The log itself says so, with the remedy.
            if not Path(path).exists():
                raise LookupError(f"there is no log {log}: {Path(path).absolute()} does not exist")


def _check_topics(system: ActorSystem, log: str, found: Mapping[str, int]) -> None:
    # The catalogue may be missing, which a version before this one did not make, and what a first source needs.
    optional = {schemas_topic(system.name), *(spec.name for spec in source_specs(system.name))}
    missing = [spec.name for spec in system.topic_specs() if spec.name not in found and spec.name not in optional]
    if missing:
        raise LookupError(
            f"{log} has no topic {missing[0]!r}: the system {system.name} never ran there; repertory topics shows what "
            "it needs"
        )
