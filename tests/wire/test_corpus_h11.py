"""h11 as an oracle for the corpus: what it refuses, we refuse; what both accept, both read alike."""

from __future__ import annotations

import pytest
from tests.wire.corpus.cases import CASES, Case
from tests.wire.corpus.oracle import by_h11, by_us

# What h11 refuses and we accept, each with its reason.
ONLY_H11_REFUSES = {
    "chunks: white space before an extension": "RFC 9112 §7.1.1: BWS, which a recipient MUST parse",
    "trailers: Transfer-Encoding and Host": "h11 reads trailers as it reads a head; ours are dropped unread",
}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_what_h11_refuses_we_refuse_and_what_both_accept_is_the_same(case: Case) -> None:
    theirs, they_refuse = by_h11(case.sent)
    ours, we_refuse = by_us(case.sent)
    if they_refuse and not we_refuse:
        assert case.id in ONLY_H11_REFUSES, "h11 refuses, we accept"
        return
    assert case.id not in ONLY_H11_REFUSES, "no exception is needed"
    if not they_refuse and not we_refuse and case.stage != "upgrade":
        assert ours == theirs


def test_the_oracle_refuses_enough_to_be_one() -> None:
    assert sum(by_h11(case.sent)[1] for case in CASES) >= 150
