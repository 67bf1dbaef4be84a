"""How an Engine.IO session begins, as its client sees it: the ``open`` packet, or what stands there instead.

What is said of an answer never shows its body, nor a query: both may hold what is secret. The body is in
`HandshakeError.body`.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from portico.errors import HandshakeError, ProtocolError
from portico.realtime_client.exchange import Answer
from portico.wire import engineio

MAX_BODY_BYTES: Final = 64 * 1024  # of a refusal, kept in the error
MAX_SID: Final = 512
LONGEST_MS: Final = 24 * 3600 * 1000
OLD: Final = (
    "the server speaks Engine.IO v3, which is Socket.IO 1.x or 2.x (EIO=3); this client speaks Engine.IO v4: expected "
    "a server of Socket.IO 3 or 4, python-socketio 5, Flask-SocketIO 5 or Portico"
)
WHAT: Final = "expected a Socket.IO server there; set path= to where it answers"
_OLD_PAYLOAD = re.compile(rb"(?:[0-9]+:|[\x00\x01][\x00-\x09]+\xff)0\{")


class Opened:
    """What the ``open`` packet says (Engine.IO v4, "Handshake")."""

    __slots__ = ("max_payload", "patience_s", "sid", "upgrades")

    def __init__(self, sid: str, upgrades: list[str], patience_s: float, max_payload: int) -> None:
        self.sid = sid
        self.upgrades = upgrades
        self.patience_s = patience_s  # the server's ping interval and timeout: with nothing for so long, it is gone
        self.max_payload = max_payload  # bytes that it takes at once; 0 where it does not say


def opened(packet: Any, where: str) -> Opened:
    """The first packet of a session at `where`. Raises HandshakeError where it is none."""
    if isinstance(packet, str) and packet.startswith("0{"):
        try:
            data = msgspec.json.decode(packet[1:])
        except (msgspec.DecodeError, RecursionError):
            data = {}
        sid, upgrades = data.get("sid"), data.get("upgrades")
        spans = [data.get("pingInterval"), data.get("pingTimeout")]
        most = data.get("maxPayload", 0)
        good = isinstance(sid, str) and 0 < len(sid) <= MAX_SID and isinstance(upgrades, list)
        if good and all(_whole(span, 1, LONGEST_MS) for span in spans) and _whole(most, 0, 1 << 62):
            return Opened(sid, [each for each in upgrades if isinstance(each, str)], sum(spans) / 1000, most)
    raise HandshakeError(f"{where}: the first packet is no handshake of Engine.IO v4; {WHAT}")


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def first_payload(answer: Answer, where: str) -> tuple[Opened, list[str | bytes]]:
    """The session that the first answer by polling begins, and the packets that came with it. Raises HandshakeError."""
    if answer.status != 200:
        raise refusal(answer.status, answer.headers.items(), answer.body, where)
    if _OLD_PAYLOAD.match(answer.body):
        raise HandshakeError(f"{where}: {OLD}", status=200, headers=answer.headers.items(), body=_cut(answer.body))
    try:
        packets = list(engineio.decode_payload(answer.body))
        return opened(packets[0], where), packets[1:]
    except (ProtocolError, HandshakeError):
        kind = answer.headers.get("content-type") or ""
        came = f"a page of HTML ({kind.partition(';')[0]})" if "html" in kind else "what is no packet of Engine.IO"
        text = f"{where}: no Socket.IO server: it answered with {came}; {WHAT}"
        raise HandshakeError(text, status=200, headers=answer.headers.items(), body=_cut(answer.body)) from None


def refusal(status: int | None, headers: Any, body: bytes, where: str) -> HandshakeError:
    """What to raise for an answer that is no session."""
    return HandshakeError(
        f"{where}: {_why(status, headers := tuple(headers), body)}", status=status, headers=headers, body=_cut(body)
    )


def _why(status: int | None, headers: tuple[tuple[str, str], ...], body: bytes) -> str:
    came = f"the server answered with status {status}"
    code = _code(body)
    if status == 400 and (code == engineio.BAD_VERSION[0] or b"unsupported version" in body):
        return f"{came}, for it does not speak Engine.IO v4: expected Socket.IO 3 or 4, python-socketio 5 or Portico"
    if code == engineio.UNKNOWN_TRANSPORT[0]:
        return f"{came}, for it does not offer this transport: set transports="
    if code == engineio.UNKNOWN_SID[0]:
        return (
            f"{came}: it does not know the session. With several processes behind one address, the requests of one "
            'session have to reach the same one ("sticky sessions"), or set transports=["websocket"]'
        )
    if code == engineio.FORBIDDEN[0] or status in (401, 403):
        return f"{came}: it lets this client not in; set headers= to what it wants to see"
    if status is not None and 300 <= status < 400:
        return f"{came}: redirects are not followed; give the URL that it leads to"
    if status == 404:
        return f"{came}: {WHAT}"
    if status is not None and status >= 500:
        return came
    return f"{came}: {WHAT}"


def _code(body: bytes) -> int | None:
    """The number of an Engine.IO server's error body; None where it is none."""
    try:
        data = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        return None
    code = data.get("code") if isinstance(data, dict) and "message" in data else None
    return code if isinstance(code, int) else None


def _cut(body: bytes) -> bytes:
    return body[:MAX_BODY_BYTES]
