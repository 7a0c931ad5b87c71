"""The phases of a child and every change between them, as data: the machine asks, the README shows."""

import enum
from collections.abc import Mapping
from typing import Final


class ChildPhase(enum.Enum):
    """Where a child is."""

    ABSENT = "absent"
    """Not a child: never added, or removed and gone."""
    READY = "ready"
    """Down, and starts as soon as the siblings that it was stopped with are down too."""
    STARTING = "starting"
    """Start was sent; it has not said yet that it runs."""
    RUNNING = "running"
    WAITING = "waiting"
    """Failed; down until its backoff is over. One Due is on its way."""
    RESTARTING = "restarting"
    """Being stopped because a sibling failed; READY afterwards."""
    STOPPING = "stopping"
    """Being stopped; STOPPED afterwards."""
    REMOVING = "removing"
    """Being stopped; forgotten afterwards."""
    STOPPED = "stopped"
    """Down for good, by directive or with the tree. Only a new Add starts it."""


class Change(enum.Enum):
    """What can happen to a child: the columns of `PHASE_TABLE`."""

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
"""Up, as far as anybody knows, and meant to be: only here is a failure judged and counted."""
LEAVING: Final = (_P.RESTARTING, _P.STOPPING, _P.REMOVING)
"""On the way down: told to stop, or about to be when its turn comes."""

PHASE_TABLE: Final[Mapping[Change, Mapping[ChildPhase, ChildPhase]]] = {
    Change.ADD: {_P.ABSENT: _P.READY, _P.STOPPED: _P.READY, _P.REMOVING: _P.RESTARTING},
    Change.START: {_P.READY: _P.STARTING},
    Change.STARTED: {_P.STARTING: _P.RUNNING},
    Change.RETRY: {_P.STARTING: _P.WAITING, _P.RUNNING: _P.WAITING},
    # From WAITING and READY: the exit came first, was taken for a failure to retry, and the report says otherwise.
    Change.GIVE_UP: dict.fromkeys((*LIVE, _P.WAITING, _P.READY), _P.STOPPED),
    Change.DUE: {_P.WAITING: _P.READY},
    Change.RESTART: dict.fromkeys(LIVE, _P.RESTARTING),
    Change.HALT: dict.fromkeys((*LIVE, _P.RESTARTING), _P.STOPPING) | dict.fromkeys((_P.READY, _P.WAITING), _P.STOPPED),
    Change.REMOVE: dict.fromkeys((*LIVE, _P.RESTARTING, _P.STOPPING), _P.REMOVING)
    | dict.fromkeys((_P.READY, _P.WAITING, _P.STOPPED), _P.ABSENT),
    Change.LOSE: {phase: _P.ABSENT for phase in _P if phase is not _P.ABSENT},
    Change.EXITED: {_P.STOPPING: _P.STOPPED, _P.RESTARTING: _P.READY, _P.REMOVING: _P.ABSENT},
}
"""Every change of phase: change → phase → next phase. Where there is no entry, the change does nothing to the child."""


def phase_table_rst() -> str:
    """Render `PHASE_TABLE` as an rst list-table: a row per phase, a column per change, empty where nothing happens."""
    rows = [["phase", *(change.value for change in Change)]]
    for phase in ChildPhase:
        nexts = (PHASE_TABLE[change].get(phase) for change in Change)
        rows.append([phase.value, *(after.value if after else "" for after in nexts)])
    lines = [".. list-table::", "   :header-rows: 1", "   :stub-columns: 1", ""]
    for first, *others in rows:
        lines += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return "\n".join(lines) + "\n"
