"""The corpus of requests through the parser: whole, torn at every byte, at each one byte and at random ones.

What could be read in two ways is refused, with the status and for the reason that the corpus says; what is only odd is
accepted, and what follows it is read as the next request (RFC 9112 §11.2).
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import pytest
from tests.wire.corpus.cases import CASES, Case, unescape

from portico.limits import Limits
from portico.wire.handshake import HandshakeRefused, check_upgrade
from portico.wire.http1 import END, Rejected, RequestHead, RequestParser

NEXT = b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"
LIMITS = Limits()


every_case = pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])


def verdict(chunks: Iterable[bytes]) -> list[object]:
    """What the parser makes of these: heads as plain values, bodies in one piece, a refusal as it is."""
    parser = RequestParser(LIMITS)
    found: list[object] = []
    for chunk in chunks:
        for event in parser.feed(chunk):
            if isinstance(event, RequestHead):
                found.append((event.method, event.target, event.version, tuple(event.headers), event.upgrade))
            elif isinstance(event, bytes) and found and isinstance(found[-1], bytes):
                found[-1] += event
            else:
                found.append(event)
    return found


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    return [data[start:end] for start, end in pairwise([0, *places, len(data)])]


@every_case
def test_what_becomes_of_it(case: Case) -> None:
    parser = RequestParser(LIMITS)
    events = parser.feed(case.sent)
    heads = [event for event in events if isinstance(event, RequestHead)]
    if case.stage == "upgrade":  # the head is well-formed; the handshake refuses it
        with pytest.raises(HandshakeRefused, match=case.says) as refused:
            check_upgrade(heads[0])
        assert refused.value.http_status == case.status
        assert parser.feed(NEXT) == []
    elif case.accepted:
        assert not any(isinstance(event, Rejected) for event in events), events[-1]
        assert len(heads) == events.count(END) == case.requests
        assert b"".join(event for event in events if isinstance(event, bytes)) == (case.body or b"")
        following = [event.target for event in parser.feed(NEXT) if isinstance(event, RequestHead)]
        assert following == ([] if case.closes else [b"/next"])
    else:
        last = events[-1]
        assert isinstance(last, Rejected), "accepted"
        assert last.status == case.status, last
        assert case.says in last.reason
        assert events.count(END) == case.requests
        assert len(heads) == case.requests + (case.stage == "body")
        assert parser.feed(NEXT) == []


@every_case
def test_torn_anywhere_it_is_the_same(case: Case) -> None:
    data = case.sent + NEXT
    whole = verdict([data])
    assert verdict(cut(data, range(1, len(data)))) == whole
    if len(data) < 2000:
        for place in range(1, len(data)):
            assert verdict(cut(data, [place])) == whole, place
    dice = random.Random(case.id)
    for _ in range(20):
        places = sorted(dice.sample(range(1, len(data)), dice.randint(1, 8)))
        assert verdict(cut(data, places)) == whole, places


class TestTheCorpusItself:
    def test_is_large_and_has_both_sides(self) -> None:
        assert len([case for case in CASES if not case.accepted]) >= 300
        assert len([case for case in CASES if case.accepted]) >= 100

    def test_says_each_thing_once(self) -> None:
        sent = [case.sent for case in CASES]
        assert [case.id for case in CASES if sent.count(case.sent) > 1] == []

    def test_names_the_rule_behind_each(self) -> None:
        assert [case.id for case in CASES if "RFC " not in case.see] == []

    @pytest.mark.parametrize(
        ("text", "data"),
        [
            ("a\nb", b"ab"),
            (r"\r\n\t\\\x00\xff", b"\r\n\t\\\x00\xff"),
            (r"\{3*ab}c", b"abababc"),
            (r"\{2*a\{3*b}\x20}", b"abbb abbb "),
            ("{}", b"{}"),
        ],
    )
    def test_escapes(self, text: str, data: bytes) -> None:
        assert unescape(text) == data

    def test_an_unknown_escape_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="unknown escape"):
            unescape(r"\q")
