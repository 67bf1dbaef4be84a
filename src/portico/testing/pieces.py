"""Torn input for code that does no I/O: the same bytes, in every way that a network may hand them over."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Final

from portico.errors import LocalError

SPANS: Final = ((1, 8), (9, 64), (65, 512), (513, 4096))  # of random pieces, one as often as another


def torn(data: bytes, seed: int | random.Random | None = None) -> list[bytes]:
    """`data` in pieces: every byte by itself, or random pieces from `seed` (a number, or a generator to go on with).

    None is empty, and together they are `data`. Random ones are short ones mostly, where parsers keep their mistakes,
    and long ones now and then.

    ::

        for piece in torn(frames, seed):
            events += parser.feed(piece)
    """
    if seed is None:
        return [data[at : at + 1] for at in range(len(data))]
    rng = seed if isinstance(seed, random.Random) else random.Random(seed)
    pieces = []
    at = 0
    while at < len(data):
        size = piece_size(rng)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def piece_size(rng: random.Random) -> int:
    """How long the next random piece is, in bytes."""
    return rng.randint(*rng.choice(SPANS))


def cuts(data: bytes, most: int | None = None, seed: int = 0) -> Iterator[tuple[bytes, bytes]]:
    """`data` in two pieces, cut at every place from 0 to its end; with `most`, at so many places at random.

    Raises LocalError for a `most` below 1.
    """
    if most is not None and most < 1:
        raise LocalError(f"most={most!r}: expected a number of at least 1")
    places: list[int] | range = range(len(data) + 1)
    if most is not None and most < len(places):
        places = sorted(random.Random(seed).sample(places, most))
    for place in places:
        yield data[:place], data[place:]
