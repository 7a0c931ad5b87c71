"""The snapshots in state records: read as this code reads them, compared with entities, and shown."""

from __future__ import annotations

from repertory.actors.entity import Behaviour, Entity
from repertory.actors.wire import encode
from repertory.supervision.traceback_text import message_of
from repertory.verify.stash_records import StateEntry
from repertory.verify.values import alike, state_of


def begun(behaviour: Behaviour, entry: StateEntry) -> tuple[Entity, bytes | None]:
    """Return the entity of a snapshot, with which a fold begins; without its bytes if this code cannot read it."""
    try:
        state = state_of(behaviour, snapshot_of(entry))
    except Exception:  # noqa: BLE001  as in `same`
        return behaviour.initial(), None
    return state, encode(state)


def snapshot_of(entry: StateEntry) -> bytes:
    """Return the encoded entity of a state record that holds one."""
    assert entry.state is not None and entry.state.snapshot is not None, entry
    return entry.state.snapshot


def same(behaviour: Behaviour, snapshot: bytes, state: Entity) -> bool:
    """Whether a snapshot is that of an entity, as this code reads it: see ``repertory.verify.values``."""
    try:
        return alike(state_of(behaviour, snapshot), state)
    except Exception:  # noqa: BLE001  msgspec's errors, and those of a __post_init__
        return False


def shown(behaviour: Behaviour, snapshot: bytes) -> str:
    """Return a snapshot as text."""
    try:
        return f"{state_of(behaviour, snapshot)!r:.300}"
    except Exception as error:  # noqa: BLE001  as in `same`
        return f"a snapshot that cannot be decoded ({type(error).__name__}: {message_of(error):.200})"
