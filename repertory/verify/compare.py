"""Compare the records that a command produced with those it must have produced, and describe each difference."""

from __future__ import annotations

from repertory.actors.context import OutputRefused
from repertory.bridge.log.record import Record
from repertory.supervision.directive import qualified_name
from repertory.verify.findings import Finding, Findings
from repertory.verify.gather import DeadLetterEntry
from repertory.verify.produced import Made, Targets


def equal(made: list[Made], expected: list[Made]) -> bool:
    """Whether the same outputs are in the same partitions."""
    return len(made) == len(expected) and all(a[:3] == b[:3] for a, b in zip(made, expected, strict=True))


def events_of(targets: Targets, made: list[Made]) -> list[tuple[int, int]]:
    """Return the events of a command: its outputs outside the topics that shards share."""
    return [(each.nth, each.digest) for each in made if each.target not in targets.lows]


def explain(targets: Targets, findings: Findings, record: Record, made: list[Made], due: list[Made], what: str) -> None:
    """Compare output by output, and record those that differ."""
    found, expected = ({each.nth: each for each in side} for side in (made, due))
    for index in sorted(found.keys() | expected.keys()):
        if index not in found:
            target = expected[index].target
            if targets.is_cut(target):
                findings.atomicity.unverifiable += 1
            else:
                findings.atomicity.wrong(record, f"lacks output {index} of {what}, to {targets.name(target)}")
        elif index not in expected:
            findings.decisions.wrong(
                targets.place(found[index]),
                f"is output {index} of command {record.offset}, which {what} does not produce",
            )
        elif found[index][1:3] != expected[index][1:3]:
            findings.decisions.wrong(
                targets.place(found[index]),
                f"differs from output {index} of command {record.offset} as {what} produces it",
            )


_GIVEN_UP = ("Quarantined", qualified_name(OutputRefused))


def is_given_up(dead: list[DeadLetterEntry]) -> bool:
    """Whether a command was dead-lettered although its handler passed: an earlier attempt may have sent outputs.

    It crashed processes, or the log refused one of its outputs.
    """
    return any(letter.error in _GIVEN_UP for letter in dead)


def without_doubles(targets: Targets, findings: Findings, made: list[Made], *, again: bool) -> list[Made]:
    """Return each output of a command once, and record duplicates. ``again``: equal duplicates are allowed."""
    kept: list[Made] = []
    for each in made:
        if again and kept and kept[-1][:3] == each[:3]:
            continue
        if kept and kept[-1].nth == each.nth:
            first = targets.place(kept[-1])
            findings.duplicates.wrong(
                targets.place(each), f"has the cause of {first.topic}/{first.partition}@{first.offset}"
            )
        else:
            kept.append(each)
    findings.duplicates.looked_at += len(made)
    findings.atomicity.looked_at += len(made)
    return kept


def stray(targets: Targets, findings: Findings, made: list[Made], command: str) -> None:
    """Record outputs whose command is not in the log."""
    for each in made:
        sentence = f"belongs to the command {command}, which is not in the log"
        finding_of(targets, findings, each).wrong(targets.place(each), sentence)


def finding_of(targets: Targets, findings: Findings, made: Made) -> Finding:
    """Return the check for a record's topic."""
    match targets.name(made.target).topic.rsplit(".", 1)[-1]:
        case "commands":
            return findings.tells
        case "replies":
            return findings.replies
        case "dead-letters":
            return findings.dead
    return findings.atomicity
