"""``repertory parked`` and ``repertory dead-letters``: list failed commands, and retry or drop them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from repertory.actors.headers import Headers
from repertory.bridge.system.failed import Parked
from repertory.cli.shared import (
    EX_UNAVAILABLE,
    KafkaConfig,
    LogUrl,
    Target,
    TextTable,
    console,
    errors,
    operating,
)
from repertory.inspect.readable import readable, readable_key
from repertory.operate.marks import MarkedDeadLetter
from repertory.operate.operator import Operator
from repertory.operate.outcome import RetryOutcome

parked = typer.Typer(
    name="parked", help="Keys whose first command failed too often.", no_args_is_help=True, rich_markup_mode=None
)
dead_letters = typer.Typer(
    name="dead-letters", help="Commands that were not applied.", no_args_is_help=True, rich_markup_mode=None
)

Entity = Annotated[str, typer.Argument(help="The entity's name, as in account.")]
Key = Annotated[str, typer.Argument(help="The entity's key.")]
Address = Annotated[str, typer.Argument(metavar="PARTITION@OFFSET", help="As list shows it.")]
Wait = Annotated[float, typer.Option("--wait", min=0.1, metavar="SECONDS", help="How long to wait for the outcome.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON, with whole keys and headers.")]

_ASKERS_SHOWN, _KEY_CHARS_SHOWN, _SKIPPED_SHOWN = 3, 60, 5


@parked.command("list")
def list_parked(target: Target, log: LogUrl, as_json: AsJson = False, kafka_config: KafkaConfig = None) -> None:
    """List the parked keys: the failed command, its error, and the number of commands stashed behind it."""
    table = TextTable("entity", "key", "partition@offset", "behind", "asked by", "error", "reason")
    with operating(Operator, target, log, kafka_config) as operator:
        found = list(operator.parked())
        skipped = operator.skipped
    for each in found:
        row = (each.entity, shortened(each.key.encode()), f"{each.partition}@{each.offset}", each.behind)
        table.row(*row, _askers(each), each.record.error, each.record.reason)
    print_skipped(skipped)
    if as_json:
        console.show_json([_shown(each) for each in found])
    else:
        console.print(table)


def shortened(key: bytes | None) -> str:
    """Return a key for a table; ``show`` and ``--json`` have the whole key."""
    text = readable_key(key)
    return text if len(text) <= _KEY_CHARS_SHOWN else f"{text[:_KEY_CHARS_SHOWN]}… ({len(text)} characters)"


def print_skipped(skipped: Sequence[str]) -> None:
    """Print which records could not be read."""
    for sentence in skipped[:_SKIPPED_SHOWN]:
        errors.print(f"repertory: {sentence}; it was skipped", soft_wrap=True)
    if len(skipped) > _SKIPPED_SHOWN:
        errors.print(f"repertory: {len(skipped)} records were skipped", soft_wrap=True)


def _askers(found: Parked) -> str:
    """Return the first that wait for an answer, and how many more there are."""
    more = len(found.askers) - _ASKERS_SHOWN
    return ", ".join(found.askers[:_ASKERS_SHOWN]) + (f" and {more} more" if more > 0 else "")


@parked.command("show")
def show_parked(target: Target, entity: Entity, key: Key, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """Show the command that parked a key, and its failure."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
        skipped = operator.skipped
    print_skipped(skipped)
    console.show_json(_shown(found))


def _shown(found: Parked) -> dict[str, object]:
    return {
        "entity": found.entity,
        "key": found.key,
        "partition": found.partition,
        "offset": found.offset,
        "behind": found.behind,
        "asked_by": found.askers,
        "attempts": found.record.attempt,
        "error": found.record.error,
        "reason": found.record.reason,
        "traceback": found.record.traceback.splitlines(),
        "value": readable(found.record.value),
        "headers": _texts(found.record.headers),
    }


@parked.command("retry")
def retry_parked(
    target: Target, entity: Entity, key: Key, log: LogUrl, wait: Wait = 30.0, kafka_config: KafkaConfig = None
) -> None:
    """Run the commands of a parked key again, in order, exactly once, and say how the first of them ended.

    Exits 1 if it is parked or a dead letter again, and 69 if it still waits after --wait.
    """
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
        outcome = operator.retry(found, wait)
    _print_outcome(f"{found.entity} {found.key!r}, command {found.partition}@{found.offset}", outcome, wait)


