"""Offsets of connection state recovery: the last argument of an event, where the server has the recovery on.

Nothing on the wire tells an offset from an argument of the application's: a volatile event carries none. So it is
told by its form: that of the in-memory and cluster adapters of Node's socket.io (a time, in their base 64), of the one
over Redis streams (``1700000000000-0``), of the one over MongoDB (24 hexadecimal digits), and Portico's.
"""

from __future__ import annotations

import re
import time
from typing import Any, Final

YEAR_MS: Final = 365 * 86400 * 1000
_DIGITS: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_"
_YEAST = re.compile(r"([0-9A-Za-z_-]{7})(?:\.[0-9A-Za-z_-]{1,6})?")
_STREAM = re.compile(r"[0-9]{13}-[0-9]{1,10}")
_PORTICO = re.compile(r"[0-9A-Za-z_-]{8,64}:[0-9]{1,19}")
_MONGO = re.compile(r"[0-9a-f]{24}")


def is_offset(text: Any) -> bool:
    """Whether `text` is a str that has the form of an offset."""
    if not isinstance(text, str):
        return False
    yeast = _YEAST.fullmatch(text)
    if yeast is not None:
        value = 0
        for digit in yeast[1]:
            value = value * 64 + _DIGITS.index(digit)
        return abs(value - time.time() * 1000) < YEAR_MS
    return any(form.fullmatch(text) is not None for form in (_PORTICO, _STREAM, _MONGO))
