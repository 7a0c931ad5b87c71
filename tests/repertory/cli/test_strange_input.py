"""What strangers write and what newcomers type: nothing reaches a terminal raw, nothing is a traceback."""

from __future__ import annotations

import json
import os
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import Self

import pytest
from typer.testing import CliRunner

from repertory import (
    ActorSystem,
    Cancelled,
    Command,
    Directive,
    Entity,
    Event,
    Saga,
    SagaContext,
    Undelivered,
    command,
    event,
    restart,
    run,
    signal,
)
from repertory.bridge.log.connect import connect
from repertory.bridge.log.record import Output
from repertory.bridge.system.system import load_system
from repertory.bridge.system.target import TargetError
from repertory.bridge.text import printable_json
from repertory.cli.app import app
from repertory.cli.shared import PlainConsole

#: Escape sequences (CSI, OSC), C1 controls, delete, right-to-left override, line and paragraph separators, a tag that
#: is no character, and rich's markup.
EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\u202eoverride\u2028line\u2029\U000e0001\ufeff[bold]bold[/bold]"


class Say(Command):
    """Say a text, or fail with it."""

    text: str
    fails: bool = False


class Said(Event):
    """A text was said."""

    text: str


class Greet(Command):
    """Greet with a text."""

    text: str


class Goodbye(Command):
    """Say goodbye with a text."""

    text: str


class Refused(Exception):
    """The handler fails."""


class Talker(Entity):
    """Says texts."""

    last: str = ""

    @command
    def say(self, cmd: Say) -> Said:
        """Say it."""
        if cmd.fails:
            raise Refused(cmd.text)
        return Said(text=cmd.text)

    @event
    def said(self, evt: Said) -> Self:
        """Keep the last text."""
        return self.replace(last=evt.text)


class Chat(Saga):
    """Has something said, and waits for more."""

    more = signal(Goodbye)

    @run
    async def chat(self, cmd: Greet, ctx: SagaContext) -> Said | Undelivered | Cancelled:
        """Ask two talkers: one talks, the other one is parked."""
        unsay = ctx.call(Talker.say, EVIL, Say(text=cmd.text))
        await ctx.require(Talker.say, EVIL, Say(text=cmd.text), undo=unsay)
        await ctx.ask(Talker.say, f"parked {EVIL}", Say(text=cmd.text), undo=None, about=cmd.text[:20])
        return Said(text=(await ctx.signal(Goodbye)).text)


def raw_in(text: str) -> set[str]:
    """Return the characters of a text that a terminal would interpret."""
    return {c for c in text if not c.isprintable() and c != "\n"}


@pytest.mark.parametrize("text", [EVIL, EVIL * 50, "plain", "Zürich 東京 🏦"])
def test_a_console_prints_no_control_character(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Text is printed as it is, but for what a terminal would interpret, and markup is text."""
    console = PlainConsole(highlight=False, width=10_000)
    console.print(text)
    console.show_json({"key": text, "list": [text]})
    shown = capsys.readouterr().out
    assert not raw_in(shown)
    assert "[bold]" in shown or "[bold]" not in text
    assert json.loads(shown[shown.index("{") :]) == {"key": text, "list": [text]}
    if text.isprintable():
        assert shown.startswith(text)


def test_json_stays_json() -> None:
    """Escaped JSON decodes to the same text, for every character, surrogates included."""
    for point in (*range(0x300), *range(0x2000, 0x2100), 0xD800, 0xFEFF, 0xFFFF, 0xE0001, 0x1F3E6):
        escaped = printable_json(json.dumps(chr(point), ensure_ascii=False))
        assert json.loads(escaped) == chr(point)
        assert escaped.isprintable()


@pytest.fixture
def strange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of a log with strange keys, values, headers and failures; the target is ``strange_app:system``."""
    system = ActorSystem("strange")
    system.host(Talker, partitions=2, supervise=restart(on={Refused: Directive.STOP}))
    system.host(Chat, partitions=1)
    module = type(sys)("strange_app")
    module.system = system  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "strange_app", module)
    url = f"sqlite:{tmp_path}/strange.db"
    with system.start(url) as running:
        running.client.tell(Talker.say, EVIL, Say(text=EVIL))
        running.client.tell(Talker.say, f"parked {EVIL}", Say(text=EVIL, fails=True))
        running.client.tell(Chat.chat, EVIL, Greet(text=EVIL))
        running.client.tell(Chat.more, EVIL, Goodbye(text=EVIL))
        with closing(connect(url)) as backend, closing(backend.appender()) as appender:
            headers = (("message-id", EVIL.encode()), (EVIL, b"\x1b\xff"))
            appender.append([Output("strange.talker.commands", 0, EVIL.encode(), EVIL.encode(), headers)])
            backend.ensure([system.incidents_spec()])
            appender.append([Output("strange.incidents", 0, EVIL.encode(), b"\x1b[31m")])
        running.settle()
    return url


