"""What proxies say of their clients: RFC 7239 and X-Forwarded-*, read from right to left by who is trusted."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico.errors import LocalError
from portico.wire.forwarded import MAX_HOPS, MAX_NODE, Forwarded, Malformed, Trust, forwarded, node, reader, x_forwarded

TRUST = Trust(["127.0.0.1", "10.0.0.0/8", "2001:db8:1::/48"])
CLIENT = "203.0.113.7"
FORGED = "198.51.100.66"

Raw = list[tuple[bytes, bytes]]


def xff(*values: str, **others: str) -> Raw:
    lines = [(b"x-forwarded-for", value.encode("latin-1")) for value in values]
    return lines + [(f"x-forwarded-{name}".encode(), value.encode("latin-1")) for name, value in others.items()]


def fwd(*values: str) -> Raw:
    return [(b"forwarded", value.encode("latin-1")) for value in values]


class TestTrust:
    @pytest.mark.parametrize(
        ("entries", "peer", "trusted"),
        [
            ([], ("127.0.0.1", 1), False),
            (["127.0.0.1"], ("127.0.0.1", 1), True),
            (["127.0.0.1"], ("127.0.0.2", 1), False),
            (["10.0.0.0/8"], ("10.255.0.1", 1), True),
            (["10.0.0.0/8"], ("11.0.0.1", 1), False),
            (["10.0.0.0/8"], ("::ffff:10.0.0.1", 1, 0, 0), True),  # on a socket that takes IPv4 and IPv6
            (["::ffff:10.0.0.0/104"], ("10.0.0.1", 1), True),
            (["::1"], ("::1", 1, 0, 0), True),
            (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
            (["0.0.0.0/0"], ("::1", 1, 0, 0), False),
            (["127.0.0.1"], "", False),
            (["unix"], "", True),
            (["unix"], "/run/peer.sock", True),
            (["unix"], b"\0abstract", True),
            (["unix"], ("127.0.0.1", 1), False),
            (["*"], ("203.0.113.1", 1), True),
            (["*"], "", True),
            (["*", "unix"], None, False),  # a PROXY header told that the client has no address
        ],
    )
    def test_who_is(self, entries: list[str], peer: Any, trusted: bool) -> None:
        trust = Trust(entries)
        assert trust.peer(peer) is trusted
        assert trust.peer(peer) is trusted, "also when asked again"
        assert bool(trust) is bool(entries)

    @pytest.mark.parametrize(
        "entry", ["localhost", "10.0.0.1/8", "1.2.3", "127.0.0.1:80", "", "unix:", 1, None, b"::1"]
    )
    def test_an_entry_that_is_none(self, entry: Any) -> None:
        with pytest.raises(LocalError, match="expected an address, a network"):
            Trust([entry])

    def test_anybody_at_the_socket_is_nobody_in_a_list(self) -> None:
        """With ``*`` the rightmost entry, which the proxy wrote, is the client; the others may be made up."""
        assert x_forwarded(xff(f"{FORGED}, 127.0.0.1, {CLIENT}"), Trust(["*"])).client == (CLIENT, 0)

    def test_what_is_remembered_is_bounded(self) -> None:
        trust = Trust(["10.0.0.0/8"])
        for number in range(10_000):
            trust.names(f"10.0.{number // 256}.{number % 256}")
        assert len(trust._known) <= 4096


class TestXForwarded:
    @pytest.mark.parametrize(
        ("value", "client"),
        [
            (CLIENT, (CLIENT, 0)),
            (f"{CLIENT}:4711", (CLIENT, 4711)),
            ("2001:db8::1", ("2001:db8::1", 0)),
            ("2001:DB8:0:0::1", ("2001:db8::1", 0)),
            ("[2001:db8::1]", ("2001:db8::1", 0)),
            ("[2001:db8::1]:443", ("2001:db8::1", 443)),
            ("::ffff:203.0.113.7", (CLIENT, 0)),
            (f" ,\t{CLIENT} , ", (CLIENT, 0)),  # empty members don't count (RFC 9110 §5.6.1)
            ("", None),
            (", ,", None),
            ("unknown", None),
            ("_hidden", None),
            # several hops
            (f"{FORGED}, {CLIENT}", (CLIENT, 0)),
            (f"{FORGED}, {CLIENT}, 10.1.2.3", (CLIENT, 0)),
            (f"{FORGED}, {CLIENT}, 2001:db8:1::9, 10.1.2.3, 127.0.0.1", (CLIENT, 0)),
            (f"127.0.0.1, 10.0.0.1, {CLIENT}, 10.1.2.3", (CLIENT, 0)),  # forged as trusted: not reached either
            ("10.9.9.9, 10.1.2.3", ("10.9.9.9", 0)),  # a client within the trusted network
            (f"{FORGED}, unknown, 10.1.2.3", ("10.1.2.3", 0)),  # hidden: the last address that is known
            (f"{FORGED}, _secret, 10.1.2.3", ("10.1.2.3", 0)),
            # what can't be read, but is not reached
            (f"<script>, {CLIENT}", (CLIENT, 0)),
            (f'"{FORGED}, {CLIENT}', (CLIENT, 0)),
            (f"999.1.1.1, {CLIENT}, 10.0.0.1", (CLIENT, 0)),
        ],
    )
    def test_the_client(self, value: str, client: tuple[str, int] | None) -> None:
        assert x_forwarded(xff(value), TRUST) == Forwarded(client, None, None)

    def test_lines_are_one_list(self) -> None:
        """RFC 9110 §5.3: in the order in which they came."""
        assert x_forwarded(xff(FORGED, f"{CLIENT}, 10.0.0.1", "10.0.0.2"), TRUST).client == (CLIENT, 0)

    @pytest.mark.parametrize(
        "value",
        [
            "garbage",
            "203.0.113",
            "203.0.113.999",
            "203.0.113.07",
            "203.0.113.7:",
            "203.0.113.7:65536",
            "203.0.113.7:1234567",
            "203.0.113.7:80:80",
            "[2001:db8::1",
            "2001:db8::1]",
            "[203.0.113.7]",
            "2001:db8::zz",
            "::1::",
            f"{CLIENT} {FORGED}",
            f"{CLIENT};{FORGED}",
            "http://203.0.113.7",
            "203.0.113.7/8",
            "_",
            "_hid den",
            "_" + "x" * 256,
            "\xb2\xb3.1.1.1",
            "٣.1.1.1".encode().decode("latin-1"),
            f"{CLIENT}, nonsense, 10.0.0.1",  # reached, as its right neighbour is trusted
        ],
    )
    def test_what_can_t_be_read_makes_nothing_count(self, value: str) -> None:
        with pytest.raises(Malformed):
            x_forwarded(xff(value, proto="https"), TRUST)

    @pytest.mark.parametrize(
        ("hops", "proto", "scheme"),
        [
            (CLIENT, "https", "https"),
            (CLIENT, "HTTPS", "https"),
            (CLIENT, "wss", "https"),  # as some proxies say of a WebSocket
            (CLIENT, "ws", "http"),
            (CLIENT, "http, https", "https"),  # one hop: what the socket's peer wrote
            (CLIENT, "https, http", "http"),
            (f"{CLIENT}, 10.0.0.1", "https, http", "https"),  # two: what the outer one wrote
            (f"{CLIENT}, 10.0.0.1", "http, https, http", "https"),
            (f"{CLIENT}, 10.0.0.1", "https", "https"),  # the inner one only passed it on
            (f"{CLIENT}, 10.0.0.1, 10.0.0.2", "https, http", "https"),
            (f"{FORGED}, {CLIENT}", "http, https", "https"),  # what is forged has no say in the count
            ("unknown, 10.0.0.1", "https, http", "https"),
            ("", "https", "https"),
            ("", "http, https", "https"),
            (CLIENT, "", None),
        ],
    )
    def test_the_scheme(self, hops: str, proto: str, scheme: str | None) -> None:
        assert x_forwarded(xff(hops, proto=proto), TRUST).scheme == scheme

    @pytest.mark.parametrize(
        ("hops", "value", "host"),
        [
            (CLIENT, "example.org", "example.org"),
            (CLIENT, "example.org:8443", "example.org:8443"),
            (CLIENT, "[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            (CLIENT, "evil.example, example.org", "example.org"),
            (f"{CLIENT}, 10.0.0.1", "evil.example, example.org, inner:8000", "example.org"),
        ],
    )
    def test_the_host(self, hops: str, value: str, host: str) -> None:
        assert x_forwarded(xff(hops, host=value), TRUST).host == host

    @pytest.mark.parametrize(
        "others",
        [
            {"proto": "gopher"},
            {"proto": "https;"},
            {"proto": '"https"'},
            {"host": "example.org/path"},
            {"host": "user@example.org"},
            {"host": "example.org:port"},
            {"host": "a b"},
            {"host": "http://example.org"},
            {"host": "[::1"},
        ],
    )
    def test_a_scheme_or_a_host_that_is_none(self, others: dict[str, str]) -> None:
        with pytest.raises(Malformed):
            x_forwarded(xff(CLIENT, **others), TRUST)

    def test_other_headers_are_not_read(self) -> None:
        headers = fwd(f"for={FORGED};proto=https;host=evil.example")
        headers += [
            (b"x_forwarded_for", FORGED.encode()),
            (b"x-forwarded", FORGED.encode()),
            (b"x-real-ip", b"1.1.1.1"),
        ]
        assert x_forwarded(headers, TRUST) == Forwarded(None, None, None)

    def test_a_list_without_end_is_read_to_a_bound(self) -> None:
        client = x_forwarded(xff(",".join([FORGED] + ["10.0.0.1"] * 5000)), TRUST).client
        assert client == ("10.0.0.1", 0)


class TestForwarded:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            # RFC 7239 §4, examples
            ('for="_gazonk"', (None, None, None)),
            ('For="[2001:db8:cafe::17]:4711"', (("2001:db8:cafe::17", 4711), None, None)),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", (("192.0.2.60", 0), "http", None)),
            ("for=192.0.2.43, for=198.51.100.17", (("198.51.100.17", 0), None, None)),
            # §6
            ("for=unknown", (None, None, None)),
            ("for=_hidden, for=_SEVKISEK", (None, None, None)),
            ('for="192.0.2.43:47011"', (("192.0.2.43", 47011), None, None)),
            ('for="192.0.2.43:_port"', (("192.0.2.43", 0), None, None)),
            # every parameter
            (f"for={CLIENT};proto=https;host=example.org;by=_us;secret=x", ((CLIENT, 0), "https", "example.org")),
            (f'FOR={CLIENT};PROTO=HTTPS;HOST="example.org:8443"', ((CLIENT, 0), "https", "example.org:8443")),
            (f'for="{CLIENT}";proto="https"', ((CLIENT, 0), "https", None)),
            ('for="\\2\\03.0.113.7"', ((CLIENT, 0), None, None)),  # quoted pairs (RFC 9110 §5.6.4)
            (f"for={CLIENT}; proto=https", ((CLIENT, 0), "https", None)),  # white space, as some write it
            (f";for={CLIENT};;", ((CLIENT, 0), None, None)),  # a pair may be missing
            (f", ,for={CLIENT},,", ((CLIENT, 0), None, None)),
            ("proto=https", (None, "https", None)),
            ("", (None, None, None)),
            # several hops
            (f"for={FORGED};proto=http, for={CLIENT};proto=https", ((CLIENT, 0), "https", None)),
            (f"for={FORGED}, for={CLIENT};proto=https, for=10.0.0.1;proto=http", ((CLIENT, 0), "https", None)),
            (f"for={CLIENT}, for=10.0.0.1;proto=https;host=a.example", ((CLIENT, 0), "https", "a.example")),
            (f"for={FORGED}, for=unknown, for=10.0.0.1", (("10.0.0.1", 0), None, None)),
            (f"for={FORGED}, proto=https, for=10.0.0.1", (("10.0.0.1", 0), "https", None)),
            ('for="[2001:db8:1::5]", for="[2001:db8:1::6]:1"', (("2001:db8:1::5", 0), None, None)),
        ],
    )
    def test_what_it_says(self, value: str, expected: tuple[Any, Any, Any]) -> None:
        assert forwarded(fwd(value), TRUST) == Forwarded(*expected)

    @pytest.mark.parametrize(
        "forged",
        [
            f"for={FORGED}",
            f'for="{FORGED}',  # a quote that is never closed
            'for="',
            '"',
            'x="\\',
            f'for={FORGED};host="a',
            "for==",
            "garbage garbage",
            "for=127.0.0.1, for=10.0.0.1",
            f"for={FORGED};for={FORGED}",
            "," * 2000,
            'for="a, for=b, for=c',
        ],
    )
    @pytest.mark.parametrize("joined", [True, False])
    def test_what_the_client_made_up_is_not_reached(self, forged: str, joined: bool) -> None:
        """However broken: the proxy's own element, added to the same line or in one of its own, is read alone."""
        own = f"for={CLIENT};proto=https"
        headers = fwd(f"{forged}, {own}") if joined else fwd(forged, own)
        assert forwarded(headers, TRUST) == Forwarded((CLIENT, 0), "https", None)

    @pytest.mark.parametrize(
        "inside",
        [
            f"evil,for={FORGED}",
            f'evil, for={FORGED};x=\\"',
            f'\\", for={FORGED};proto=https;x=\\"y',
            f", for={FORGED}, by=",
        ],
    )
    def test_no_quoted_string_is_mistaken_for_an_element(self, inside: str) -> None:
        """A proxy that quotes what its client sent: a comma in there begins nothing (RFC 9110 §5.6.4)."""
        assert forwarded(fwd(f'for={CLIENT};secret="{inside}"'), TRUST).client == (CLIENT, 0)

    @pytest.mark.parametrize(
        "value",
        [
            "203.0.113.7",
            "for",
            "for=",
            "=x",
            "for = 203.0.113.7",
            "for=203.0.113.7:80",  # a colon has to be quoted
            "for=[2001:db8::1]",
            'for="2001:db8::1"',  # and IPv6 be in brackets (§6)
            'for="[203.0.113.7]"',
            'for="203.0.113.7',
            'for=203.0.113.7"',
            'for="203.0.113.7"x',
            "for=203.0.113.7 proto=https",
            "for=203.0.113.7;for=203.0.113.8",  # §4: once in an element
            "for=203.0.113.7;proto=https;Proto=http",
            "for=localhost",
            "for=hidden",
            "for=203.0.113.7;proto=gopher",
            'for=203.0.113.7;host="a b"',
            "for=203.0.113.7;host=a/b",
            'for="203.0.113.7:99999"',
            "for=garbage/, for=10.0.0.1",
        ],
    )
    def test_what_can_t_be_read_makes_nothing_count(self, value: str) -> None:
        with pytest.raises(Malformed):
            forwarded(fwd(value), TRUST)

    def test_other_headers_are_not_read(self) -> None:
        assert forwarded(xff(FORGED, proto="https", host="evil.example"), TRUST) == Forwarded(None, None, None)

    def test_a_list_without_end_is_read_to_a_bound(self) -> None:
        client = forwarded(fwd(",".join([f"for={FORGED}"] + ["for=10.0.0.1"] * (MAX_HOPS + 5))), TRUST).client
        assert client == ("10.0.0.1", 0)


