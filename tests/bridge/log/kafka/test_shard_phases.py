"""The phases of an assigned shard on Kafka, without a Kafka: the table, and the fields that it replaced as a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from repertory.bridge.log.kafka import shard as shards
from repertory.bridge.log.kafka.shard import (
    AWAITING_PROOF,
    BUSY,
    FLOWING,
    PHASE_TABLE,
    PROOF_TTL_S,
    WITH_CLAIM,
    KafkaChange,
    KafkaPhase,
    KafkaShard,
)
from repertory.bridge.log.record import Record, TopicPartition

SHARD = TopicPartition("account.commands", 3)
AHEAD_MAX = 5
P = KafkaPhase

#: Each change, as the method of a shard that makes it.
MAKE: dict[KafkaChange, Callable[[KafkaShard[str]], object]] = {
    KafkaChange.AWAIT_PROOF: lambda shard: shard.await_proof(1.0),
    KafkaChange.START: lambda shard: shard.start("claim"),
    KafkaChange.CLAIMED: lambda shard: shard.claimed(),
    KafkaChange.REPLAY: lambda shard: shard.replay(),
    KafkaChange.REPLAYED: lambda shard: shard.replayed(),
    KafkaChange.BEGIN: lambda shard: shard.begin(7),
    KafkaChange.COMMIT: lambda shard: shard.commit(8, 2.0),
    KafkaChange.COMMITTED: lambda shard: shard.committed(),
    KafkaChange.FENCE: lambda shard: shard.fence(3.0),
    KafkaChange.REASSIGN: lambda shard: shard.reassign(),
    KafkaChange.ABORT: lambda shard: shard.abort(),
    KafkaChange.DROP: lambda shard: shard.drop(),
}
#: How each phase is reached from ASSIGNED.
PATHS: dict[KafkaPhase, list[KafkaChange]] = {
    P.ASSIGNED: [],
    P.PROVING: [KafkaChange.AWAIT_PROOF],
    P.CLAIMING: [KafkaChange.AWAIT_PROOF, KafkaChange.START],
    P.CLAIMED: [KafkaChange.START, KafkaChange.CLAIMED],
    P.REPLAYING: [KafkaChange.START, KafkaChange.CLAIMED, KafkaChange.REPLAY],
    P.COMMITTING_EARLY: [KafkaChange.START, KafkaChange.CLAIMED, KafkaChange.COMMIT],
    P.FLOWING: [KafkaChange.START, KafkaChange.CLAIMED, KafkaChange.BEGIN],
    P.COMMITTING: [KafkaChange.START, KafkaChange.CLAIMED, KafkaChange.BEGIN, KafkaChange.COMMIT],
    P.FENCED: [KafkaChange.START, KafkaChange.FENCE],
}
LEGAL = [(phase, change) for change in KafkaChange for phase in PHASE_TABLE[change]]
ILLEGAL = [(phase, change) for change in KafkaChange for phase in KafkaPhase if phase not in PHASE_TABLE[change]]


def named(value: object) -> str | None:
    return value.name if isinstance(value, KafkaPhase | KafkaChange) else None


def in_phase(phase: KafkaPhase) -> KafkaShard[str]:
    """Return a shard that was brought into a phase."""
    shard = KafkaShard[str](SHARD, 0.0)
    for change in PATHS[phase]:
        MAKE[change](shard)
    return shard


def record(offset: int) -> Record:
    return Record(*SHARD, offset, b"k", b"v", (), 0)


# --- the table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", KafkaPhase, ids=named)
def test_every_phase_is_reached(phase: KafkaPhase) -> None:
    """No phase is out of reach, and a shard holds a claim exactly where its phase says so."""
    shard = in_phase(phase)
    assert shard.phase is phase
    assert (shard.claim is not None) == (phase in WITH_CLAIM)
    assert shard.is_awaiting_proof == (phase in AWAITING_PROOF)
    assert shard.is_busy == (phase in BUSY)
    assert shard.is_flowing == (phase in FLOWING)


@pytest.mark.parametrize(("phase", "change"), LEGAL, ids=named)
def test_a_legal_change_leads_where_the_table_says(phase: KafkaPhase, change: KafkaChange) -> None:
    """Each entry of the table is made by the method of that change."""
    shard = in_phase(phase)
    MAKE[change](shard)
    assert shard.phase is PHASE_TABLE[change][phase]
    assert (shard.claim is not None) == (shard.phase in WITH_CLAIM)


@pytest.mark.parametrize(("phase", "change"), ILLEGAL, ids=named)
def test_an_illegal_change_raises(phase: KafkaPhase, change: KafkaChange) -> None:
    """A change without an entry is a bug: the error names shard, phase and change, and the phase stays."""
    shard = in_phase(phase)
    with pytest.raises(AssertionError) as bug:
        MAKE[change](shard)
    assert str(bug.value) == f"{SHARD}: illegal in phase {phase.value!r}: {change.value}"
    assert shard.phase is phase


def test_a_dropped_claim_is_returned_once() -> None:
    """Whoever drops has the claim to cancel; there is none to cancel the second time."""
    shard = in_phase(P.COMMITTING)
    assert [shard.drop(), shard.drop()] == ["claim", None]


# --- the values beside the phase ------------------------------------------------------------------------------


def test_a_proof_counts_from_when_it_was_asked_for() -> None:
    """A proof that was asked for before the shard waited for one proves nothing; a later one does, for a while."""
    shard = KafkaShard[str](SHARD, -math.inf)
    assert not shard.is_proved(10.0)
    shard.await_proof(10.0)
    assert not shard.prove(9.9)
    assert shard.prove(10.0)
    assert (shard.is_proved(10.9), shard.is_proved(10.0 + PROOF_TTL_S)) == (True, False)


def test_only_a_transaction_shows_the_membership() -> None:
    """A committed transaction tells when the group took its sender for a member; an append tells nothing."""
    shard = in_phase(P.FLOWING)
    shard.commit(8, 5.0)
    assert shard.committed() == 5.0
    shard.append(9)
    assert shard.committed() is None


def test_a_group_offset_is_kept_only_without_transactions() -> None:
    """The first append of a claim begins it, commits behind it move it too, and the claim's end ends it."""
    shard = in_phase(P.FLOWING)
    shard.commit(8, 5.0)
    shard.committed()
    assert shard.group_offset is None
    shard.append(9)
    assert shard.group_offset is not None
    assert not shard.group_offset.is_due
    shard.committed()
    assert (shard.group_offset.is_due, shard.group_offset.next_offset) == (True, 9)
    shard.group_offset.is_behind = False
    shard.commit(10, 6.0)
    shard.committed()
    assert (shard.group_offset.is_due, shard.group_offset.next_offset) == (True, 10)
    shard.abort()
    assert shard.group_offset is None


