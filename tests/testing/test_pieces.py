"""Torn input is the same input."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import portico
from portico.testing import cuts, torn


@given(st.binary(max_size=5000), st.none() | st.integers())
def test_the_pieces_are_the_whole_and_none_is_empty(data: bytes, seed: int | None) -> None:
    pieces = torn(data, seed)
    assert b"".join(pieces) == data
    assert all(pieces)
    assert pieces == torn(data, seed), "the same seed tears in the same places"


def test_every_byte_by_itself() -> None:
    assert torn(b"abc") == [b"a", b"b", b"c"]


def test_a_generator_goes_on() -> None:
    rng = random.Random(1)
    data = bytes(10_000)
    assert torn(data, rng) == torn(data, 1)
    assert torn(data, rng) != torn(data, 1)


def test_short_pieces_and_long_ones() -> None:
    sizes = [len(piece) for piece in torn(bytes(1_000_000), 1)]
    assert min(sizes) == 1
    assert max(sizes) > 4000
    assert sum(size <= 64 for size in sizes) > len(sizes) // 3


def test_every_cut() -> None:
    assert list(cuts(b"ab")) == [(b"", b"ab"), (b"a", b"b"), (b"ab", b"")]
    assert list(cuts(b"")) == [(b"", b"")]


def test_some_cuts() -> None:
    some = list(cuts(bytes(range(200)), most=20, seed=5))
    assert len(some) == 20
    assert some == list(cuts(bytes(range(200)), most=20, seed=5))
    assert all(left + right == bytes(range(200)) for left, right in some)
    with pytest.raises(portico.LocalError):
        next(cuts(b"", most=0))
