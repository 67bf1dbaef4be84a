"""Sec-WebSocket-Extensions (RFC 6455 §9.1) and the negotiation of permessage-deflate (RFC 7692 §7)."""

from __future__ import annotations

import pytest

from portico.errors import ProtocolError
from portico.limits import Deflate
from portico.wire.extensions import Agreed, accept_offer, check_answer, format_extension, make_offer, parse

FULL = Deflate(server_context_takeover=True, client_context_takeover=True)
PMD = "permessage-deflate"


@pytest.mark.parametrize(
    ("values", "extensions"),
    [
        ([], []),
        (["", " , ,"], []),
        (["a"], [("a", [])]),
        (["a, b;x", "c"], [("a", []), ("b", [("x", None)]), ("c", [])]),
        (['a ; x = 1;y="2" ; z'], [("a", [("x", "1"), ("y", "2"), ("z", None)])]),
        ([r'a;x="1\5"'], [("a", [("x", "15")])]),
    ],
)
def test_extensions_are_parsed(values: list[str], extensions: object) -> None:  # RFC 6455 §9.1
    assert parse(values) == extensions


@pytest.mark.parametrize(
    "value",
    ["a b", "a;", "a;;b", ";a", "a;x=", 'a;x="', 'a;x="1', 'a;x="a b"', 'a;x=""', 'a;x="1"2', "a;=1", "a=1", "é"],
)
def test_a_malformed_header_is_refused_with_400(value: str) -> None:  # RFC 6455 §9.1
    with pytest.raises(ProtocolError) as caught:
        parse([value])
    assert caught.value.http_status == 400


def test_long_headers_are_parsed() -> None:
    assert parse([", " * 500_000 + "a"]) == [("a", [])]
    assert len(parse([", ".join(["a;b=c"] * 10_000)])) == 10_000
    assert parse(["a;x=" + " " * 500_000 + "1" + "\t" * 500_000]) == [("a", [("x", "1")])]
    with pytest.raises(ProtocolError):
        parse(['a;x="' + "\\" * 500_001])


def test_an_extension_is_written_as_it_is_parsed() -> None:
    value = format_extension("a", [("x", None), ("y", "1")])
    assert value == "a; x; y=1"
    assert parse([value]) == [("a", [("x", None), ("y", "1")])]


# The server's choice


@pytest.mark.parametrize(
    ("offer", "config", "answer"),
    [
        # Stateless by default: the server may impose either (RFC 7692 §7.1.1)
        ("", Deflate(), "; server_no_context_takeover; client_no_context_takeover"),
        ("", FULL, ""),
        ("; server_no_context_takeover", FULL, "; server_no_context_takeover"),
        ("; client_no_context_takeover", FULL, "; client_no_context_takeover"),
        # §7.1.2.1: an asked window is answered; a smaller one may be imposed
        ("; server_max_window_bits=10", FULL, "; server_max_window_bits=10"),
        ("; server_max_window_bits=15", FULL, "; server_max_window_bits=15"),
        ('; server_max_window_bits="10"', FULL, "; server_max_window_bits=10"),
        (
            "; server_max_window_bits=12",
            Deflate(server_context_takeover=True, client_context_takeover=True, server_max_window_bits=9),
            "; server_max_window_bits=9",
        ),
        (
            "",
            Deflate(server_context_takeover=True, client_context_takeover=True, server_max_window_bits=11),
            "; server_max_window_bits=11",
        ),
        # §7.1.2.2: only where the client offered it
        ("; client_max_window_bits", FULL, ""),
        ("; client_max_window_bits=10", FULL, "; client_max_window_bits=10"),
        ("; client_max_window_bits=8", FULL, ""),
        (
            "; client_max_window_bits",
            Deflate(server_context_takeover=True, client_context_takeover=True, client_max_window_bits=12),
            "; client_max_window_bits=12",
        ),
        (
            "",
            Deflate(server_context_takeover=True, client_context_takeover=True, client_max_window_bits=12),
            "",
        ),
    ],
)
def test_the_server_answers_an_offer(offer: str, config: Deflate, answer: str) -> None:
    accepted = accept_offer([PMD + offer], config)
    assert accepted is not None
    agreed, value = accepted
    assert value == PMD + answer
    assert agreed == check_answer([value], FULL)


