"""WebSocket URIs (RFC 6455 §3, RFC 3986)."""

from __future__ import annotations

import pytest

from portico.errors import LocalError
from portico.wire.uri import Uri, parse_uri

SECRET = "s3cr3t"


def wrong(text: str) -> str:
    """What is said of a URI that is wrong."""
    with pytest.raises(LocalError) as caught:
        parse_uri(text)
    return str(caught.value)


# -- what they name (RFC 6455 §3) --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "secure", "host", "port", "target"),
    [
        ("ws://example.com", False, "example.com", 80, "/"),
        ("wss://example.com", True, "example.com", 443, "/"),
        ("ws://example.com:443/", False, "example.com", 443, "/"),
        ("wss://example.com:80/", True, "example.com", 80, "/"),
        ("ws://example.com:8000/a/b", False, "example.com", 8000, "/a/b"),
        ("ws://example.com:/", False, "example.com", 80, "/"),  # RFC 3986 §3.2.3: an empty port is the default
        ("ws://example.com:65535/", False, "example.com", 65535, "/"),
        ("ws://example.com:000080/", False, "example.com", 80, "/"),  # RFC 3986 §3.2.3: *DIGIT
        ("WSS://EXAMPLE.com/A", True, "example.com", 443, "/A"),  # RFC 3986 §6.2.2.1: scheme and host in any case
        ("ws://127.0.0.1/", False, "127.0.0.1", 80, "/"),
        ("ws://a_b-c.example/", False, "a_b-c.example", 80, "/"),
        ("ws://example.com./", False, "example.com.", 80, "/"),
        ("ws://%65xample.com/", False, "example.com", 80, "/"),  # RFC 3986 §3.2.2: a name may be percent-encoded
    ],
)
def test_scheme_host_port_and_path(text: str, secure: bool, host: str, port: int, target: str) -> None:
    uri = parse_uri(text)
    assert (uri.secure, uri.host, uri.port, uri.target) == (secure, host, port, target)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ws://a?x=1", "/?x=1"),  # an empty path is "/" on the wire
        ("ws://a/?", "/?"),
        ("ws://a/b?c=d&e=f?g/h", "/b?c=d&e=f?g/h"),
        ("ws://a//b//c", "//b//c"),
        ("ws://a/b;p=1,2/@:!$&'()*+=~", "/b;p=1,2/@:!$&'()*+=~"),
        ("ws://a/%20%2F%c3%a9?%23", "/%20%2F%c3%a9?%23"),  # what is encoded stays as it is
        ("ws://a/é?ü=€", "/%C3%A9?%C3%BC=%E2%82%AC"),  # what is not ASCII is sent as UTF-8, percent-encoded
        ("ws://a/[]", "/%5B%5D"),  # RFC 3986 §3.2.2: brackets stand for nothing but an address
        ("ws://a/x[]?y[0]=1", "/x%5B%5D?y%5B0%5D=1"),
        ("ws://a/?mail=me@b.example", "/?mail=me@b.example"),
    ],
)
def test_path_and_query_make_the_target(text: str, target: str) -> None:  # RFC 6455 §3, "resource name"
    uri = parse_uri(text)
    assert uri.target == target
    assert uri.credentials is None


@pytest.mark.parametrize(
    ("text", "authority"),
    [
        ("ws://example.com:80/", "example.com"),
        ("wss://example.com:443/", "example.com"),
        ("ws://example.com:443/", "example.com:443"),
        ("wss://example.com:80/", "example.com:80"),
        ("ws://[::1]:8000/", "[::1]:8000"),
        ("wss://[::1]/", "[::1]"),
        ("ws://u:p@example.com/", "example.com"),  # RFC 9110 §4.2.4: no user information
    ],
)
def test_the_host_header_has_no_default_port(text: str, authority: str) -> None:  # RFC 6455 §4.1, item 4
    assert parse_uri(text).authority == authority


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("ws://[::1]", "::1", 80),
        ("ws://[::1]:8000/", "::1", 8000),
        ("wss://[2001:DB8:0:0:0:0:0:1]:/", "2001:db8::1", 443),
    ],
)
def test_ipv6_addresses_stand_in_brackets(text: str, host: str, port: int) -> None:  # RFC 3986 §3.2.2
    uri = parse_uri(text)
    assert (uri.host, uri.port) == (host, port)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("b%C3%BCcher.example", "xn--bcher-kva.example"),  # RFC 3986 §3.2.2: UTF-8 first
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),  # U+3002
        ("bücher．example", "xn--bcher-kva.example"),  # noqa: RUF001 # U+FF0E
        ("bücher｡example", "xn--bcher-kva.example"),  # U+FF61
        ("ｅｘａｍｐｌｅ.com", "example.com"),  # noqa: RUF001
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("💩.la", "xn--ls8h.la"),
    ],
)
def test_an_internationalised_host_is_sent_as_ace(name: str, host: str) -> None:  # RFC 6455 §3, RFC 3490
    uri = parse_uri(f"wss://{name}:8000/x")
    assert (uri.host, uri.authority) == (host, f"{host}:8000")


