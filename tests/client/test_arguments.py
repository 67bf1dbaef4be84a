"""What `connect` is given: whatever can't be used is refused by the call itself, before anything is opened."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from typing import Any

import pytest
from tests.client.fakes import Fake, Visit

import portico

SECRET = "s3cr3t"


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def refused(uri: Any = "ws://127.0.0.1/", **options: Any) -> str:
    """What the call says."""
    with pytest.raises(portico.LocalError) as caught:
        portico.connect(uri, **options)
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"subprotocols": "chat"}, "list of tokens"),
        ({"subprotocols": b"chat"}, "list of tokens"),
        ({"subprotocols": {"a", "b"}}, "the preferred one first"),
        ({"subprotocols": None}, "list of tokens"),
        ({"subprotocols": [1]}, "got int in it"),
        ({"subprotocols": [b"a"]}, "got bytes in it"),
        ({"subprotocols": ["a b"]}, "a b"),
        ({"subprotocols": [""]}, "expected a token"),
        ({"subprotocols": ["a", "a"]}, "each one once"),  # RFC 6455 §4.1, item 10
        ({"headers": {"X": "a\r\nY: b"}}, "CR, LF"),
        ({"headers": {"Authorization": f"Bearer {SECRET}\n"}}, "the value of 'Authorization': expected"),
        ({"headers": {"X": "\u20ac"}}, "ISO-8859-1"),
        ({"headers": {"X y": "a"}}, "X y"),
        ({"headers": [("Host", "b")]}, "Host"),
        ({"headers": {"sec-websocket-key": "x"}}, "sec-websocket-key"),
        ({"headers": ["a"]}, "got str as number 1"),
        ({"headers": ["ab"]}, "got str as number 1"),
        ({"headers": f"X: {SECRET}"}, "got str"),
        ({"headers": {1: "2"}}, "got (int, str) as number 1"),
        ({"headers": {"X": 2}}, "got (str, int) as number 1"),
        ({"headers": {"X": ["a", "b"]}}, "got (str, list)"),
        ({"headers": [("X", "a"), ("Y", "b", "c")]}, "got tuple as number 2"),
        ({"headers": [("X", SECRET), None]}, "got NoneType as number 2"),
        ({"headers": None}, "got NoneType"),
        ({"headers": 5}, "got int"),
        ({"origin": "http://a\r\n"}, "CR, LF"),
        ({"origin": 5}, "origin=5: expected a str or None"),
        ({"open_timeout_s": 0}, "open_timeout_s=0"),
        ({"open_timeout_s": None}, "open_timeout_s=None"),
        ({"open_timeout_s": float("inf")}, "open_timeout_s=inf"),
        ({"open_timeout_s": float("nan")}, "open_timeout_s=nan"),
        ({"open_timeout_s": True}, "open_timeout_s=True"),
        ({"open_timeout_s": "5"}, "open_timeout_s='5'"),
        ({"exclusive": "no"}, "exclusive='no': expected True or False"),
        ({"exclusive": None}, "exclusive=None"),
        ({"ssl": True}, "SSLContext"),
        ({"ssl": "ca.pem"}, "SSLContext"),
        ({"ssl": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "client's context"),
        ({"ssl": ssl.create_default_context()}, "ws: is not encrypted; expected a URI that begins with wss://"),
        ({"limits": None}, "Limits"),
        ({"backoff": 5}, "Backoff"),
        ({"deflate": True}, "Deflate"),
        ({"keepalive": 20}, "Keepalive"),
        ({"endpoint": echo}, "Endpoint"),
        ({"endpoint": portico.Endpoint}, "Endpoint"),
        ({"sock": 5}, "socket"),
        ({"uds": 5}, "uds=5: expected a path"),
        ({"uds": b"/x"}, "uds=b'/x': expected a path"),
        ({"uds": ""}, "uds='': expected a path"),
        ({"uds": "/x", "proxy": "http://a"}, "connected directly"),
        ({"proxy": f"socks5://u:{SECRET}@a"}, "begins with http://"),
        ({"proxy": f"https://u:{SECRET}@a"}, "begins with http://"),
        ({"proxy": f"http://u:{SECRET}@a:x"}, "1 to 65535"),
        ({"proxy": f"u:{SECRET}@a:99999"}, "1 to 65535"),
        ({"proxy": f"http://u:{SECRET}@v@a"}, "%40"),
        ({"proxy": "http://"}, "host"),
        ({"proxy": ""}, "host"),
        ({"proxy": 8080}, "int"),
        ({"proxy": 5.5}, "float"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(options: dict[str, Any], said: str) -> None:
    assert said in refused(**options)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://127.0.0.1/", "ws:// or wss://"),
        (5, "URI: expected a str, got int"),
        (None, "got NoneType"),
        (f"ws://u:{SECRET}@a/#b", "no fragment"),
        ("ws://a:65536/", "1 to 65535"),
        ("ws://a:0/", "1 to 65535"),
        ("ws:///x", "expected a host"),
    ],
)
def test_a_wrong_uri_is_refused_at_once(uri: Any, said: str) -> None:
    assert said in refused(uri)


def test_sock_and_uds_exclude_each_other() -> None:
    with socket.socket() as sock:
        assert "one of them" in refused(sock=sock, uds="/x")


def test_a_datagram_socket_is_refused() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        assert "expected a stream socket" in refused(sock=sock)


@pytest.mark.parametrize(
    "wrong",
    [{"open_timeout_s": -1}, {"headers": ["a"]}, {"uri": "http://a"}, {"uds": "/x"}, {"backoff": None}, {"proxy": "a"}],
)
def test_a_socket_is_closed_where_an_argument_is_wrong(wrong: dict[str, Any]) -> None:
    """It belongs to the connection from the call on; nobody else may hold it."""
    sock, other = socket.socketpair()
    refused(**{"uri": "ws://a/", "sock": sock} | wrong)
    assert sock.fileno() == -1
    assert other.recv(1) == b""
    other.close()


@pytest.mark.parametrize("headers", [[["X", "1"], ("Y", "2")], iter([("X", "1"), ("Y", "2")]), {"X": "1", "Y": "2"}])
async def test_headers_are_a_mapping_or_pairs(headers: Iterable[Any]) -> None:
    async with Fake.running(Visit.closed) as fake:
        await (await portico.connect(f"ws://127.0.0.1:{fake.port}", headers=headers)).close()
    assert b"\r\nX: 1\r\nY: 2\r\n" in fake.requests[0]


async def test_ssl_is_for_wss_alone() -> None:
    """Nothing would be encrypted, though the caller has asked for it."""
    assert "ssl= for ws://a/b:" in refused(f"ws://u:{SECRET}@a/b?t={SECRET}", ssl=ssl.create_default_context())
    portico.connect("wss://a/", ssl=ssl.create_default_context())
