"""The configuration of one run, drawn from its seed: the kinds and the rate of faults, and how tight the bounds are.

A run has only some kinds of faults, because one kind may hide what another finds ("swarm testing", Groce et al. 2012).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from repertory.bridge.kill_points import POINTS
from repertory.bridge.system.settings import Settings
from repertory.bridge.system.system import ActorSystem
from repertory.simulation.choices import Choices
from repertory.supervision import Backoff, Directive, Policy, Strategy, restart

#: The kinds of faults by their name in a schedule, with their numbers (F) in ``docs/reliability.rst``.
FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "kill": "F1 F10: SIGKILL between two turns; a commit in flight may still arrive",
        "kill-at": "F1 F2: SIGKILL at a point of the loop, a transaction or a stop; see ``bridge/kill_points.py``",
        "abort": "F17 F28 F37: the next commit is aborted and writes nothing",
        "unknown-written": "F22: the next commit is written, but its outcome is reported as unknown",
        "unknown-lost": "F22: the next commit is not written, and its outcome is reported as unknown",
        "fenced": "F26 F28: the next commit is fenced although there is no later owner",
        "slow-commit": "F16 F21: the next commit arrives late, or after its sender's death",
        "refuse": "the log refuses an output for good: its command is judged as if its handler had failed",
        "claim-fails": "F17 F30: the next claim is aborted",
        "abort-reading": "F18 F30: a restore or a fetch of a shard is aborted",
        "lost": "F24 F25: a shard is revoked and assigned again to the same worker",
        "said-twice": "F24: the loss of a shard is reported twice",
        "hold": "F21: the events of a log are delivered late",
        "hide": "F22 F29: another producer's open transaction hides records of a restore or a fetch until it ends",
        "nap": "F4: a worker is stopped for less than its lease",
        "sleep": "F3 F20 F27: a worker is stopped past its lease, then continues",
        "stuck": "F5 F7: a worker makes no progress and is killed",
        "unavailable": "F14 F19 F38: the log is out of reach; the worker ends and is started again",
        "jump": "F11: the calendar jumps, forwards or back",
        "suspend": "F3: the whole machine is suspended past every lease",
        "join": "F24: a worker is added",
        "leave": "F2 F24: a worker drains, commits and leaves",
        "node-lost": "F1 F2: all workers die at once, also in a handler; the next node does not know of their deaths",
        "same-slot": "F25 F26: a second worker starts with a slot that is taken",
        "raise": "F6 F31: a handler raises, once, several times or always, under each directive",
        "memory": "F8: the handlers of one command or three run out of memory and end their process, once or always",
        "garbage": "F31-F36: records that are not valid commands",
        "twice": "F39: a client sends a command again",
        "operate": "an operator retries a parked key or drops its first command",
        "stale": "I12: events of an earlier incarnation",
        "recount": "F44: a start with another number of partitions",
    }
)

#: Those of projectors and their database, for systems that project something.
PROJECTION_FAULTS: Mapping[str, str] = MappingProxyType(
    {
        "projector-killed": "F1: SIGKILL of a projector at a step of its transaction or reading, or after its commit",
        "projector-stopped": "F3 F4: a projector is stopped between two transactions, then continues with what it knew",
        "projector-moved": "F24: a projector gives its partitions back and takes them again, as its group may have it",
        "projector-meanwhile": "another projector, or a worker, works between two steps of a projector",
        "database-away": "the database of projections fails at a step, or is out of reach for a while",
        "database-slow": "the database ends a transaction that sends nothing for too long",
        "commit-unheard": "F22: the database commits, and its answer is lost",
        "event-fails": "F6: a projection's handler fails at an event, once, several times, or until an operator acts",
        "event-kills": "F8: the same, and each time its process ends",
        "log-unread": "F14: the log is out of reach while a projector reads",
    }
)
KINDS = (*FAULTS, *PROJECTION_FAULTS)

#: The points at which a worker is killed: those of ``bridge.kill_points`` without the ones that the embedded log does
#: not have. There, a transaction begins with the offset, no callback revokes shards, and there are no producers.
_NOT_HERE = ("produced", "commit-asked", "revoked", "discarding-producer")
KILL_POINTS = tuple(point for point in POINTS if point not in _NOT_HERE)

#: Rare branches that every long run must reach, whatever the system.
PROBES = (
    *(f"killed at {point}" for point in KILL_POINTS),
    "drained",
    "hidden for a while",
    "not drained in time",
    "outputs refused",
    "killed for no progress",
    "late commit refused",
    "late commit written",
    "log says Fenced",
    "log says Lost",
    "node started again",
    "shard-aborted",
    "shard-failed",
    "shard-fenced",
    "shard-lost",
    "shards tree escalated",
    "slot taken",
    "stale event ignored",
    "worker ended by LogUnavailable",
    "worker ended by MemoryError",
    "unclean takeover",
    "worker escalated",
    "workers tree escalated",
)


class InjectedRestart(Exception):
    """A handler failed; the entity is restarted."""


class InjectedResume(Exception):
    """A handler failed; the command is dead-lettered."""


class InjectedStop(Exception):
    """A handler failed; the key is parked."""


class InjectedEscalation(Exception):
    """A handler failed; the shard fails."""


INJECTED: Mapping[type[Exception], Directive] = MappingProxyType(
    {
        InjectedRestart: Directive.RESTART,
        InjectedResume: Directive.RESUME,
        InjectedStop: Directive.STOP,
        InjectedEscalation: Directive.ESCALATE,
    }
)


class Swarm(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of one run. ``rate`` is faults per thousand steps; all times are virtual seconds."""

    kinds: tuple[str, ...]
    rate: int
    workers: int
    partitions_max: int
    #: The most records of one ``Fetched`` or ``Replayed``; 0: no limit.
    piece: int
    #: The most events of one poll; 0: no limit.
    events: int
    step_s: float
    burst: int
    #: Offsets between the last record of a restored partition and its end, as taken by transaction markers.
    markers: int
    #: Slow commits per thousand.
    slow_commits: int
    settings: Settings
    shards: Policy
    workers_policy: Policy
    strategies: tuple[Strategy, Strategy]
    #: A projector works at every so many steps, and applies so many events at once at most.
    project_every: int = 1
    project_events: int = 1