@pytest.mark.parametrize("name", ["fa%C3%9F.de", "fa\u00df.de", "\u03c2.gr", "a\u200db.example", "a\u200c.example"])
def test_a_host_that_idna_2003_and_2008_read_in_two_ways_is_refused(name: str) -> None:  # UTS 46 §7
    message = wrong(f"ws://{name}/")
    assert "IDNA" in message
    assert "xn--" in message


# -- user information is credentials and nothing else ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "credentials"),
    [
        ("me:secret", ("me", "secret")),
        ("me", ("me", "")),
        ("me:", ("me", "")),
        (":secret", ("", "secret")),
        ("me:a:b", ("me", "a:b")),
        ("m%40e:p%3A%2F%20", ("m@e", "p:/ ")),
        ("é:%E2%82%AC", ("é", "€")),
        ("", None),
    ],
)
def test_user_information_becomes_credentials(user: str, credentials: tuple[str, str] | None) -> None:
    uri = parse_uri(f"ws://{user}@example.com:81/x")
    assert (uri.credentials, uri.host, uri.port) == (credentials, "example.com", 81)


def test_credentials_are_never_shown() -> None:
    uri = parse_uri(f"wss://{SECRET}user:{SECRET}@example.com/x?y")
    assert str(uri) == "wss://example.com/x?y"
    assert repr(uri) == "Uri('wss://example.com/x?y')"
    assert SECRET not in f"{uri.authority}{uri.target}{uri.origin}"


@pytest.mark.parametrize(
    "text",
    [
        "http://u:s3cr3t@h/",
        "u:s3cr3t@h",
        "//u:s3cr3t@h/",
        "ws:u:s3cr3t@h/",
        "ws:///u:s3cr3t@h/",
        "ws://u:s3cr3t@/",
        "ws://u:s3cr3t@h:x/",
        "ws://u:s3cr3t@h:99999/",
        "ws://u:s3cr3t@a..b/",
        "ws://u:s3cr3t@::1/",
        "ws://u:s3cr3t@[::x]/",
        "ws://u:s3cr3t@[::1/",
        "ws://u:s3cr3t@h/#f",
        "ws://u:s3cr3t@h/ x",
        "ws://u:s3cr3t@h/%zz",
        "ws://u:s3cr3t @h/",
        "ws://u:s3cr3t%@h/",
        "ws://u:s3cr3t^@h/",
        "ws://u%3A:s3cr3t@h/",
        "ws://u:s3cr3t/x@h/",  # unescaped delimiters in a password: parts of it look like host, port, path…
        "ws://u:s3cr3t?x@h/",
        "ws://u:s3cr3t#x@h/",
        "ws://u:1000000/s3cr3t@h/",
        "ws://[s3cr3t]/@h/",
        "ws://s3cr3t..x/@h/",
        "ws://u:1#s3cr3t@h/",
        "ws://s3cr3t@v@h/",  # RFC 3986 §3.2.1: %40
        "ws://u:s3cr3t@v@h/",
        "ws://u:s3cr3t%FF@h/",  # not UTF-8: it would be another password
        "ws://u:s3cr3t%0A@h/",  # RFC 7617 §2
        "ws://h:x/?token=s3cr3t",  # tokens are often in the query, or in a fragment
        "ws://h/#s3cr3t",
        "ws://h/ ?s3cr3t",
        "ws://h/?s3cr3t%",
        "ws://h/?s3cr3t=me@b%",
        "ws://h/?me@b=s3cr3t%",
        "ws://u:p@h/?s3cr3t%",
        "http://h?s3cr3t",
    ],
)
def test_no_error_shows_a_password(text: str) -> None:
    assert SECRET not in wrong(text)


def test_what_is_shown_of_a_uri_has_no_query() -> None:
    assert parse_uri(f"wss://u:{SECRET}@h:81/a/b?token={SECRET}").shown == "wss://h:81/a/b"
    assert parse_uri("ws://h?").shown == "ws://h/"
    assert "'ws://h:x/?…': expected a port" in wrong(f"ws://h:x/?token={SECRET}")


@pytest.mark.parametrize(
    ("user", "said"), [("u@v", "%40"), ("u:p@q", "%40"), ("%ff", "UTF-8"), ("u:%ff", "UTF-8"), ("u:%00", "control")]
)
def test_wrong_user_information_is_named(user: str, said: str) -> None:  # RFC 3986 §3.2.1, RFC 7617 §2
    assert said in wrong(f"ws://{user}@h/")


