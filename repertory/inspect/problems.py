"""What is wrong with a system, as ``repertory status --check`` finds it: each problem in one sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from repertory.bridge import topics
from repertory.bridge.log.members import foreign_member, is_foreign
from repertory.bridge.log.port import MemberDescription
from repertory.bridge.node.status import NodeStatusRecord
from repertory.bridge.system.definition import SystemDefinition
from repertory.bridge.system.projected import ProjectionStatus
from repertory.bridge.system.source_status import SourceStatus
from repertory.inspect.nodes import is_up
from repertory.inspect.shards import ShardStatus

#: Keys and shards that a summary names; the others are counted.
_NAMED_MAX = 3


class Problem(msgspec.Struct, frozen=True):
    """Something that is wrong. ``kind`` is one of the words of `KINDS`, ``where`` a shard, a topic or a member."""

    kind: str
    where: str
    what: str
    is_failure: bool = True


#: What ``--check`` fails for, and in which words its summary counts one and several.
KINDS: Mapping[str, tuple[str, str]] = {
    "parked": ("key is parked", "keys are parked"),
    "stuck": ("saga is stuck", "sagas are stuck"),
    "lost": ("shard lost commands to retention", "shards lost commands to retention"),
    "unreadable": ("shard cannot be read", "shards cannot be read"),
    "no-owner": ("shard has no owner", "shards have no owner"),
    "not-serving": ("shard does not serve", "shards do not serve"),
    "no-relay": ("system has sources that nobody relays", "systems have sources that nobody relays"),
    "source": ("partition of a source has stopped", "partitions of sources have stopped"),
    "projection": ("projection has stopped", "projections have stopped"),
    "partitions": ("topic has another number of partitions", "topics have other numbers of partitions"),
    "foreign": ("member of the group is not of this system", "members of the group are not of this system"),
}


def find_problems(
    system: SystemDefinition,
    shards: Iterable[ShardStatus],
    nodes: Sequence[NodeStatusRecord],
    members: Sequence[MemberDescription],
    found: Mapping[str, int],
    now_ms: int,
    sources: Iterable[SourceStatus] = (),
    relays: Sequence[MemberDescription] = (),
) -> list[Problem]:
    """Return all problems. ``found`` are the topics of the log with their numbers of partitions.

    ``relays``: the members of the group that relays the sources.
    """
    foreign = [member for member in members if is_foreign(member, system.name, system.commands_topics())]
    owned = {place for member in members if member not in foreign for place in member.shards}
    down = {name: state for node in nodes if is_up(node, now_ms) for name, state in node.down.items()}
    problems: list[Problem] = []
    for shard in shards:
        if shard.is_read:
            place = (topics.commands_topic(system.name, shard.entity), shard.partition)
            problems += _of_shard(shard, down.get(shard.name, ""), is_owned=place in owned)
    for spec in system.topic_specs():
        if (count := found.get(spec.name, spec.partitions)) != spec.partitions:
            problems.append(Problem("partitions", spec.name, topics.wrong_count(spec.name, count, spec.partitions)))
    problems += _of_sources(system, sources, relays)
    problems += [
        Problem("foreign", member.client, foreign_member(member, system.name), is_failure=bool(member.shards))
        for member in foreign
    ]
    return problems


def _of_sources(
    system: SystemDefinition, sources: Iterable[SourceStatus], relays: Sequence[MemberDescription]
) -> Iterator[Problem]:
    """Yield the partitions of sources that have stopped, and whether nobody relays some."""
    for each in sources:
        if each.stopped is not None or each.unreadable:
            why = each.unreadable if each.stopped is None else each.stopped.reason
            partition = "" if each.partition < 0 else f"/{each.partition}"
            yield Problem("source", f"{each.name} {each.topic}{partition}", why)
    owned = {place.partition for member in relays for place in member.shards}
    if system.sources and len(owned) < topics.RELAYS:
        yield Problem("no-relay", topics.sources_topic(system.name), f"nobody has {topics.RELAYS - len(owned)} relays")


def _of_shard(shard: ShardStatus, state: str, *, is_owned: bool) -> list[Problem]:
    name, found = shard.name, []
    if shard.unreadable:
        found.append(Problem("unreadable", name, shard.unreadable))
    if shard.lost is not None:
        first, last = shard.lost
        what = f"commands {first} to {last} were taken by retention and never handled; see repertory skip-lost"
        found.append(Problem("lost", name, what))
    if not is_owned:
        found.append(Problem("no-owner", name, "no worker has it"))
    elif state:
        found.append(Problem("not-serving", name, state))
    found += [Problem("parked", f"{shard.entity} {key}", "its first command failed") for key in shard.parked]
    rejected = "an undo was rejected; see repertory sagas show"
    return [*found, *(Problem("stuck", f"{shard.entity} {key}", rejected) for key in shard.stuck_sagas)]


def projection_problems(found: Iterable[ProjectionStatus]) -> list[Problem]:
    """Return what is wrong with projections: partitions that have stopped, and a database that cannot be read.

    The latter is no failure of the system: whoever asks may not reach it.
    """
    problems = []
    for each in found:
        name = f"{each.name} (version {each.version})"
        if each.trouble:
            problems.append(Problem("projection", name, each.trouble, is_failure=False))
        for part in each.partitions:
            if part.failed is not None:
                what = f"{name} has stopped at offset {part.failed}: {part.error}"
                problems.append(Problem("projection", f"{each.name} {part.entity}/{part.partition}", what))
    return problems


def summary(problems: Sequence[Problem], shards: int) -> str:
    """Return one line: what is wrong, or that nothing is."""
    failures = [problem for problem in problems if problem.is_failure]
    if not failures:
        warned = f"; {len(problems)} warning{'s' if len(problems) > 1 else ''}" if problems else ""
        return f"ok: {shards} shards have an owner, no key is parked{warned}"
    counts = Counter(problem.kind for problem in failures)
    return "; ".join(_counted(kind, [p for p in failures if p.kind == kind]) for kind in KINDS if counts[kind])


def _counted(kind: str, found: Sequence[Problem]) -> str:
    more = len(found) - _NAMED_MAX
    names = ", ".join(problem.where for problem in found[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
    return f"{len(found)} {KINDS[kind][len(found) != 1]}: {names}"
