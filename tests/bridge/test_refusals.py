"""The search for commands whose outputs are refused: all of them are found, nobody else is blamed, and it ends."""

from __future__ import annotations

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.entity import resolved
from repertory.actors.headers import CAUSE
from repertory.actors.shard.changelog import (
    CHANGELOG_INDEX,
    ShardId,
    effect_key,
    first_shard_record,
    stash_entry,
    state_entry,
)
from repertory.actors.shard.config import AT_LEAST_ONCE
from repertory.actors.shard.turn_result import Counts, Fired, Published, TurnResult
from repertory.bridge.codec import Codec
from repertory.bridge.log.port import OutputsRefused
from repertory.bridge.log.record import Output, TopicPartition
from repertory.bridge.refusals import Refusals
from repertory.bridge.system.settings import DELIVERIES
from tests.actors.domain import Account

BATCH = 16
SHARD = ShardId("account", 0)
PLACE = TopicPartition("bank.account.commands", 0)
CODEC = Codec("bank", resolved(Account), lambda _topic: 1, input_bytes_max=1_000)


def output(offset: int, index: int = 0, topic: str = "news") -> Output:
    """Return a record that a command made."""
    return Output(topic, 0, b"k", b"v", ((CAUSE, f"{PLACE}/{offset}/{index}".encode()),))


def turn(commands: list[int], judged: tuple[int, ...] = (), *, nontransactional: bool = False) -> TurnResult:
    """Return a turn in which each command but the judged ones has published a record."""
    published = [Published("news", "k", b"v", offset, 0) for offset in commands if offset not in judged]
    changelog = [state_entry("k", None, 0, 0, commands[-1]), stash_entry(8, None)]
    return TurnResult(
        SHARD, [*published], changelog, first_shard_record(), commands[-1], 0, Counts(), [],
        nontransactional, len(commands), judged,
    )  # fmt: skip


@given(
    count=st.integers(1, 60),
    guilty=st.sets(st.integers(0, 59), max_size=5),
    together=st.integers(1, 20),
    time_is_up=st.lists(st.integers(1, BATCH), max_size=30),
    delivery=st.sampled_from(DELIVERIES),
)
def test_each_guilty_command_is_found_and_no_other(
    count: int, guilty: set[int], together: int, time_is_up: list[int], delivery: str
) -> None:
    """Whatever a broker refuses together, and wherever a turn ends early, after a logarithmic number of refusals.

    At least once, only a turn with a judged command is a transaction: after a refusal the shard begins behind that.
    """
    refusals = Refusals(CODEC)
    guilty = {offset for offset in guilty if offset < count}
    done, judged, refused_turns, durable = 0, set[int](), 0, 0
    while done < count:
        size = min(refusals.records_max or BATCH, BATCH, time_is_up.pop() if time_is_up else BATCH)
        commands = list(range(done, min(done + size, count)))
        known = tuple(offset for offset in commands if offset in refusals.reasons)
        sent = [offset for offset in commands if offset not in known]
        batches = [sent[start : start + together] for start in range(0, len(sent), together)]
        bad = next((batch for batch in batches if guilty.intersection(batch)), None)
        result = turn(commands, known, nontransactional=delivery == AT_LEAST_ONCE and not known)
        if bad is None:
            refusals.committed(result)
            judged.update(known)
            done += len(commands)
            durable = durable if result.nontransactional else done
            continue
        refused_turns, done = refused_turns + 1, durable
        event = OutputsRefused(PLACE, [output(offset) for offset in bad], "no", all_refused=len(bad) == 1)
        assert refusals.blame(event, result, "account/0") is None
        assert refused_turns <= (len(guilty) + 1) * (math.ceil(math.log2(BATCH)) + 2)
    assert judged == guilty
    assert not refusals.reasons
    assert refusals.records_max is None


def test_what_is_refused_for_certain_is_judged_at_once() -> None:
    """A topic that is gone refuses every record for it."""
    refusals = Refusals(CODEC)
    event = OutputsRefused(PLACE, [output(3), output(3, 1), output(5)], "gone", all_refused=True)
    assert refusals.blame(event, turn([1, 3, 5]), "account/0") is None
    assert dict(refusals.reasons) == {3: "gone", 5: "gone"}
    assert refusals.records_max is None


def test_a_state_belongs_to_the_command_that_changed_it() -> None:
    """And a stashed command to itself."""
    refusals = Refusals(CODEC)
    state = Output(CODEC.state, 0, b"k", b"v", ((CAUSE, f"{PLACE}/9/{CHANGELOG_INDEX}".encode()),))
    assert refusals.blame(OutputsRefused(PLACE, [state], "small", all_refused=True), turn([7, 9]), "account/0") is None
    stashed = Output(CODEC.state, 0, b"\0stash/8", b"v", ((CAUSE, f"{PLACE}/9/{CHANGELOG_INDEX + 1}".encode()),))
    assert refusals.blame(OutputsRefused(PLACE, [stashed], "small", all_refused=True), turn([7, 9]), "a") is None
    assert dict(refusals.reasons) == {9: "small", 8: "small"}


def test_a_shard_whose_own_records_are_refused_stops() -> None:
    """Its own record, a dead letter, and the record of what became of a refused command: an operator must act."""
    own = Output(CODEC.state, 0, b"\0shard", b"v", ((CAUSE, f"{PLACE}/9/{CHANGELOG_INDEX}".encode()),))
    letter = output(9, topic=CODEC.dead_letters)
    for refused, said in ((own, "the shard's own"), (letter, "the dead letter of command 9")):
        failure = Refusals(CODEC).blame(
            OutputsRefused(PLACE, [refused], "no", all_refused=True), turn([9]), "account/0"
        )
        assert failure is not None
        assert said in failure.message and failure.error_type == "repertory.actors.context.OutputRefused"
    refusals = Refusals(CODEC)
    event = OutputsRefused(PLACE, [output(9)], "no", all_refused=True)
    assert refusals.blame(event, turn([9]), "account/0") is None
    failure = refusals.blame(event, turn([9], (9,)), "account/0")
    assert failure is not None
    assert "what became of command 9" in failure.message


def test_drops_of_effects_are_searched_by_halves() -> None:
    """Each is a command and what its entity is answered, and counts once as what the next turn may take."""
    refusals, taken = Refusals(CODEC), [4]
    while not refusals.reasons:
        fired = [Fired(None, "k", b"v", n, 0, effect_key(n, 0), effect="pay") for n in range(taken[-1])]
        record = msgspec.structs.replace(first_shard_record(), changelog=len(fired) + 1)
        result = TurnResult(SHARD, [], [], record, 9, 0, Counts(), [], handled=len(fired), fired=fired)
        sent = [output(9, CHANGELOG_INDEX + n) for n in range(len(fired))]
        assert refusals.blame(OutputsRefused(PLACE, sent, "no", all_refused=False), result, "account/0") is None
        taken.append(refusals.records_max or 0)
    assert taken == [4, 4, 2, 1, 0]
    assert list(refusals.reasons) == [effect_key(0, 0)]