@pytest.mark.parametrize(
    "parameters",
    [
        "server_max_window_bits=8",  # zlib can't
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=010",
        "server_max_window_bits=9x",
        "client_max_window_bits=0",
        "client_max_window_bits=16",
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "client_no_context_takeover; client_no_context_takeover",
        "server_max_window_bits=10; server_max_window_bits=10",
        "unknown",
        "unknown=1",
    ],
)
def test_an_offer_that_can_not_be_accepted_is_declined_and_the_next_tried(parameters: str) -> None:  # RFC 7692 §7
    declined = f"{PMD}; {parameters}"
    assert accept_offer([declined], FULL) is None
    assert accept_offer([declined, f"x-other, {PMD}; server_no_context_takeover"], FULL) == (
        Agreed(True, False, 15, 15),
        f"{PMD}; server_no_context_takeover",
    )


def test_no_offer_or_no_config_is_no_compression() -> None:
    assert accept_offer([], FULL) is None
    assert accept_offer(["x-webkit-deflate-frame"], FULL) is None
    assert accept_offer([PMD], None) is None


def test_a_malformed_offer_is_refused_even_without_a_config() -> None:
    with pytest.raises(ProtocolError):
        accept_offer(["a b"], None)


# The client's offer and the server's answer


@pytest.mark.parametrize(
    ("config", "offer"),
    [
        (Deflate(), "; server_no_context_takeover; client_no_context_takeover; client_max_window_bits"),
        (FULL, "; client_max_window_bits"),
        (
            Deflate(server_context_takeover=True, server_max_window_bits=10, client_max_window_bits=9),
            "; client_no_context_takeover; server_max_window_bits=10; client_max_window_bits=9",
        ),
    ],
)
def test_the_offer(config: Deflate, offer: str) -> None:  # RFC 7692 §7.1
    assert make_offer(config) == PMD + offer


@pytest.mark.parametrize(
    ("config", "answer", "agreed"),
    [
        (FULL, "", Agreed(False, False, 15, 15)),
        (FULL, "; server_no_context_takeover", Agreed(True, False, 15, 15)),
        (FULL, "; client_no_context_takeover", Agreed(False, True, 15, 15)),
        (FULL, "; server_max_window_bits=8; client_max_window_bits=9", Agreed(False, False, 8, 9)),
        (Deflate(), "; server_no_context_takeover", Agreed(True, True, 15, 15)),
        (Deflate(client_max_window_bits=10), "; server_no_context_takeover", Agreed(True, True, 15, 10)),
    ],
)
def test_a_valid_answer_is_agreed(config: Deflate, answer: str, agreed: Agreed) -> None:
    assert check_answer([PMD + answer], config) == agreed


def test_no_answer_is_no_compression() -> None:
    assert check_answer([], FULL) is None
    assert check_answer([], None) is None


@pytest.mark.parametrize(
    ("config", "answer"),
    [
        (None, PMD),
        (FULL, "x-other"),
        (FULL, f"{PMD}, x-other"),
        (FULL, f"{PMD}, {PMD}"),
        (FULL, f"{PMD}; unknown"),
        (FULL, f"{PMD}; client_max_window_bits"),
        (FULL, f"{PMD}; server_max_window_bits"),
        (FULL, f"{PMD}; server_max_window_bits=16"),
        (FULL, f"{PMD}; server_no_context_takeover=x"),
        (FULL, f"{PMD}; server_no_context_takeover; server_no_context_takeover"),
        (FULL, f"{PMD}; client_max_window_bits=8"),
        (Deflate(server_context_takeover=True, client_max_window_bits=10), f"{PMD}; client_max_window_bits=11"),
        (Deflate(), PMD),
        (Deflate(server_context_takeover=True, server_max_window_bits=10), PMD),
        (Deflate(server_context_takeover=True, server_max_window_bits=10), f"{PMD}; server_max_window_bits=11"),
        (FULL, f"{PMD};"),
    ],
)
def test_an_answer_that_does_not_fit_the_offer_fails(config: Deflate | None, answer: str) -> None:  # RFC 7692 §7.1
    with pytest.raises(ProtocolError):
        check_answer([answer], config)


def test_both_sides_agree_on_the_same_whatever_they_are_set_to() -> None:
    configs = [
        Deflate(
            server_context_takeover=server,
            client_context_takeover=client,
            server_max_window_bits=server_bits,
            client_max_window_bits=client_bits,
        )
        for server in (False, True)
        for client in (False, True)
        for server_bits in (9, 12, 15)
        for client_bits in (9, 15)
    ]
    for ours in configs:
        for theirs in configs:
            accepted = accept_offer([make_offer(theirs)], ours)
            assert accepted is not None
            assert check_answer([accepted[1]], theirs) == accepted[0]
