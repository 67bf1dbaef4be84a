"""UTF-8 as it arrives (RFC 3629 §4; RFC 6455 §8.1): a bad byte is refused when it comes, and not before."""

from __future__ import annotations

import itertools

import pytest

from portico.wire.utf8 import check_piece

EDGES = (0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED)
EDGES += (0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF)


def continuations(sequence: bytes) -> list[tuple[int, int]]:
    """What RFC 3629 §4 lets follow the first byte of a sequence: for each further byte its lowest and highest."""
    first = sequence[0]
    if first < 0x80:
        return []
    if 0xC2 <= first <= 0xDF:
        return [(0x80, 0xBF)]
    if 0xE0 <= first <= 0xEF:
        second = {0xE0: (0xA0, 0xBF), 0xED: (0x80, 0x9F)}.get(first, (0x80, 0xBF))
        return [second, (0x80, 0xBF)]
    if 0xF0 <= first <= 0xF4:
        second = {0xF0: (0x90, 0xBF), 0xF4: (0x80, 0x8F)}.get(first, (0x80, 0xBF))
        return [second, (0x80, 0xBF), (0x80, 0xBF)]
    raise ValueError("no sequence begins so")


def first_bad_byte(data: bytes) -> tuple[int | None, bytes]:
    """By the grammar of RFC 3629 §4: where the first byte is that no text can have; what is unfinished at the end."""
    at = 0
    while at < len(data):
        try:
            further = continuations(data[at:])
        except ValueError:
            return at, b""
        for i, (low, high) in enumerate(further, at + 1):
            if i == len(data):
                return None, data[at:]
            if not low <= data[i] <= high:
                return i, b""
        at += 1 + len(further)
    return None, b""


def by_bytes(data: bytes) -> tuple[int | None, bytes]:
    """The same by `check_piece`, which gets one byte at a time."""
    pending = b""
    for at in range(len(data)):
        try:
            pending = check_piece(pending, data[at : at + 1])
        except UnicodeDecodeError:
            return at, b""
    return None, pending


def test_every_sequence_of_edge_bytes_fails_at_the_byte_that_no_text_can_have() -> None:  # RFC 3629 §4
    for length in (1, 2, 3):
        for octets in itertools.product(EDGES, repeat=length):
            assert by_bytes(bytes(octets)) == first_bad_byte(bytes(octets)), bytes(octets)
    for first, second in itertools.product((0xF0, 0xF1, 0xF4), (0x80, 0x8F, 0x90, 0xBF)):
        for rest in itertools.product(EDGES, repeat=2):
            data = bytes((first, second, *rest))
            assert by_bytes(data) == first_bad_byte(data), data


def test_every_code_point_passes_torn_at_every_byte() -> None:
    for point in (
        *range(0x80, 0xD800, 7),
        *range(0xE000, 0x110000, 997),
        0x7FF,
        0x800,
        0xD7FF,
        0xFFFF,
        0x10000,
        0x10FFFF,
    ):
        data = chr(point).encode()
        for cut in range(len(data) + 1):
            pending = check_piece(b"", data[:cut])
            assert pending == (data[:cut] if cut < len(data) else b"")
            assert check_piece(pending, data[cut:]) == b""


@pytest.mark.parametrize("surrogate", [0xD800, 0xDBFF, 0xDC00, 0xDFFF])
def test_a_surrogate_fails_at_its_second_byte(surrogate: int) -> None:  # RFC 3629 §3
    assert by_bytes(chr(surrogate).encode("utf-8", "surrogatepass")) == (1, b"")


def test_the_unfinished_code_point_is_at_most_three_bytes() -> None:
    assert check_piece(b"", "long text \U0001f600".encode()[:-1]) == b"\xf0\x9f\x98"
    assert check_piece(b"\xf0\x9f\x98", b"\x80 and on \xe2\x82") == b"\xe2\x82"


def test_an_empty_piece_changes_nothing() -> None:
    assert check_piece(b"", b"") == b""
    assert check_piece(b"\xe2\x82", b"") == b"\xe2\x82"
