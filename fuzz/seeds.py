"""Where each target begins: well-formed input and the corpora that the tests have anyway."""

from __future__ import annotations

import pathlib

from tests.property.test_http1_chunking import RESPONSES
from tests.support import close_frame, frame, upgrade
from tests.wire.corpus.cases import CASES
from tests.wire.raw import frame as plain_frame

REGRESSIONS = pathlib.Path(__file__).parent / "corpus"

FRAMES = [
    frame(0x81, b"hello"),
    frame(0x82, bytes(200)),
    frame(0x01, "é".encode()[:1]) + frame(0x89, b"ping") + frame(0x80, "é".encode()[1:]),
    frame(0x8A) + close_frame(1000, "bye"),
    frame(0xC1, bytes.fromhex("f248cdc9c90700")),  # RFC 7692 §7.2.3.1
    frame(0x41, bytes.fromhex("f248")) + frame(0x80, bytes.fromhex("cdc9c90700")),
    plain_frame(0x81, b"hello"),
    plain_frame(0xC1, bytes.fromhex("f248cdc9c90700")) * 2,
    b"\x82\xfe\x0b\xb9" + bytes(8),
    b"\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff",
]
ANSWER = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n\r\n"
)
SEEDS: dict[str, list[bytes]] = {
    "request": [case.sent for case in CASES if len(case.sent) < 1500],
    "response": [*RESPONSES, ANSWER],
    "frames": [bytes([mode]) + data for mode in range(6) for data in FRAMES],
    "echo": [b"\x00hello", b"\x03" + bytes(range(256)), b"\x02" + b"abcabcabc" * 100],
    "handshake": [
        upgrade(),
        upgrade("/a?b", origin="http://127.0.0.1", sec_websocket_protocol="a, b"),
        upgrade(sec_websocket_extensions="permessage-deflate; client_max_window_bits", cookie="a=b"),
        *(case.switching for case in CASES if case.switching is not None and len(case.switching) < 600),
        ANSWER,
    ],
    "extensions": [
        b"permessage-deflate",
        b"permessage-deflate; server_max_window_bits=10; client_max_window_bits, permessage-deflate",
        b'x; a="b\\"c", permessage-deflate; server_no_context_takeover\npermessage-deflate; client_max_window_bits="8"',
    ],
    "uri": [
        b"ws://a.example/b?c=d",
        b"wss://user:p%20w@[::1]:8000/",
        "ws://bücher.example/ä?ö".encode(),
        b"ws://127.0.0.1:1",
        b"WSS://A?b",
    ],
    "deflate": [b"\x00\xff" + bytes.fromhex("f248cdc9c90700"), b"\x01\x40" + bytes(300), b"\x00\x10ab" * 40],
}


def regressions(target: str) -> list[pathlib.Path]:
    """The inputs that have once been findings, or that lead far into `target`."""
    return sorted((REGRESSIONS / target).glob("*"))
