"""Masking (RFC 6455 §5.3), both of its twins, and the keys (§10.3)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.wire import raw

import portico
from portico.wire import masking
from portico.wire.masking import _apply_mask, apply_mask, fresh_key

Mask = Callable[[bytes | bytearray, int, int, int, int], bytes]

TWINS = {"chosen": apply_mask, "python": _apply_mask}
KEY = 0x37FA213D


@pytest.fixture(params=TWINS)
def mask(request: pytest.FixtureRequest) -> Mask:
    return TWINS[request.param]


def test_the_compiled_build_masks_with_the_compiled_twin() -> None:
    compiled = importlib.util.find_spec("portico.wire._masking") if portico.compiled else None
    assert (masking.apply_mask is not masking._apply_mask) == portico.compiled
    assert (compiled is not None) == portico.compiled


def test_octet_i_is_xored_with_octet_i_modulo_4_of_the_key(mask: Mask) -> None:  # §5.3
    data = bytes(range(256)) * 2
    assert mask(data, 0, len(data), KEY, 0) == raw.mask(data)


def test_the_example_of_the_rfc(mask: Mask) -> None:  # §5.7
    assert mask(b"Hello", 0, 5, KEY, 0) == b"\x7f\x9f\x4d\x51\x58"
    assert mask(b"\x7f\x9f\x4d\x51\x58", 0, 5, KEY, 0) == b"Hello"


@pytest.mark.parametrize("key", [0, 1, 0x80000000, 0xFF, 0xFFFFFFFF, 0x01020304, KEY])
def test_every_length_alignment_and_phase(mask: Mask, key: int) -> None:  # §5.3
    octets = key.to_bytes(4, "big")
    source = bytes((i * 37 + 11) & 0xFF for i in range(80))
    for length in range(65):
        for start in range(9):
            for phase in range(4):
                wanted = bytes(source[start + i] ^ octets[(i + phase) % 4] for i in range(length))
                assert mask(source, start, start + length, key, phase) == wanted


def test_pieces_masked_by_phase_make_the_whole(mask: Mask) -> None:  # §5.3: i counts from the frame's start
    data = os.urandom(100)
    for cut in range(101):
        assert mask(data, 0, cut, KEY, 0) + mask(data, cut, 100, KEY, cut & 3) == raw.mask(data)


def test_masking_copies_and_gives_bytes(mask: Mask) -> None:
    data = bytearray(b"Hello")
    for key in (0, KEY):
        made = mask(data, 0, 5, key, 0)
        assert type(made) is bytes
        assert data == b"Hello"
    assert mask(data, 0, 0, KEY, 0) == b""


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (0, 6), (3, 2), (6, 6), (-2, -1), (0, 1 << 40)])
def test_a_span_outside_the_data_is_an_index_error(mask: Mask, start: int, end: int) -> None:
    for key in (0, KEY):
        with pytest.raises(IndexError):
            mask(b"Hello", start, end, key, 0)


def test_keys_are_drawn_from_the_system_and_never_zero(monkeypatch: pytest.MonkeyPatch) -> None:  # §5.3, §10.3
    """A client MUST pick a fresh key from a strong source of entropy for every frame."""
    drawn = []

    def entropy(size: int) -> bytes:
        drawn.append(bytes(4) + os.getrandom(size - 4))
        return drawn[-1]

    masking._keys.clear()
    with monkeypatch.context() as patch:
        patch.setattr(masking.os, "urandom", entropy)
        keys = [fresh_key() for _ in range(3000)]
    masking._keys.clear()
    pools = [[pool[i : i + 4] for i in range(0, len(pool), 4)] for pool in drawn]
    source = [int.from_bytes(octets, "big") for pool in pools for octets in reversed(pool)]
    assert keys == [key for key in source if key][:3000]
    assert 0 not in keys


def test_a_forked_process_draws_other_keys() -> None:  # §10.3: not predictable, not even by a sibling
    script = """
import os
from portico.wire.masking import fresh_key
fresh_key()
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, b"".join(fresh_key().to_bytes(4, "big") for _ in range(100)))
    os._exit(0)
os.wait()
child = os.read(read, 400)
parent = b"".join(fresh_key().to_bytes(4, "big") for _ in range(100))
assert len(child) == 400
assert not {child[i:i + 4] for i in range(0, 400, 4)} & {parent[i:i + 4] for i in range(0, 400, 4)}
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