COMMANDS = [
    ("tail", "strange.talker.commands"), ("tail", "strange.talker.events"), ("tail", "strange.dead-letters"),
    ("tail", "strange.incidents"), ("status", "strange_app:system"),
    ("status", "strange_app:system", "--json"), ("state", "strange_app:system", "talker", EVIL),
    ("parked", "list", "strange_app:system"), ("parked", "show", "strange_app:system", "talker", f"parked {EVIL}"),
    ("parked", "show", "strange_app:system", "talker", EVIL), ("parked", "show", "strange_app:system", EVIL, EVIL),
    ("dead-letters", "list", "strange_app:system"), ("dead-letters", "show", "strange_app:system", "0@0"),
    ("dead-letters", "show", "strange_app:system", EVIL), ("verify", "strange_app:system"), ("tail", EVIL),
    ("sagas", "list", "strange_app:system"), ("sagas", "show", "strange_app:system", "chat", EVIL),
    ("sagas", "show", "strange_app:system", "chat", EVIL, "--json"), ("sagas", "show", "strange_app:system", EVIL, "k"),
    ("sagas", "amend", "strange_app:system", "chat", EVIL, "0", json.dumps({"type": EVIL})),
    ("sagas", "cancel", "strange_app:system", "chat", EVIL, "--reason", EVIL, "--wait", "0.1"),
    ("tail", "strange.chat.events"), ("state", "strange_app:system", "chat", EVIL), ("check", "strange_app:system"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:2]))
def test_no_command_prints_what_a_terminal_interprets(strange: str, arguments: tuple[str, ...]) -> None:
    """Keys, values, headers, reasons and arguments are escaped in tables, lines and JSON."""
    done = CliRunner().invoke(app, [*arguments, "--log", strange])
    assert done.output
    assert not raw_in(done.output)
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_one_unreadable_record_hides_no_node(strange: str) -> None:
    """A record of the incidents topic that is no status is named and skipped."""
    done = CliRunner().invoke(app, ["status", "strange_app:system", "--log", strange])
    assert done.exit_code == 0
    assert "strange.incidents/0@0 is not the status of a node and was skipped" in done.output
    assert "talker" in done.output


@pytest.mark.parametrize("key", [b"\0shard", b"\0stash/7"])
def test_one_unreadable_shard_hides_no_other(strange: str, key: bytes) -> None:
    """Bytes that are no record of ours in one shard's topics: its row says so, and the command goes on."""
    with closing(connect(strange)) as backend, closing(backend.appender()) as appender:
        appender.append([Output("strange.talker.state", 0, key, b"\x1b[31m")])
    done = CliRunner().invoke(app, ["status", "strange_app:system", "--log", strange], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output
    assert "cannot be read" in done.output
    assert "talker/1" in done.output
    assert not raw_in(done.output)


def test_help_keeps_its_brackets() -> None:
    """Defaults in brackets are text, not markup."""
    assert "[the host name]" in CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "200"}).output


def test_a_log_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Whatever the umask: the log, and the files that SQLite adds, hold the data of the application."""
    before = os.umask(0)
    try:
        with closing(connect(f"sqlite:{tmp_path}/own.db")) as backend:
            backend.ensure([ActorSystem("own").incidents_spec()])
            with closing(backend.reader()) as reader:
                reader.bounds("own.incidents", 0)
                files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert "own.db" in files
    assert set(files.values()) == {0o600}


# --- targets ------------------------------------------------------------------------------------------------------

GOOD = "from repertory import ActorSystem\nsystem = ActorSystem('typed')\n"


@pytest.mark.parametrize(
    "target", ["bank:system", "./bank:system", "./bank.py:system", "{}/bank:system", "./pack:system"]
)
def test_what_a_shell_completes_is_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A module, a file, a path without its suffix, and the folder of a package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "bank.py").write_text(GOOD, encoding="utf-8")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text(GOOD, encoding="utf-8")
    for name in ("bank", "pack"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert load_system(target.format(tmp_path)).name == "typed"


@pytest.mark.parametrize(
    "target",
    [".:system", "..:system", "..x:y", "./:system", "/:system", "./none:system", ".bank:system", "a..b:system"],
)
def test_what_is_no_target_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    """A path that leads nowhere, and the begin of a relative import."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TargetError, match=r"module:system|no module"):
        load_system(target)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("import os\nos.environ['NOT_SET_ANYWHERE']\n", r"KeyError: 'NOT_SET_ANYWHERE' \(.*broken\.py, line 2\)"),
        ("x = (\n", r"SyntaxError: .* \(.*broken\.py, line 1\)"),
        ("import no_such_package\n", r"ModuleNotFoundError: No module named 'no_such_package' \(.*line 1\)"),
        ("raise SystemExit(3)\n", r"SystemExit: 3 \(.*broken\.py, line 1\)"),
        ("def f():\n    raise OSError(2, 'gone')\nf()\n", r"FileNotFoundError: .* \(.*broken\.py, line 2\)"),
    ],
)
@pytest.mark.parametrize("target", ["broken:system", "./broken.py:system"])
def test_a_module_that_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, source: str, sentence: str
) -> None:
    """The sentence has the type, the message, the file and the line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    (tmp_path / "broken.py").write_text(source, encoding="utf-8")
    with pytest.raises(TargetError, match=sentence):
        load_system(target)
