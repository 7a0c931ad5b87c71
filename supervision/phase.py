"""The phases of a child, and all changes between them as data. The machine applies it and the README shows it."""

import enum
from collections.abc import Mapping
from typing import Final, TypeVar

PhaseT = TypeVar("PhaseT", bound=enum.Enum)
ChangeT = TypeVar("ChangeT", bound=enum.Enum)


class ChildPhase(enum.Enum):
    """The phase of a child."""

    ABSENT = "absent"
    """Not a child: never added, or removed."""
    READY = "ready"
    """Down. It starts as soon as the siblings that were stopped with it are down too."""
    STARTING = "starting"
    """Start was sent; Started has not been received."""
    RUNNING = "running"
    WAITING = "waiting"
    """Failed; down until its backoff is over. One Due will follow."""
    RESTARTING = "restarting"
    """Being stopped because a sibling failed. READY afterwards."""
    STOPPING = "stopping"
    """Being stopped. STOPPED afterwards."""
    REMOVING = "removing"
    """Being stopped. ABSENT afterwards."""
    STOPPED = "stopped"
    """Permanently down, by directive or with the tree. Only a new Add starts it."""


class ChildChange(enum.Enum):
    """The changes of a child: the columns of `PHASE_TABLE`."""

    ADD = "added"
    START = "start sent"
    STARTED = "started"
    RETRY = "failed: restart"
    GIVE_UP = "failed: stop, escalate"
    DUE = "due"
    RESTART = "sibling failed"
    HALT = "tree stops"
    REMOVE = "removed"
    LOSE = "removed, gone"
    EXITED = "exited"


_P = ChildPhase
LIVE: Final = (_P.STARTING, _P.RUNNING)
"""Running as far as is known, and not to be stopped. Only in these phases is a failure judged and counted."""
LEAVING: Final = (_P.RESTARTING, _P.STOPPING, _P.REMOVING)
"""Being stopped: Stop was sent, Exited has not been received."""

PHASE_TABLE: Final[Mapping[ChildChange, Mapping[ChildPhase, ChildPhase]]] = {
    ChildChange.ADD: {_P.ABSENT: _P.READY, _P.STOPPED: _P.READY, _P.REMOVING: _P.RESTARTING},
    ChildChange.START: {_P.READY: _P.STARTING},
    ChildChange.STARTED: {_P.STARTING: _P.RUNNING},
    ChildChange.RETRY: {_P.STARTING: _P.WAITING, _P.RUNNING: _P.WAITING},
    # From WAITING and READY: the exit came first and was taken for a failure to retry; the report then says otherwise.
    ChildChange.GIVE_UP: dict.fromkeys((*LIVE, _P.WAITING, _P.READY), _P.STOPPED),
    ChildChange.DUE: {_P.WAITING: _P.READY},
    ChildChange.RESTART: dict.fromkeys(LIVE, _P.RESTARTING),
    ChildChange.HALT: dict.fromkeys((*LIVE, _P.RESTARTING), _P.STOPPING)
    | dict.fromkeys((_P.READY, _P.WAITING), _P.STOPPED),
    ChildChange.REMOVE: dict.fromkeys((*LIVE, _P.RESTARTING, _P.STOPPING), _P.REMOVING)
    | dict.fromkeys((_P.READY, _P.WAITING, _P.STOPPED), _P.ABSENT),
    ChildChange.LOSE: {phase: _P.ABSENT for phase in _P if phase is not _P.ABSENT},
    ChildChange.EXITED: {_P.STOPPING: _P.STOPPED, _P.RESTARTING: _P.READY, _P.REMOVING: _P.ABSENT},
}
"""All changes of phase: change → phase → next phase. Without an entry, the change has no effect on the child."""


def phase_table_rst(
    table: Mapping[ChangeT, Mapping[PhaseT, PhaseT]], changes: type[ChangeT], phases: type[PhaseT]
) -> str:
    """Render a phase table as an rst list-table: for each phase, the changes that it allows and where they lead."""
    lines = [".. list-table::", "   :header-rows: 1", "", "   * - phase", "     - change → next phase"]
    for phase in phases:
        nexts = [f"{change.value} → {table[change][phase].value}" for change in changes if phase in table[change]]
        lines += [f"   * - {phase.value}", f"     - {'; '.join(nexts)}".rstrip()]
    return "\n".join(lines) + "\n"
