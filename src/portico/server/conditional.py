"""What a request asks of one representation: conditions, ranges and codings (RFC 9110 §13, §14, §12.5.3).

Functions of header values alone: no file, clock or connection is touched here.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Sequence
from email.utils import parsedate

from portico.wire.headers import Headers

MAX_RANGES = 32
"""A Range header with more members than this is ignored: the whole file is the cheaper answer (RFC 9110 §14.2)."""

_ENTITY_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"([0-9]*)-([0-9]*)")
_QUALITY = re.compile(r"[ \t]*q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)[ \t]*", re.IGNORECASE)
_MOST_DIGITS = 18  # a longer number is larger than any file, and is not worth converting


def precondition(headers: Headers, etag: str, modified: int) -> int | None:
    """The status that the conditions of a GET or HEAD ask for: 412, 304, or None for none (RFC 9110 §13.2.2).

    `etag` is the current, strong entity tag; `modified` its time of modification in whole seconds since the epoch.
    A date that is none is ignored.
    """
    if_match = headers.get_all("if-match")
    if if_match:
        if not _matches(if_match, etag, weak=False):
            return 412
    elif (limit := parse_date(headers.get("if-unmodified-since"))) is not None and modified > limit:
        return 412
    if_none_match = headers.get_all("if-none-match")
    if if_none_match:
        return 304 if _matches(if_none_match, etag, weak=True) else None
    since = parse_date(headers.get("if-modified-since"))
    return 304 if since is not None and modified <= since else None


def _matches(values: list[str], etag: str, *, weak: bool) -> bool:
    """Whether `etag` is in these lists; strong comparison unless `weak` (RFC 9110 §8.8.3.2)."""
    joined = ",".join(values)
    if joined.strip(" \t") == "*":
        return True
    return any(tag == etag or (weak and tag == "W/" + etag) for tag in _ENTITY_TAG.findall(joined))


def parse_date(value: str | None) -> int | None:
    """An HTTP-date in any of its three forms as seconds since the epoch; None where it is none (RFC 9110 §5.6.7)."""
    if value is None:
        return None
    try:
        parts = parsedate(value)
        return calendar.timegm(parts) if parts is not None else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def ranges(headers: Headers, size: int, etag: str, last_modified: int | None) -> list[tuple[int, int]] | None:
    """The parts of `size` bytes that a GET asks for, as (start, end); None: all of it; empty: none can be had (416).

    They come in ascending order, overlapping and touching ones joined. A header that is malformed, asks in another
    unit or has more than `MAX_RANGES` members is ignored, and so is one whose If-Range names another version
    (RFC 9110 §13.1.5, §14.2). `last_modified` is the date that was given to clients, None if they got none.
    """
    value = headers.get("range")
    if value is None or not size or not _if_range(headers.get("if-range"), etag, last_modified):
        return None
    unit, equals, listed = value.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    members = [part for part in (member.strip(" \t") for member in listed.split(",")) if part]
    if not 0 < len(members) <= MAX_RANGES:
        return None
    wanted: list[tuple[int, int]] = []
    for member in members:
        match = _RANGE.fullmatch(member)
        if match is None or member == "-":
            return None
        first, last = (_number(digits, size) for digits in match.groups())
        if first is None:  # the last so many bytes
            first, last = size - min(last or 0, size), size - 1
        elif last is None:
            last = size - 1
        elif last < first:
            return None
        if first < size:
            wanted.append((first, min(last + 1, size)))
    return _joined(wanted)


def _number(digits: str, size: int) -> int | None:
    if not digits:
        return None
    return int(digits) if len(digits) <= _MOST_DIGITS else max(size, 10**_MOST_DIGITS)


def _joined(wanted: list[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for start, end in sorted(wanted):
        if joined and start <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((start, end))
    return joined


def _if_range(value: str | None, etag: str, last_modified: int | None) -> bool:
    if value is None or value == etag:
        return True
    return '"' not in value and last_modified is not None and parse_date(value) == last_modified


def choose_coding(accept_encoding: Sequence[str], available: Sequence[str]) -> str | None:
    """Which of the content codings `available`, best first, to send; None: the file as it is (RFC 9110 §12.5.3).

    The highest q-value wins, then the order of `available`. Without an Accept-Encoding, or where the header wants
    none of them, the answer is None: a file as it is can be read by everyone.
    """
    wanted: dict[str, float] = {}
    for member in ",".join(accept_encoding).split(","):
        name, semicolon, parameter = member.partition(";")
        match = _QUALITY.fullmatch(parameter) if semicolon else None
        if semicolon and match is None:
            continue
        coding = name.strip(" \t").lower().removeprefix("x-")
        if coding:
            wanted[coding] = float(match[1]) if match else 1.0
    others = wanted.get("*", 0.0)
    best, quality = None, wanted.get("identity", 0.0)
    for coding in available:
        theirs = wanted.get(coding, others)
        if theirs > quality or (theirs == quality > 0 and best is None):
            best, quality = coding, theirs
    return best
