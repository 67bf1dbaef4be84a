"""NO_PROXY: which hosts are gone to directly, in all the forms that are in use for it."""

from __future__ import annotations

import pytest

from portico.client.proxies import bypassed, proxy_for
from portico.wire.uri import parse_uri


@pytest.mark.parametrize(
    ("no_proxy", "uri", "directly"),
    [
        ("", "ws://a.example/", False),
        (" , ,", "ws://a.example/", False),
        ("*", "ws://a.example/", True),
        ("b.example, *", "ws://[::1]/", True),
        # names
        ("a.example", "ws://a.example/", True),
        ("A.Example", "ws://a.eXample/", True),
        ("a.example", "ws://b.a.example/", True),
        ("a.example", "ws://ba.example/", False),
        ("a.example", "ws://example/", False),
        ("a.example", "ws://a.example.org/", False),
        (".example", "ws://a.example/", True),
        (".a.example", "ws://a.example/", True),  # as with curl and Python's urllib
        ("*.example", "ws://a.example/", True),
        ("*.a.example", "ws://b.example/", False),
        ("localhost", "ws://localhost:8000/", True),
        ("x,a.example", "ws://a.example/", True),
        ("x a.example\ty", "ws://a.example/", True),
        ("a.example", "ws://a.example./", True),  # RFC 1034 §3.1: the same host
        ("a.example.", "ws://a.example/", True),
        ("b\u00fccher.example", "ws://B\u00dcCHER.example/", True),
        ("xn--bcher-kva.example", "ws://b\u00fccher.example/", True),
        # ports
        ("a.example:80", "ws://a.example/", True),
        ("a.example:443", "wss://a.example/", True),
        ("a.example:81", "ws://a.example/", False),
        (".example:81", "ws://a.example:81/", True),
        # addresses
        ("192.0.2.7", "ws://192.0.2.7/", True),
        ("192.0.2.7", "ws://192.0.2.77/", False),
        ("192.0.2.7:80", "ws://192.0.2.7/", True),
        ("192.0.2.7:81", "ws://192.0.2.7/", False),
        ("2.7", "ws://192.0.2.7/", False),  # an address is nobody's sub-domain
        ("::1", "ws://[::1]/", True),
        ("[::1]", "ws://[::1]/", True),
        ("[::1]:80", "ws://[::1]/", True),
        ("[::1]:81", "ws://[::1]/", False),
        ("0:0:0:0:0:0:0:1", "ws://[::1]/", True),
        ("::2", "ws://[::1]/", False),
        # networks
        ("10.0.0.0/8", "ws://10.1.2.3/", True),
        ("10.1.2.3/8", "ws://10.9.9.9/", True),
        ("10.0.0.0/8", "ws://11.1.2.3/", False),
        ("10.0.0.0/8", "ws://a.example/", False),
        ("fd00::/8", "ws://[fd12::1]/", True),
        ("fd00::/8", "ws://10.0.0.1/", False),
        ("10.0.0.0/99", "ws://10.0.0.1/", False),
        ("a.example/8", "ws://a.example/", False),
        # what means nothing changes nothing
        (":80", "ws://a.example/", False),
        ("[::1", "ws://a.example/", False),
        ("a..b", "ws://a.example/", False),
        ("a:b:80", "ws://a.example/", False),
        (".", "ws://a.example/", False),
    ],
)
def test_who_is_gone_to_directly(no_proxy: str, uri: str, directly: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    place = parse_uri(uri)
    assert bypassed(no_proxy, place.host, place.port) is directly
    for name in ("NO_PROXY", "no_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(name, no_proxy)
            patch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
            assert (proxy_for(place, True) is None) is directly


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({"HTTPS_PROXY": "http://upper.example"}, "upper.example"),
        ({"https_proxy": "http://lower.example"}, "lower.example"),
        ({"HTTPS_PROXY": "http://upper.example", "https_proxy": "http://lower.example"}, "lower.example"),
        ({"HTTPS_PROXY": "http://upper.example", "https_proxy": ""}, None),  # set to nothing: none
        ({"HTTPS_PROXY": "plain.example:3128"}, "plain.example"),
        ({"HTTP_PROXY": "http://http.example"}, None),  # for wss: that is none
        ({"ALL_PROXY": "http://all.example"}, None),
    ],
)
def test_names_in_lower_case_go_first(
    environment: dict[str, str], host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(parse_uri("wss://a.example/"), True)
    assert (proxy and proxy.host) == host