def draw(choices: Choices, base: Settings, wanted: tuple[str, ...], *, projects: bool) -> Swarm:
    """Draw a configuration. If every choice is 0, it has one worker, no faults, and generous bounds.

    For systems that project nothing, what is about projections is not drawn, so that their seeds stay as they are.
    """
    wanted = tuple(kind for kind in wanted if projects or kind not in PROJECTION_FAULTS)
    kinds = tuple(kind for kind in wanted if choices.below(2, f"with-{kind}"))
    session_s = (6.0, 1.0, 2.5)[choices.below(3, "session")]
    settings = msgspec.structs.replace(
        base,
        batch_records_max=(64, 1, 2, 5, 16)[choices.below(5, "batch")],
        careful_records_max=(1_000, 1, 3, 10)[choices.below(4, "careful")],
        mailbox_records_max=(64, 1, 2, 3, 8)[choices.below(5, "mailbox")],
        snapshot_window_records=(1_000, 1, 3, 8, 30)[choices.below(5, "window")],
        snapshot_window_bytes_max=(1, 1, 100_000)[choices.below(3, "window-bytes")],
        turn_bytes_max=(base.turn_bytes_max, 200, 2_000)[choices.below(3, "turn-bytes")],
        mailbox_bytes_max=(base.mailbox_bytes_max, 300, 3_000)[choices.below(3, "mailbox-bytes")],
        stash_per_key_max=(1_000, 2, 5)[choices.below(3, "waiting-key")],
        stash_per_shard_max=(10_000, 3, 20)[choices.below(3, "waiting-shard")],
        dead_letter_overflow=bool(choices.below(2, "overflow")),
        deaths_max=(3, 1, 2)[choices.below(3, "deaths")],
        answers_per_shard_max=(100_000, 1, 3, 20)[choices.below(4, "answers")],
        answers_kept_s=(86_400.0, 1.0, 10.0)[choices.below(3, "answers-kept")],
        session_timeout_s=session_s,
        progress_timeout_s=5.0,
        stop_timeout_s=3.0,
    )
    strategies = tuple(Strategy)
    return Swarm(
        kinds=kinds,
        rate=(10, 30, 80, 200)[choices.below(4, "rate")],
        workers=1 + choices.below(3, "workers"),
        partitions_max=1 + choices.below(3, "partitions"),
        piece=(0, 1, 2, 7)[choices.below(4, "piece")],
        events=(0, 1, 3)[choices.below(3, "events")],
        markers=(0, 1, 3)[choices.below(3, "markers")],
        step_s=(0.001, 0.01, 0.05)[choices.below(3, "step")],
        burst=(16, 1, 4, 64)[choices.below(4, "burst")],
        slow_commits=(0, 50, 400)[choices.below(3, "slow-commits")],
        settings=settings,
        shards=_policy(choices, "shards"),
        workers_policy=_policy(choices, "workers"),
        strategies=(
            strategies[choices.below(len(strategies), "shard-strategy")],
            strategies[choices.below(len(strategies), "worker-strategy")],
        ),
        project_every=(12, 4, 30)[choices.below(3, "project-every")] if projects else 1,
        project_events=(1_000, 2, 5, 20)[choices.below(4, "project-events")] if projects else 1,
    )


def _policy(choices: Choices, level: str) -> Policy:
    max_restarts = (10, 1, 3, 1_000)[choices.below(4, f"{level}-restarts")]
    within_s = (60.0, 5.0)[choices.below(2, f"{level}-within")]
    return restart(max_restarts=max_restarts, within_s=within_s, backoff=Backoff(first_s=0.05, max_s=2.0))


def simulated(system: ActorSystem, swarm: Swarm, *, projects: bool) -> ActorSystem:
    """Return the system as this run hosts it: the same entities and policies, fewer partitions, other bounds.

    ``projects``: with its projections.
    """
    made = ActorSystem(
        system.name,
        settings=swarm.settings,
        shards=swarm.shards,
        shard_strategy=swarm.strategies[0],
        workers=swarm.workers_policy,
        worker_strategy=swarm.strategies[1],
        publishes=system.publishes,
    )
    for entity, hosted in system.hosted.items():
        policy = msgspec.structs.replace(hosted.policy, on={**hosted.policy.on, **INJECTED})
        made.host(entity, partitions=min(hosted.partitions, swarm.partitions_max), supervise=policy)
    if projects:
        system.projections.carry(made)
    return made
