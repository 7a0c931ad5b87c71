"""``repertory sagas``: list sagas, show one with its steps, cancel it, and help one whose undo was rejected."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from repertory.actors.message import Done
from repertory.bridge.system.open_sagas import OpenSaga
from repertory.cli.operate import AsJson, Key, Wait, print_skipped, shortened
from repertory.cli.shared import (
    EX_UNAVAILABLE,
    KafkaConfig,
    LogUrl,
    Target,
    TextTable,
    console,
    operating,
)
from repertory.inspect.nodes import age
from repertory.inspect.readable import readable
from repertory.inspect.sagas import awaited, needs_operator, shown_saga, shown_step, trouble
from repertory.operate.sagas import Outcome, SagaOperator, Unanswered

sagas = typer.Typer(
    name="sagas", help="Sagas: what each waits for, and what to do.", no_args_is_help=True, rich_markup_mode=None
)

Entity = Annotated[str, typer.Argument(help="The saga's name, as in transfer.")]
Step = Annotated[
    int, typer.Argument(min=0, max=(1 << 31) - 1, help="The step whose undo was rejected, as show has it.")
]


@sagas.command("list")
def list_sagas(
    target: Target,
    log: LogUrl,
    entity: Annotated[str | None, typer.Option(help="Only those of this saga class, as in transfer.")] = None,
    stuck: Annotated[bool, typer.Option("--stuck", help="Only those that wait for an operator.")] = False,
    over: Annotated[
        bool, typer.Option("--all", help="Also those that are over, while their results are kept.")
    ] = False,
    cycles: Annotated[bool, typer.Option("--cycles", help="Only who waits for whom in a circle.")] = False,
    first: Annotated[int, typer.Option(min=1, help="How many are shown, those that wait longest first.")] = 100,
    as_json: AsJson = False,
    kafka_config: KafkaConfig = None,
) -> None:
    """List the open sagas, those that wait longest first: what they do, and what they wait for.

    --cycles shows keys that wait for each other: only a cancel, or an answer from outside, ends that. Exits 1 if there
    are some.
    """
    with operating(SagaOperator, target, log, kafka_config) as operator:
        found = operator.sagas()
        rounds = operator.cycles(found) if cycles else []
        skipped = operator.skipped
    print_skipped(skipped)
    if cycles:
        _print_cycles(rounds, as_json=as_json)
        raise typer.Exit(1 if rounds else 0)
    found = [
        each for each in found
        if entity in (None, each.entity) and (over or not each.is_over) and (not stuck or needs_operator(each))
    ]  # fmt: skip
    found.sort(key=lambda each: each.since_ms)
    if as_json:
        console.show_json([shown_saga(each) for each in found[:first]])
        return
    now_ms = time.time_ns() // 1_000_000
    table = TextTable("saga", "key", "phase", "version", "since", "waits for", "trouble")
    for each in found[:first]:
        since, waits = age(now_ms - each.since_ms), "\n".join(awaited(wait, now_ms) for wait in each.waits)
        version = str(each.progress.version) + (f", run {each.progress.runs + 1}" if each.progress.runs else "")
        table.row(each.entity, shortened(each.key.encode()), each.phase, version, since, waits, trouble(each))
    console.print(table)
    if len(found) > first:
        console.print(f"and {len(found) - first:,} more; --first shows more of them")


def _print_cycles(rounds: list[list[tuple[str, str]]], *, as_json: bool) -> None:
    if as_json:
        console.show_json([[{"entity": entity, "key": key} for entity, key in each] for each in rounds])
        return
    for each in rounds:
        console.print(" waits for ".join(f"{entity} {key!r}" for entity, key in each), soft_wrap=True)
    if not rounds:
        console.print("no keys wait for each other")


@sagas.command("show")
def show_saga(
    target: Target, entity: Entity, key: Key, log: LogUrl, as_json: AsJson = False, kafka_config: KafkaConfig = None
) -> None:
    """Show a saga: its steps with their answers, what it waits for and since when, and what undoes them.

    Of one that is over, the steps are shown as long as the journal has them.
    """
    with operating(SagaOperator, target, log, kafka_config) as operator:
        found = operator.find(entity, key)
    if as_json:
        console.show_json({**shown_saga(found), "steps": [shown_step(found, each) for each in found.progress.steps]})
        return
    _print_saga(found)
    table = TextTable("step", "what", "receiver", "key", "begun", "took", "result", "undo")
    for step in found.progress.steps:
        shown = shown_step(found, step)
        names = ("step", "what", "receiver", "key", "begun", "took", "result", "undo")
        table.row(*(shown[name] for name in names))
    console.print(table)


def _print_saga(found: OpenSaga) -> None:
    now_ms, shown = time.time_ns() // 1_000_000, shown_saga(found)
    lines = [
        f"{found.entity} {found.key!r}: {found.phase} for {age(now_ms - found.since_ms)}, version {shown['version']}"
        + (f", begun {shown['begun']}" if shown["begun"] else ""),
        *([f"started by: {shown['command']}"] if shown["command"] else []),
        *(f"waits for: {awaited(each, now_ms)}" for each in found.waits),
        *(f"unread signal: {readable(each.value)}" for each in found.progress.signals),
    ]
    if shown["outcome"]:
        lines.append(f"outcome: {shown['outcome']}")
    if said := trouble(found):
        lines.append(f"trouble: {said}")
    for line in lines:
        console.print(line, soft_wrap=True)


@sagas.command("cancel")
def cancel_saga(
    target: Target,
    entity: Entity,
    key: Key,
    log: LogUrl,
    reason: Annotated[str, typer.Option(help="The reason; who waits for the saga is told it.")],
    wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:
    """Cancel a saga: it answers Cancelled once what it has done is undone, and says so here when it begins to.

    Exits 1 if it is too late or there is no such saga, and 69 if no answer came after --wait; the request stays in the
    log.
    """
    with operating(SagaOperator, target, log, kafka_config) as operator:
        outcome = operator.cancel(entity, key, reason, wait)
    _print_outcome(f"{entity} {key!r}", "is cancelled; what it has done is undone now", outcome, wait)


@sagas.command("retry")
def retry_undo(
    target: Target, entity: Entity, key: Key, step: Step, log: LogUrl, wait: Wait = 30.0,
    kafka_config: KafkaConfig = None,
) -> None:  # fmt: skip
    """Send the undo again at which a saga is stuck. Exits 1 if it is not stuck there, 69 if no answer came."""
    with operating(SagaOperator, target, log, kafka_config) as operator:
        outcome = operator.retry(entity, key, step, wait)
    _print_outcome(f"{entity} {key!r}", f"sends the undo of step {step} again", outcome, wait)


@sagas.command("skip")
def skip_undo(
    target: Target, entity: Entity, key: Key, step: Step, log: LogUrl,
    reason: Annotated[str, typer.Option(help="Who has seen to it, and how; the journal keeps it.")],
    wait: Wait = 30.0, kafka_config: KafkaConfig = None,
) -> None:  # fmt: skip
    """Go on without the undo at which a saga is stuck. Exits 1 if it is not stuck there, 69 if no answer came."""
    with operating(SagaOperator, target, log, kafka_config) as operator:
        outcome = operator.skip(entity, key, step, reason, wait)
    _print_outcome(f"{entity} {key!r}", f"goes on without the undo of step {step}", outcome, wait)


@sagas.command("amend")
def amend_undo(
    target: Target, entity: Entity, key: Key, step: Step,
    message: Annotated[str, typer.Argument(metavar="JSON", help='The fields of the undo\'s message: {"amount": 5}.')],
    log: LogUrl, wait: Wait = 30.0, kafka_config: KafkaConfig = None,
) -> None:  # fmt: skip
    """Send another message to the same receiver as the undo of a step at which a saga is stuck.

    "type" in the JSON is the message's name; without it, that of the recorded message. Exits 1 if the saga is not stuck
    there, and 69 if no answer came.
    """
    with operating(SagaOperator, target, log, kafka_config) as operator:
        outcome = operator.amend(entity, key, step, message, wait)
    _print_outcome(f"{entity} {key!r}", f"sends this as the undo of step {step}", outcome, wait)


def _print_outcome(what: str, done: str, outcome: Outcome, wait_s: float) -> None:
    """Say how a request ended, and leave with the exit code that a script can use."""
    match outcome:
        case Done():
            console.print(f"{what} {done}", soft_wrap=True)
            return
        case Unanswered(why=why):
            console.print(
                f"{what} has not answered after {wait_s:g} s: {why}; the request is in the log", soft_wrap=True
            )
            raise typer.Exit(EX_UNAVAILABLE)
        case _:
            why = getattr(outcome, "reason", "") or "it was never started, or is forgotten"
            console.print(f"{what}: {type(outcome).__name__}: {why}; nothing has changed", soft_wrap=True)
            raise typer.Exit(1)
