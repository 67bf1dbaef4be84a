"""The history of a channel: exactly the missed ones or a plain gap, within count, bytes and age."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico import LocalError
from portico.brokers import Position, Retention
from portico.brokers.history import History

retentions = st.builds(
    Retention,
    count=st.integers(1, 8),
    max_bytes=st.integers(10, 60),
    age_s=st.sampled_from([1.0, 3.0, 100.0]),
)
steps = st.lists(st.tuples(st.binary(max_size=10), st.sampled_from([0.0, 0.5, 1.0, 2.5])), max_size=40)


def left(sent: list[tuple[int, float, bytes]], keep: Retention, now: float) -> list[tuple[int, float, bytes]]:
    """What the rule keeps: the longest run of the newest that is within every bound."""
    kept: list[tuple[int, float, bytes]] = []
    for entry in reversed(sent):
        size = sum(len(payload) for _, _, payload in kept) + len(entry[2])
        if len(kept) == keep.count or size > keep.max_bytes or entry[1] + keep.age_s <= now:
            break
        kept.insert(0, entry)
    return kept


@given(retentions, steps)
def test_since_gives_exactly_the_missed_ones_or_a_gap_from_every_position(
    keep: Retention, taken: list[tuple[bytes, float]]
) -> None:
    history, now = History(0.0, keep), 0.0
    sent: list[tuple[int, float, bytes]] = []
    for payload, pause in taken:
        now += pause
        offset = history.append("node", payload, keep, now)
        sent.append((offset, now, payload))
        kept = left(sent, keep, now)
        assert [(e.offset, e.at, e.payload) for e in history.last(None, now)] == kept
        assert history.bytes == sum(len(payload) for _, _, payload in kept) <= keep.max_bytes
    now += 0.5
    kept = left(sent, keep, now)
    for offset in range(len(sent) + 1):
        got = history.since(Position(history.epoch, offset), now)
        if len(sent) - offset <= len(kept):
            assert [entry.offset for entry in got if not isinstance(entry, str)] == list(
                range(offset + 1, len(sent) + 1)
            )
        else:
            assert (
                got == f"{len(sent) - offset - len(kept)} of the {len(sent) - offset} messages after that position "
                "are no longer kept"
            )
    for count in range(len(kept) + 2):
        assert [entry.offset for entry in history.last(count, now)] == [
            e[0] for e in kept[len(kept) - min(count, len(kept)) :]
        ]


@pytest.mark.parametrize("offset", [-1, 2, 2**63])
def test_an_offset_that_never_was_is_a_gap(offset: int) -> None:
    history = History(0.0)
    history.append("node", b"", Retention(), 0.0)
    assert isinstance(history.since(Position(history.epoch, offset), 0.0), str)


def test_another_epoch_is_a_gap_although_the_offset_exists() -> None:
    history = History(0.0)
    history.append("node", b"", Retention(), 0.0)
    assert history.since(Position("another", 1), 0.0) == "the history has begun anew since that position"
    assert History(0.0).epoch != history.epoch


def test_a_position_before_anything_was_sent_recovers_all_of_it() -> None:
    history = History(0.0)
    start = history.position
    assert (start.offset, history.since(start, 0.0)) == (0, [])
    history.append("node", b"first", Retention(), 0.0)
    assert [entry.payload for entry in history.since(start, 0.0) if not isinstance(entry, str)] == [b"first"]


def test_offsets_go_on_when_everything_has_grown_old() -> None:
    keep = Retention(age_s=1)
    history = History(0.0, keep)
    history.append("node", b"x", keep, 0.0)
    assert history.since(history.position, 5.0) == []
    assert len(history) == history.bytes == 0
    assert history.append("node", b"y", keep, 5.0) == 2


def test_the_last_retention_counts() -> None:
    history = History(0.0)
    for number in range(10):
        history.append("node", b"%d" % number, Retention(count=100), 0.0)
    history.append("node", b"last", Retention(count=2), 0.0)
    assert [entry.payload for entry in history.last(None, 0.0)] == [b"9", b"last"]


def test_a_message_that_never_fits_says_what_to_set_and_changes_nothing() -> None:
    history = History(0.0)
    with pytest.raises(LocalError, match=r"101 bytes .* Retention\(max_bytes=100\); raise that, or .* keep=None"):
        history.append("node", b"x" * 101, Retention(max_bytes=100), 0.0)
    assert (history.head, len(history), history.bytes) == (0, 0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"count": count} for count in (0, -1, 1.5, True, None)),
        *({"age_s": age_s} for age_s in (0, float("inf"), float("nan"), "60")),
        {"max_bytes": 0},
    ],
    ids=str,
)
def test_a_retention_without_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(LocalError, match=f"Retention\\({next(iter(wrong))}="):
        Retention(**wrong)  # type: ignore[arg-type]


@given(st.text(max_size=20), st.integers(0, 2**62))
def test_a_position_reads_what_it_wrote(epoch: str, offset: int) -> None:
    position = Position(epoch, offset)
    if epoch:
        assert Position.parse(str(position)) == position
    else:
        with pytest.raises(LocalError):
            Position.parse(str(position))


@given(st.text(max_size=300))
def test_what_a_client_sends_for_a_position_is_one_or_is_refused(text: str) -> None:
    try:
        position = Position.parse(text)
    except LocalError:
        return
    assert position.epoch
    assert 0 <= position.offset < 10**19
