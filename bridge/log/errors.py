"""The errors of a log: one class for each reaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repertory.actors.asks import AskId
    from repertory.bridge.log.port import Member

#   LogError
#   ├── LogUnavailable      the log cannot be reached or used now: the worker exits, its supervisor retries
#   ├── SlotTaken           another live worker has this node and slot: exit, never restart
#   ├── InvalidSetting      a setting is unknown or would break a guarantee: refuse to start
#   ├── LogUnusable         it is no log of this repertory, or damaged: stop, an operator decides
#   ├── Refused             nothing was written, and a repetition is refused too: change the records, or the log
#   │   └── TopicMismatch   a topic or partition is missing, cannot be created, or has another count
#   ├── ClientClosed        nothing was written: the caller makes another client
#   └── OutcomeUnknown      an append may or may not have happened: the caller decides
#       └── IdTooOld        and asking again with the same id will not tell


class LogError(Exception):
    """A log's refusal or failure; the message is one sentence that says what, where, and the remedy."""


class LogUnavailable(LogError):
    """The log cannot be reached or used now."""


class SlotTaken(LogError):
    """Another live worker has this node and slot."""

    @classmethod
    def by(cls, holder: str, member: Member) -> SlotTaken:
        """Return the error of a worker whose slot a live one has: nodes of one system have names of their own."""
        return cls(
            f"slot {member.slot} of node {member.node!r} in group {member.group} is held by {holder}: stop that node, "
            "or start this one under another name: --node NAME, as in node=NAME of run() and spawn()"
        )


class InvalidSetting(LogError):
    """A setting is unknown, or would break a guarantee."""


class LogUnusable(LogError):
    """The log is another application's, another version's, or damaged. Nothing in it was changed."""


class Refused(LogError):
    """The log refuses records for good: nothing was written, and the same records would be refused again."""


class TopicMismatch(Refused):
    """A topic or partition is missing and cannot be created, or a topic's partition count differs from the code's."""


class ClientClosed(LogError):
    """The client was closed before the call, or belongs to the process that this one was forked from."""


class OutcomeUnknown(LogError):
    """An append may or may not have happened, or what became of a command is not known.

    ``message_id`` is that of the command. ``id``: that of an ask, if its caller gave one; the same ask with the same id
    brings its answer, and is applied at most once.
    """

    def __init__(self, message: str, message_id: str | None = None, ask_id: AskId | None = None) -> None:
        super().__init__(message)
        self.message_id = message_id
        self.id = ask_id


class IdTooOld(OutcomeUnknown):
    """An ask's id is older than the answers that its shard keeps: the command may have been applied, or not."""