ADDRESSES = st.ip_addresses().map(str)
JUNK = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=60)


@given(JUNK, ADDRESSES)
def test_whatever_a_client_sends_its_proxy_has_the_last_word(junk: str, address: str) -> None:
    """The rule behind all of the above, for both kinds."""
    trust = Trust(["*"])
    quoted = f'"[{address}]"' if ":" in address else address
    for headers in (fwd(f"{junk}, for={quoted}"), fwd(junk, f"for={quoted}")):
        client = forwarded(headers, trust).client
        assert client == node(quoted.strip('"'))
    assert x_forwarded(xff(f"{junk}, {address}"), trust).client == node(quoted.strip('"'))


@given(JUNK)
def test_nothing_else_is_raised(junk: str) -> None:
    for read, headers in ((forwarded, fwd(junk)), (x_forwarded, xff(junk, proto=junk, host=junk))):
        with contextlib.suppress(Malformed):
            read(headers, TRUST)


@pytest.mark.parametrize("kind", [True, False, None, "x-real-ip", "X-Forwarded", 1, ["forwarded"]])
def test_a_kind_that_is_none(kind: Any) -> None:
    with pytest.raises(LocalError, match="expected 'x-forwarded' or 'forwarded'"):
        reader(kind)


def test_a_text_that_is_long_is_no_address_and_is_not_remembered() -> None:
    """An IPv6 address may have a zone of any length behind it: what is remembered of addresses is bounded."""
    long = b"::1%" + b"a" * MAX_NODE
    with pytest.raises(Malformed):
        x_forwarded([(b"x-forwarded-for", long)], Trust(["10.0.0.0/8"]))