@parked.command("drop")
def drop_parked(
    target: Target,
    entity: Entity,
    key: Key,
    log: LogUrl,
    reason: Annotated[str, typer.Option(help="The reason; the dead letter records it.")],
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Dead-letter the first command of a parked key; the commands behind it run."""
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.find_parked(entity, key)
        operator.drop(found, reason, wait)
    console.print(f"{found.entity} {found.key!r}: {found.partition}@{found.offset} is now a dead letter")


@dead_letters.command("list")
def list_dead_letters(target: Target, log: LogUrl, as_json: AsJson = False, kafka_config: KafkaConfig = None) -> None:
    """List the dead letters, oldest first; whether they were retried, and whether their asker was answered."""
    table = TextTable("address", "key", "source", "attempts", "retried", "answered", "error", "reason")
    with operating(Operator, target, log, kafka_config) as operator:
        found = operator.marked(list(operator.dead_letters()))
    for each in found:
        letter = each.letter
        row = (letter.address, shortened(letter.record.key), letter.source, letter.attempts)
        table.row(*row, _times(each), "yes" if each.answered else "", letter.error, letter.reason)
    if as_json:
        console.show_json([_shown_letter(each) for each in found])
    else:
        console.print(table)


def _times(found: MarkedDeadLetter) -> str:
    times = len(found.retried)
    return "" if not times else f"{times} times" if times > 1 else "yes"


@dead_letters.command("show")
def show_dead_letter(target: Target, address: Address, log: LogUrl, kafka_config: KafkaConfig = None) -> None:
    """Show one dead letter: the original command, why it was not applied, and what became of it."""
    with operating(Operator, target, log, kafka_config) as operator:
        (found,) = operator.marked([operator.find_dead_letter(address)])
    console.show_json(_shown_letter(found))


def _shown_letter(found: MarkedDeadLetter) -> dict[str, object]:
    letter = found.letter
    return {
        "address": letter.address,
        "source": letter.source,
        "key": readable_key(letter.record.key),
        "error": letter.error,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "traceback": letter.traceback.splitlines(),
        "retried": found.retried,
        "answered": found.answered,
        "value": readable(letter.record.value),
        "bytes": (letter.record.value or b"").hex(),
        "headers": _texts(letter.headers),
    }


@dead_letters.command("retry")
def retry_dead_letter(
    target: Target,
    address: Address,
    log: LogUrl,
    force: Annotated[bool, typer.Option("--force", help="Also if it was an ask, or was retried before.")] = False,
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Append the command again at the end of its topic, and say how it ended. Nobody receives its reply.

    Exits 1 if it is parked or a dead letter again, and 69 if it still waits after --wait.
    """
    with operating(Operator, target, log, kafka_config) as operator:
        letter = operator.find_dead_letter(address)
        outcome = operator.retry_dead_letter(letter, force=force, wait_s=wait)
    _print_outcome(f"{letter.address} was appended to {letter.source_topic} again and", outcome, wait)


def _print_outcome(what: str, outcome: RetryOutcome, wait_s: float) -> None:
    """Say how a retry ended, and leave with the exit code that a script can use."""
    answer = f": {readable(outcome.reply)}" if outcome.reply else ""
    match outcome.what:
        case "applied" | "rejected":
            ends = f"was {outcome.what}{answer}"
        case "parked":
            ends = f"is parked again: {outcome.why}"
        case "dead-lettered":
            ends = f"is a dead letter again: {outcome.why}"
        case "ignored":
            ends = f"is not parked any more: {outcome.why}"
        case _:
            ends = f"still waits after {wait_s:g} s: {outcome.why}; the request is in the log"
    console.print(f"{what} {ends}", soft_wrap=True)
    if not outcome.is_handled:
        raise typer.Exit(EX_UNAVAILABLE if outcome.what == "waiting" else 1)


def _texts(headers: Headers) -> dict[str, str]:
    return {name: value.decode("utf-8", "backslashreplace") for name, value in headers}
