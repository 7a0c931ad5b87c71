"""The fate of a command whose handler failed. Pure: it depends on the policy, the key's restarts and the attempt."""

from __future__ import annotations

import enum

import msgspec

from repertory.actors.message import Envelope
from repertory.actors.saga.step import NotInBuild
from repertory.actors.shard.changelog import StashedRecord
from repertory.actors.shard.config import ShardConfig
from repertory.actors.shard.restart_budget import RestartBudget
from repertory.actors.shard.turn_result import Incident
from repertory.supervision.directive import Directive, Failure
from repertory.supervision.policy import Judgement, judge


class Fate(enum.Enum):
    """The fate of a failed command; the values are the names of the counted outcomes."""

    ESCALATED = "escalated"
    DEAD_LETTERED = "dead-lettered"
    NO_ROOM = "no-room"
    PARKED = "parked"
    RESTARTED = "restarted"


class Quarantined(Exception):
    """What a saga waits for kills each process that handles it. Its key is parked.

    Nothing raises it: it is the name of the failure. Any other command is dead-lettered then.
    """


#: The longest pause before a command is tried again that this build cannot handle and another can.
NOT_IN_BUILD_PAUSE_MAX_S = 60.0


class FailedCommand(msgspec.Struct, frozen=True):
    """A failure and its fate. ``restarts_ms`` (epoch) are the key's restarts, with this one if it is restarted.

    ``is_in_build``: False if only another build can handle the command; it is tried again without end, and that counts
    as no restart.
    """

    failure: Failure
    fate: Fate
    attempt: int
    delay_s: float
    restarts_ms: tuple[int, ...]
    is_in_build: bool = True

    def stashed(self, envelope: Envelope, now_ms: int) -> StashedRecord:
        """Return the record that keeps the command until its next attempt, or until an operator acts."""
        is_parked, retry = self.fate is Fate.PARKED, envelope.retry
        return StashedRecord(
            key=envelope.key, value=envelope.value, headers=envelope.headers, timestamp_ms=envelope.timestamp_ms,
            attempt=self.attempt if is_parked else self.attempt + 1,
            due_ms=0 if is_parked else now_ms + int(self.delay_s * 1000),
            delay_ms=0 if is_parked else int(self.delay_s * 1000),
            parked=is_parked, error=self.failure.error_type, reason=self.failure.message,
            traceback=self.failure.traceback,
            retry=retry.closed() if is_parked and retry is not None else retry,
        )  # fmt: skip

    def incidents(self, fate: Fate, before: StashedRecord | None) -> list[Incident]:
        """Return the incident for the operator; ``fate`` can be NO_ROOM in place of the judged one.

        ``before``: the record of the command after its last failure. That it waits for another build is said once.
        """
        if not self.is_in_build and before is not None and before.error == self.failure.error_type:
            return []
        match fate:
            case Fate.ESCALATED:
                then = "the shard is restarted"
            case Fate.DEAD_LETTERED:
                then = "the command is a dead letter"
            case Fate.NO_ROOM:
                then = "the stash has no room; the command is a dead letter"
            case Fate.PARKED:
                then = "its key is parked"
            case Fate.RESTARTED if not self.is_in_build:
                then = "its key waits for an owner whose build has it"
            case Fate.RESTARTED:
                then = f"attempt {self.attempt + 1} follows in {self.delay_s:.2f} s"
        failure = self.failure
        is_repeated = before is not None and before.traceback == failure.traceback
        return [
            Incident(
                failure.where, failure.error_type, failure.message, then, fate.value, failure.traceback, is_repeated
            )
        ]


def judged(
    config: ShardConfig,
    budget: RestartBudget,
    envelope: Envelope,
    attempt: int,
    error: Exception,
    now_ms: int,
    where: str,
) -> FailedCommand:
    """Judge a failed ``attempt`` by the entity's policy. ``where`` names the command for human readers."""
    restarts = budget.history_s(envelope.key)
    handler = config.behaviour.handlers[type(envelope.message)]
    doing = f"{handler.kind} {handler.owner.__name__}.{handler.name} handled it"
    if issubclass(type(error), NotInBuild):
        pause_s = min(2.0 ** min(attempt - 1, 10), NOT_IN_BUILD_PAUSE_MAX_S)
        return FailedCommand(Failure.of(error, where, doing), Fate.RESTARTED, attempt, pause_s, (), is_in_build=False)
    draw = ((envelope.offset * 2_654_435_761 + attempt * 40_503) & 0xFFFF) / 0x10000
    judgement = judge(config.policy, restarts, type(error), now_ms / 1000, draw, attempt=attempt)
    restarts_ms = tuple(round(at_s * 1000) for at_s in judgement.restarts)
    fate = _fate(judgement, answers=envelope.sender is not None and config.policy.asked == "answer")
    is_owed = type(envelope.message) in config.behaviour.owed
    if is_owed and (fate is Fate.DEAD_LETTERED or issubclass(type(error), Quarantined)):
        fate = Fate.PARKED
    return FailedCommand(Failure.of(error, where, doing), fate, attempt, judgement.delay_s, restarts_ms)


def _fate(judgement: Judgement, *, answers: bool) -> Fate:
    directive = judgement.directive
    if directive is Directive.ESCALATE:
        return Fate.ESCALATED
    parks = directive is Directive.STOP or (directive is Directive.RESTART and judgement.spent)
    if directive is Directive.RESUME or (parks and answers):
        return Fate.DEAD_LETTERED
    return Fate.PARKED if parks else Fate.RESTARTED
