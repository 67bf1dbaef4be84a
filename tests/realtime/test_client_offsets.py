"""Which last argument of an event is an offset of connection state recovery, and which is the application's."""

from __future__ import annotations

import time

import pytest

from portico.realtime_client.offsets import is_offset

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"


def yeast(milliseconds: int) -> str:
    """As Node's in-memory adapter writes the time."""
    text = ""
    while milliseconds:
        milliseconds, digit = divmod(milliseconds, 64)
        text = DIGITS[digit] + text
    return text


NOW = yeast(int(time.time() * 1000))


@pytest.mark.parametrize(
    "offset",
    [
        NOW,
        NOW + ".1",
        "1700000000000-0",
        "0123456789abcdef01234567",
        "aZG-n1Hq_dPM:0",
        "aZG-n1Hq_dPM:9223372036854775807",
    ],
    ids=["Node", "Node, the second in its millisecond", "Redis streams", "MongoDB", "Portico", "Portico, late"],
)
def test_an_offset_is_told_by_its_form(offset: str) -> None:
    assert is_offset(offset)


@pytest.mark.parametrize(
    "value", ["", "hello", "message", "0000000", "localhost", "17:30", 5, None, b"1700000000000-0", []]
)
def test_other_values_are_the_applications(value: object) -> None:
    assert not is_offset(value)