def test_a_refused_group_offset_is_committed_again() -> None:
    """What was committed last is due again, also that of an earlier claim; without an append nothing is."""
    shard = in_phase(P.FLOWING)
    shard.commit(8, 5.0)
    shard.committed()
    shard.drop()
    shard.start("claim")
    shard.claimed()
    assert shard.group_offset is None
    shard.append(9)
    assert shard.group_offset is not None
    shard.group_offset.is_behind = True
    assert (shard.group_offset.is_due, shard.group_offset.next_offset) == (True, 8)


# --- a random walk beside the fields that the phases replaced --------------------------------------------------


class Fields:
    """A shard as ``bridge/log/kafka/log.py`` had it before: booleans, and what the log's methods did with them."""

    def __init__(self, proved_s: float) -> None:
        self.claim: int | None = None
        self.busy = False
        self.flowing = False
        self.held = False
        self.stopped = True
        self.fetched_ahead: list[Record] = []
        self.next_offset = 0
        self.proved_s = proved_s
        self.sent_s: float | None = None
        self.asked_s: float | None = None
        self.fenced = False
        self.is_nontransactional = False
        self.group_offset_committed = True
        self.offset_in_flight = 0
        self.offset_committed = -1
        self.calls: list[object] = []

    def ask_claim(self, now_s: float, claim: int) -> None:
        self.drop_claim()
        self.fenced = False
        if now_s - self.proved_s < PROOF_TTL_S:
            self.start(claim)
        else:
            self.asked_s = now_s

    def start(self, claim: int) -> None:
        self.busy = True
        self.claim = claim
        self.calls.append(("start", claim))

    def proved(self, asked_s: float, claim: int) -> None:
        if self.asked_s is None or self.asked_s > asked_s:
            return
        self.asked_s, self.proved_s = None, asked_s
        if self.fenced:
            self.fenced = False
            self.calls.append("assigned")
        else:
            self.start(claim)

    def begin(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.flowing = True
        self.resume_fetch()

    def resume(self) -> None:
        if not self.held:
            return
        self.held = False
        if self.fetched_ahead:
            self.calls.append(self.fetched_ahead)
            self.fetched_ahead = []
        self.resume_fetch()

    def take(self, records: list[Record]) -> None:
        if not self.flowing:
            return
        if records and records[0].offset < self.next_offset:
            records = [record for record in records if record.offset >= self.next_offset]
        if not records:
            return
        self.next_offset = records[-1].offset + 1
        if self.held:
            self.fetched_ahead += records
            if len(self.fetched_ahead) >= AHEAD_MAX:
                self.pause_fetch()
        else:
            self.calls.append(records)

    def commit(self, next_offset: int, now_s: float) -> None:
        self.busy = True
        self.sent_s = now_s
        self.offset_in_flight = next_offset

    def append(self, next_offset: int) -> None:
        self.busy = self.is_nontransactional = True
        self.sent_s = None
        self.offset_in_flight = next_offset

    def committed(self) -> None:
        self.busy = False
        self.group_offset_committed, self.offset_committed = not self.is_nontransactional, self.offset_in_flight
        if self.sent_s is not None:
            self.calls.append(("show", self.sent_s))

    def fence(self, now_s: float) -> None:
        self.drop_claim()
        self.fenced, self.asked_s = True, now_s

    def abort(self, *, routine: bool) -> None:
        self.drop_claim()
        if routine:
            self.proved_s = -math.inf

    def lease_over(self) -> None:
        self.proved_s = -math.inf
        if self.claim is not None:
            self.drop_claim()

    def refused(self) -> None:
        self.group_offset_committed = not self.is_nontransactional

    def commit_group_offset(self) -> None:
        if not self.group_offset_committed and self.offset_committed >= 0:
            self.calls.append(("group offset", self.offset_committed))
            self.group_offset_committed = True

    def drop_claim(self) -> None:
        if self.claim is not None:
            self.calls.append(("cancel", self.claim))
            self.claim = None
        self.busy = self.flowing = self.held = self.fenced = self.is_nontransactional = False
        self.group_offset_committed = True
        self.asked_s = None
        self.fetched_ahead = []
        self.pause_fetch()

    def pause_fetch(self) -> None:
        if not self.stopped:
            self.calls.append("stop")
        self.stopped = True

    def resume_fetch(self) -> None:
        if self.stopped and self.flowing:
            self.calls.append(("flow", self.next_offset))
            self.stopped = False


class Phases:
    """The same steps with a ``KafkaShard``, as ``KafkaLog`` takes them."""

    def __init__(self, proved_s: float) -> None:
        self.shard = KafkaShard[int](SHARD, proved_s)
        self.calls: list[object] = []

    def ask_claim(self, now_s: float, claim: int) -> None:
        self.wind_down(self.shard.drop())
        if self.shard.is_proved(now_s):
            self.start(claim)
        else:
            self.shard.await_proof(now_s)

    def start(self, claim: int) -> None:
        self.shard.start(claim)
        self.calls.append(("start", claim))

    def proved(self, asked_s: float, claim: int) -> None:
        if not self.shard.prove(asked_s):
            return
        if self.shard.phase is KafkaPhase.FENCED:
            self.shard.reassign()
            self.calls.append("assigned")
        else:
            self.start(claim)

    def begin(self, next_offset: int) -> None:
        self.shard.begin(next_offset)
        self.start_fetching()

    def resume(self) -> None:
        if not self.shard.is_paused:
            return
        if records := self.shard.resume():
            self.calls.append(records)
        self.start_fetching()

    def take(self, records: list[Record]) -> None:
        records = self.shard.take(records)
        if self.shard.is_overfull:
            self.stop_fetching()
        if records:
            self.calls.append(records)

    def committed(self) -> None:
        if (sent_s := self.shard.committed()) is not None:
            self.calls.append(("show", sent_s))

    def abort(self, *, routine: bool) -> None:
        self.wind_down(self.shard.abort())
        if routine:
            self.shard.forget_proof()

    def lease_over(self) -> None:
        self.shard.forget_proof()
        if self.shard.claim is not None:
            self.wind_down(self.shard.abort())

    def refused(self) -> None:
        if self.shard.group_offset is not None:
            self.shard.group_offset.is_behind = True

    def commit_group_offset(self) -> None:
        offset = self.shard.group_offset
        if offset is not None and offset.is_due:
            self.calls.append(("group offset", offset.next_offset))
            offset.is_behind = False

    def wind_down(self, claim: int | None) -> None:
        if claim is not None:
            self.calls.append(("cancel", claim))
        self.stop_fetching()

    def stop_fetching(self) -> None:
        if self.shard.is_fetching:
            self.calls.append("stop")
        self.shard.is_fetching = False

    def start_fetching(self) -> None:
        if self.shard.is_flowing and not self.shard.is_fetching:
            self.calls.append(("flow", self.shard.next_offset))
            self.shard.is_fetching = True


#: What ends a claim happens this rarely, or a walk would seldom get far.
RARELY = st.sampled_from([True, *[False] * 9])


class Walk(RuleBasedStateMachine):
    """Everything that an owner, a group and a claim may do, in any order that the port allows.

    ``job`` is what the claim's thread works at: only that can have an outcome, and there is one at a time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.claims = 0
        self.job = ""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(shards, "FETCHED_AHEAD_RECORDS_MAX", AHEAD_MAX)

    def teardown(self) -> None:
        self.patch.undo()

    @initialize(fresh=st.booleans())
    def assigned(self, *, fresh: bool) -> None:
        proved_s = self.now_s if fresh else -math.inf
        self.old, self.new = Fields(proved_s), Phases(proved_s)

    @property
    def is_claimed(self) -> bool:
        """Whether the claim holds and does nothing."""
        return self.old.claim is not None and not self.job

    def has_claim(self) -> bool:
        return self.old.claim is not None

    def number(self) -> int:
        self.claims += 1
        return self.claims

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    # The owner.

    @rule(again=RARELY)
    def ask_claim(self, *, again: bool) -> None:
        if (self.has_claim() or self.old.asked_s is not None) and not again:
            return
        claim = self.number()
        self.old.ask_claim(self.now_s, claim)
        self.new.ask_claim(self.now_s, claim)
        self.job = "claim" if self.old.claim is not None else ""

    @precondition(lambda self: self.is_claimed and not self.old.flowing)
    @rule()
    def replay(self) -> None:
        self.old.busy = True
        self.new.shard.replay()
        self.job = "replay"

    @precondition(lambda self: self.has_claim() and self.job in ("", "commit") and not self.old.flowing)
    @rule(next_offset=st.integers(0, 20))
    def begin(self, next_offset: int) -> None:
        self.old.begin(next_offset)
        self.new.begin(next_offset)

    @rule()
    def pause(self) -> None:
        self.old.held = True
        self.new.shard.pause()

    @rule()
    def resume(self) -> None:
        self.old.resume()
        self.new.resume()

    @precondition(lambda self: self.is_claimed)
    @rule(next_offset=st.integers(0, 20))
    def commit(self, next_offset: int) -> None:
        self.old.commit(next_offset, self.now_s)
        self.new.shard.commit(next_offset, self.now_s)
        self.job = "commit"

    @precondition(lambda self: self.is_claimed)
    @rule(next_offset=st.integers(0, 20))
    def append(self, next_offset: int) -> None:
        self.old.append(next_offset)
        self.new.shard.append(next_offset)
        self.job = "commit"

    # The claim's thread.

    @precondition(lambda self: self.job)
    @rule()
    def succeed(self) -> None:
        match self.job:
            case "claim":
                self.old.busy = False
                self.new.shard.claimed()
            case "replay":
                self.old.busy = False
                self.new.shard.replayed()
            case _:
                self.old.committed()
                self.new.committed()
        self.job = ""

    @precondition(lambda self: self.job)
    @rule(now=RARELY)
    def fenced(self, *, now: bool) -> None:
        if not now:
            return
        self.old.fence(self.now_s)
        self.new.wind_down(self.new.shard.fence(self.now_s))
        self.job = ""

    @precondition(lambda self: self.has_claim())
    @rule(now=RARELY, routine=st.booleans())
    def abort(self, *, now: bool, routine: bool) -> None:
        if not now:
            return
        self.old.abort(routine=routine)
        self.new.abort(routine=routine)
        self.job = ""

    # The group, and time.

    @rule(age_s=st.sampled_from([0.0, 0.1, 1.0]))
    def proved(self, age_s: float) -> None:
        had, claim = self.old.claim, self.number()
        self.old.proved(self.now_s - age_s, claim)
        self.new.proved(self.now_s - age_s, claim)
        if self.old.claim != had:
            self.job = "claim"

    @rule(back=st.integers(0, 3), count=st.integers(0, 4))
    def fetched(self, back: int, count: int) -> None:
        start = max(0, self.old.next_offset - back)
        records = [record(offset) for offset in range(start, start + count)]
        self.old.take([*records])
        self.new.take([*records])

    @rule(now=RARELY)
    def lease_over(self, *, now: bool) -> None:
        if not now:
            return
        self.old.lease_over()
        self.new.lease_over()
        if self.old.claim is None:
            self.job = ""

    @rule()
    def group_offset_refused(self) -> None:
        self.old.refused()
        self.new.refused()

    @rule()
    def group_offset_committed(self) -> None:
        self.old.commit_group_offset()
        self.new.commit_group_offset()

    @rule(now=RARELY)
    def revoked(self, *, now: bool) -> None:
        """The log forgets the shard after this; that it can be claimed again here does no harm."""
        if not now:
            return
        self.old.drop_claim()
        self.new.wind_down(self.new.shard.drop())
        self.job = ""

    @invariant()
    def same(self) -> None:
        old, shard = self.old, self.new.shard
        assert self.new.calls == old.calls
        assert (shard.claim, shard.is_flowing, shard.is_paused, not shard.is_fetching, shard.next_offset) == (
            old.claim, old.flowing, old.held, old.stopped, old.next_offset
        )  # fmt: skip
        assert (shard.is_awaiting_proof, shard.is_busy) == (old.asked_s is not None, old.busy)
        assert (shard.phase is KafkaPhase.FENCED) == old.fenced
        assert shard.is_proved(self.now_s) == (self.now_s - old.proved_s < PROOF_TTL_S)
        assert (shard.group_offset is not None) == old.is_nontransactional
        offset = shard.group_offset
        due = offset.next_offset if offset is not None and offset.is_due else None
        assert due == (old.offset_committed if not old.group_offset_committed and old.offset_committed >= 0 else None)


Walk.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
test_it_reacts_as_the_fields_did = Walk.TestCase
