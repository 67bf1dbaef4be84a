"""For each parser of the wire: what must hold whatever bytes it gets.

A target takes the fuzzer's bytes and raises where something doesn't hold; an exception that a caller is told to expect
(ProtocolError, LocalError) is none. What is torn is torn by the bytes themselves, so that each finding repeats.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Iterable

from tests.property.test_http1_chunking import seen
from tests.property.test_http_against_h11 import compare

from portico.errors import HandshakeError, LocalError, ProtocolError
from portico.limits import Deflate, Limits
from portico.testing import torn
from portico.wire.deflate import Codec
from portico.wire.extensions import Agreed, accept_offer, check_answer, format_extension, make_offer, parse
from portico.wire.handshake import check_origin, check_response, check_upgrade, client_request
from portico.wire.headers import Headers, parse_cookies
from portico.wire.http1 import RequestHead, RequestParser, ResponseHead, ResponseParser, parse_request_head
from portico.wire.messages import Failed, Messages, Ping, Pong
from portico.wire.uri import parse_uri

LIMITS = Limits(max_head_bytes=2000, max_headers=20, max_message_bytes=3000, max_fragments=20)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
CONFIGS = (None, Deflate(), Deflate(server_context_takeover=True, client_context_takeover=True, threshold_bytes=0))


def pieces(data: bytes) -> Iterable[bytes]:
    return torn(data, zlib.crc32(data))


def request(data: bytes) -> None:
    """Whole and torn the same; an accepted head can be parsed again; where h11 has an opinion, it is ours."""
    whole, parts = RequestParser(LIMITS), RequestParser(LIMITS)
    events = whole.feed(data)
    assert seen([*events, *whole.feed_eof()]) == seen(
        [*(event for piece in pieces(data) for event in parts.feed(piece)), *parts.feed_eof()]
    )
    assert whole.tail() == parts.tail()
    for event in events:
        if isinstance(event, RequestHead):
            assert seen([parse_request_head(event.raw)]) == seen([event])
            assert b"\r" not in b"".join(value for _, value in event.headers)
            assert b"\n" not in b"".join(value for _, value in event.headers)
            parse_cookies(Headers(event.headers).get_all("cookie"))
    compare(data)


def response(data: bytes) -> None:
    """Whole and torn the same, as answers to GET and to HEAD."""
    for head_only in (False, True):
        whole, parts = (ResponseParser(LIMITS, head_only=head_only) for _ in range(2))
        assert seen([*whole.feed(data), *whole.feed_eof()]) == seen(
            [*(event for piece in pieces(data) for event in parts.feed(piece)), *parts.feed_eof()]
        )
        assert whole.tail() == parts.tail()


def _told(events: Iterable[object]) -> list[object]:
    """Events as plain values."""
    return [event if isinstance(event, str | bytes) else _plain(event) for event in events]


def _plain(event: object) -> object:
    return type(event).__name__, *(str(getattr(event, name)) for name in getattr(type(event), "__slots__", ()))


def frames(data: bytes) -> None:
    """Frames to either side, with and without compression: whole and torn the same, bounded, never an exception."""
    if not data:
        return
    client, mode, data = bool(data[0] & 1), (data[0] >> 1) % 3, data[1:]
    config = CONFIGS[mode]
    agreed = Agreed(mode == 1, mode == 1, 15, 15)
    whole, parts = (
        Messages(LIMITS, None if config is None else Codec(agreed, config, client=client), client=client)
        for _ in range(2)
    )
    events = whole.feed(data)
    later: list[object] = []
    for piece in pieces(data):
        later += parts.feed(piece)
        assert parts.held() <= LIMITS.max_message_bytes + 200
    assert _told(events) == _told(later)
    assert (whole.state, whole.assembling()) == (parts.state, parts.assembling())
    for event in events:
        if isinstance(event, str | bytes):
            assert len(event) <= LIMITS.max_message_bytes
        elif isinstance(event, Ping | Pong):
            assert len(event.payload) <= 125
        elif isinstance(event, Failed):
            assert event is events[-1]


def echo(data: bytes) -> None:
    """What one end writes the other reads, in any order of text, binary, pings and pongs."""
    if not data:
        return
    config, agreed = (CONFIGS[1], CONFIGS[2])[data[0] & 1], Agreed(not data[0] & 1, not data[0] & 1, 15, 15)
    assert config is not None
    ends = [Messages(Limits(), Codec(agreed, config, client=client), client=client) for client in (False, True)]
    sender, receiver = ends if data[0] & 2 else ends[::-1]
    sent: list[object] = []
    written = b""
    for piece in pieces(data[1:]):
        if piece[0] % 4 == 0:
            written += sender.ping(piece[:125])
            sent.append(("Ping", str(piece[:125])))
        else:
            message: object = piece
            if piece[0] % 4 == 1:
                message = piece.decode("latin-1")
            written += sender.encode(message)
            sent.append(message)
    received = [event for piece in pieces(written) for event in receiver.feed(piece)]
    assert _told(received) == sent


def handshake(data: bytes) -> None:
    """A client's request and a server's answer to it: a decision or the documented error, for any head."""
    for event in RequestParser(LIMITS).feed(data):
        if isinstance(event, RequestHead):
            with contextlib.suppress(ProtocolError):
                upgrade = check_upgrade(event)
                assert event.upgrade
                assert len(upgrade.key) == 24
                check_origin(upgrade.origin, upgrade.host, "http", None)
                accept_offer(upgrade.extensions, CONFIGS[1])
    for answer in ResponseParser(LIMITS).feed(data):
        if isinstance(answer, ResponseHead):
            with contextlib.suppress(HandshakeError):
                check_response(answer, KEY, ["chat"], CONFIGS[1])
                assert answer.status == 101


def extensions(data: bytes) -> None:
    """Any value of Sec-WebSocket-Extensions: read or refused; what is agreed, our client understands alike."""
    values = data.decode("latin-1").split("\n")
    with contextlib.suppress(ProtocolError):
        found = parse(values)
        if not any('"' in value for value in values):
            assert parse([format_extension(name, parameters) for name, parameters in found]) == found
        for config in CONFIGS:
            answer = accept_offer(values, config)
            if answer is not None:
                assert len(parse([answer[1]])) == 1
    for config in CONFIGS[1:]:
        assert config is not None
        with contextlib.suppress(ProtocolError):
            agreed = check_answer(values, config)
            if agreed is not None:
                Codec(agreed, config, client=True)
        offered = accept_offer([make_offer(config)], config)
        assert offered is not None
        assert check_answer([offered[1]], config) == offered[0]


def uri(data: bytes) -> None:
    """Any text: a URI that can be written, read again and asked for, or LocalError."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_uri(text)
    except LocalError:
        return
    again = parse_uri(str(found))
    assert (again.origin, again.target) == (found.origin, found.target)
    request = client_request(found.authority, found.target, KEY)
    (head,) = RequestParser(Limits(max_head_bytes=1 << 20)).feed(request)
    assert isinstance(head, RequestHead), head
    assert head.target == found.target.encode()


def deflate(data: bytes) -> None:
    """Inflation of any bytes stays within its bound; what is compressed comes back."""
    if len(data) < 2:
        return
    keep, room, data = bool(data[0] & 1), data[1] * 16, data[2:]
    agreed = Agreed(not keep, not keep, 9 + data[0] % 7 if data else 15, 15)
    config = Deflate(threshold_bytes=0)
    server, client = Codec(agreed, config, client=False), Codec(agreed, config, client=True)
    for _ in range(2):
        client.start()
        out = b""
        for piece in (*pieces(data), None):
            out += client.finish(room - len(out)) if piece is None else client.inflate(piece, room - len(out))
            assert len(out) <= room + 1
            if client.error or len(out) > room:
                break
        if client.error or len(out) > room:
            break
    client = Codec(agreed, config, client=True)
    for _ in range(2):
        packed = server.compress(data)
        if packed is not None:
            client.start()
            back = client.inflate(packed, len(data)) + client.finish(len(data))
            assert (back, client.error) == (data, "")


Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {
    each.__name__: each for each in (request, response, frames, echo, handshake, extensions, uri, deflate)
}
