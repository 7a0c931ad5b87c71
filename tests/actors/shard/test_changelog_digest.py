"""The digest of a changelog: a function of its live records, whatever the order in which they came and went."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repertory.actors.shard.changelog_digest import ChangelogDigest

WRITES = st.lists(st.tuples(st.sampled_from(["a", "b", "\0stash/7", "\0seen/x/0"]), st.none() | st.binary(max_size=3)))


def digest_of(records: dict[str, bytes]) -> int:
    """Return the digest of a changelog that was just written."""
    digest = ChangelogDigest()
    for key, value in records.items():
        digest.write(key, value)
    return digest.value


@given(WRITES)
def test_it_depends_on_the_live_records_alone(writes: list[tuple[str, bytes | None]]) -> None:
    """Writes, repeated writes and tombstones, also of what is not there, lead to the sum over what is left."""
    digest, live = ChangelogDigest(), dict[str, bytes]()
    for key, value in writes:
        digest.write(key, value)
        if value is None:
            live.pop(key, None)
        else:
            live[key] = value
    assert digest.value == digest_of(live)
    assert len(digest) == len(live)


@given(st.dictionaries(st.text("abc\0", min_size=1, max_size=3), st.binary(max_size=3), min_size=1, max_size=5))
def test_a_missing_or_another_record_shows(records: dict[str, bytes]) -> None:
    """One record less, one value or one key that differs: the digest is another one."""
    whole = digest_of(records)
    for key, value in records.items():
        rest = {other: kept for other, kept in records.items() if other != key}
        assert digest_of(rest) != whole
        assert digest_of({**records, key: value + b"x"}) != whole
        assert digest_of({**rest, key + "d": value}) != whole