@pytest.mark.parametrize("text", [b"ws://u:s3cr3t@h/", None, 5])
def test_what_is_no_str_is_named_by_its_type(text: object) -> None:
    message = wrong(text)  # type: ignore[arg-type]
    assert type(text).__name__ in message
    assert SECRET not in message


# -- every wrong thing is named --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "ws:// or wss://, got no scheme"),
        ("example.com", "ws:// or wss://, got no scheme"),
        ("//example.com/", "ws:// or wss://, got no scheme"),
        ("http://example.com/", "ws:// or wss://, got 'http'"),
        ("https://example.com/", "got 'https'"),
        (" ws://a", "got ' ws'"),
        ("localhost:8000/x", "got 'localhost'"),
        ("ws:example.com", "expected a host after //"),
        ("ws:/example.com", "expected a host after //"),
        ("ws:///x", "expected a host after //"),
        ("ws://", "expected a host after //"),
        ("ws://:80/", "expected a host, got none"),
        ("ws://me@/", "expected a host, got none"),
        ("ws://a/#", "no fragment"),  # RFC 6455 §3: even an empty one
        ("ws://a/b#c", "%23"),
        ("ws://a?b#c", "no fragment"),
        ("ws://a:0/", "1 to 65535, got '0'"),
        ("ws://a:65536/", "1 to 65535, got '65536'"),
        ("ws://a:-1/", "1 to 65535, got '-1'"),
        ("ws://a:8o/", "got '8o'"),
        ("ws://a:٨٠/", "1 to 65535"),
        ("ws://a:000/", "1 to 65535"),
        ("ws://a:0000065536/", "1 to 65535"),
        (f"ws://a:{'9' * 5000}/", "1 to 65535"),
        ("ws://::1/", "in brackets, as in [::1]"),
        ("ws://a:80:81/", "one colon at most"),
        ("ws://[::1/", "[address] or [address]:port"),
        ("ws://[::1]8000/", "[address] or [address]:port"),
        ("ws://[]/", "IPv6 address in brackets, got ''"),
        ("ws://[127.0.0.1]/", "got '127.0.0.1'"),
        ("ws://[::g]/", "got '::g'"),
        ("ws://[v1.x]/", "got 'v1.x'"),
        ("ws://[fe80::1%25eth0]/", "zone"),
        ("ws://a b/", "' ' may not stand there"),
        ("ws://a%20b/", "'a%20b' is no valid host name"),
        ("ws://a%2Fb/", "no valid host name"),
        ("ws://a%00b/", "no valid host name"),
        ("ws://a%zzb/", "percent-encoded"),
        ("ws://a..b/", "'a..b' is no valid host name"),
        ("ws://.a/", "'.a' is no valid host name"),
        ("ws://./", "'.' is no valid host name"),
        (f"ws://{'a' * 64}.b/", "no valid host name"),
        (f"ws://{'.'.join(['a' * 60] * 5)}/", "no valid host name"),
        ("ws://\u2100.example/", "no valid host name"),  # a/c in NFKC: it must not become a path
        ("ws://a\uff0fb.example/", "no valid host name"),  # the same with a full-width solidus
        ("ws://b\u00fccher\uff1a80/", "no valid host name"),  # a full-width colon
        ("ws://b\u00fccher\uff20c/", "no valid host name"),  # a full-width @
        ("ws://a/ b", "' ' may not stand there"),
        ("ws://a/b\r\nX: y", "may not stand there"),
        ("ws://a/\x00", "may not stand there"),
        ("ws://a/?\t", "may not stand there"),
        ("ws://a\\b/", "may not stand there"),
        ('ws://a/"', "may not stand there"),
        ("ws://a/%", "'%' may not stand there"),
        ("ws://a/?x=%4", "'%' may not stand there"),
        ("ws://a/%%41", "'%' may not stand there"),
        ("ws://a/\ud800", "may not stand there"),
        ("ws://a:b:c@d/\ud800", "may not stand there"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    assert said in wrong(text)


@pytest.mark.parametrize("text", ["ws://a:80", "wss://[::1]:8/x?y=%20", "wss://xn--bcher-kva.example/?"])
def test_what_is_shown_can_be_read_again(text: str) -> None:
    first = parse_uri(text)
    second = parse_uri(str(first))
    facts = [(u.secure, u.host, u.port, u.target, u.origin) for u in (first, second)]
    assert facts[0] == facts[1]


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ("ws://a:80/other?x", True),
        ("ws://A/", True),
        ("ws://u:p@a/", True),
        ("wss://a/", False),
        ("wss://a:80/", False),
        ("ws://a:81/", False),
        ("ws://b/", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(other: str, same: bool) -> None:  # RFC 6454 §4
    uri: Uri = parse_uri("ws://a/")
    assert (parse_uri(other).origin == uri.origin) is same
