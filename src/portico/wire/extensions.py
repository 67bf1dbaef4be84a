"""``Sec-WebSocket-Extensions`` (RFC 6455 §9.1) and the negotiation of permessage-deflate (RFC 7692 §7), both roles.

Owns which parameters are agreed; never compresses anything. Parsing is linear in the header's length.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from portico.errors import ProtocolError
from portico.limits import Deflate
from portico.wire.headers import TOKEN_CHARS

Parameters = list[tuple[str, str | None]]
Extension = tuple[str, Parameters]

PERMESSAGE_DEFLATE: Final = "permessage-deflate"
_SERVER_FRESH: Final = "server_no_context_takeover"
_CLIENT_FRESH: Final = "client_no_context_takeover"
_SERVER_BITS: Final = "server_max_window_bits"
_CLIENT_BITS: Final = "client_max_window_bits"

_TOKEN = re.compile(r"[" + TOKEN_CHARS.decode("ascii") + r"]++")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*+)"')
_SPACE = re.compile(r"[ \t]*+")
_BITS = re.compile(r"[89]|1[0-5]")


@dataclass(frozen=True, slots=True)
class Agreed:
    """The permessage-deflate of one connection: whether a side drops its window after each message, and how large
    that window may be (RFC 7692 §7.1)."""

    server_no_context_takeover: bool
    client_no_context_takeover: bool
    server_max_window_bits: int
    client_max_window_bits: int


def parse(header_values: Iterable[str]) -> list[Extension]:
    """The extensions that these lines name, each with its parameters, in order. Raises ProtocolError (400)."""
    found: list[Extension] = []
    for text in header_values:
        pos = _skip(text, 0)
        while pos < len(text):
            if text[pos] == ",":
                pos = _skip(text, pos + 1)
                continue
            extension, pos = _extension(text, pos)
            found.append(extension)
            if pos < len(text) and text[pos] != ",":
                raise _malformed()
    return found


def _extension(text: str, pos: int) -> tuple[Extension, int]:
    name, pos = _token(text, pos)
    parameters: Parameters = []
    while pos < len(text) and text[pos] == ";":
        parameter, pos = _token(text, _skip(text, pos + 1))
        value: str | None = None
        if pos < len(text) and text[pos] == "=":
            value, pos = _value(text, _skip(text, pos + 1))
        parameters.append((parameter, value))
    return (name, parameters), pos


def _value(text: str, pos: int) -> tuple[str, int]:
    if text[pos : pos + 1] != '"':
        return _token(text, pos)
    match = _QUOTED.match(text, pos)
    if match is None:
        raise _malformed()
    value = re.sub(r"\\(.)", r"\1", match[1])
    if _TOKEN.fullmatch(value) is None:  # RFC 6455 §9.1: what the quotes hold must be a token
        raise _malformed()
    return value, _skip(text, match.end())


def _token(text: str, pos: int) -> tuple[str, int]:
    match = _TOKEN.match(text, pos)
    if match is None:
        raise _malformed()
    return match[0], _skip(text, match.end())


def _skip(text: str, pos: int) -> int:
    match = _SPACE.match(text, pos)
    return match.end() if match else pos


def _malformed() -> ProtocolError:
    return ProtocolError("malformed Sec-WebSocket-Extensions: expected name; parameter=value, … (RFC 6455 §9.1)")


def format_extension(name: str, parameters: Parameters) -> str:
    """One extension as it stands in the header."""
    return "; ".join([name, *(key if value is None else f"{key}={value}" for key, value in parameters)])


def accept_offer(header_values: Iterable[str], config: Deflate | None) -> tuple[Agreed, str] | None:
    """The server's choice: the first offer of permessage-deflate that `config` allows, as what is agreed and the
    value of the answer's header; None where there is none (RFC 7692 §7.1). Raises ProtocolError (400)."""
    offers = parse(header_values)
    if config is None:
        return None
    for name, parameters in offers:
        if name.lower() == PERMESSAGE_DEFLATE:
            offered = _parameters(parameters, bare_client_bits=True)
            answer = None if offered is None else _answer(offered, config)
            if answer is not None:
                return answer
    return None


def _parameters(parameters: Parameters, *, bare_client_bits: bool) -> dict[str, int | None] | None:
    """The parameters by name, window bits as numbers; None where one is unknown, repeated or has a wrong value."""
    found: dict[str, int | None] = {}
    for key, value in parameters:
        if key in found:
            return None
        if key in (_SERVER_FRESH, _CLIENT_FRESH):
            if value is not None:
                return None
            found[key] = None
        elif key in (_SERVER_BITS, _CLIENT_BITS):
            bare = value is None and key == _CLIENT_BITS and bare_client_bits
            if not bare and (value is None or _BITS.fullmatch(value) is None):
                return None
            found[key] = None if value is None else int(value)
        else:
            return None
    return found


def _answer(offered: dict[str, int | None], config: Deflate) -> tuple[Agreed, str] | None:
    server_bits = min(offered.get(_SERVER_BITS) or 15, config.server_max_window_bits)
    if server_bits < 9:  # zlib can't write a raw stream with a window of 256 bytes
        return None
    client_bits = 15
    if offered.get(_CLIENT_BITS, 8) != 8:  # not offered, or 8, which no larger number may answer and zlib can't promise
        client_bits = min(offered[_CLIENT_BITS] or 15, config.client_max_window_bits)
    server_fresh = _SERVER_FRESH in offered or not config.server_context_takeover
    client_fresh = _CLIENT_FRESH in offered or not config.client_context_takeover
    parameters: Parameters = []
    if server_fresh:
        parameters.append((_SERVER_FRESH, None))
    if client_fresh:
        parameters.append((_CLIENT_FRESH, None))
    if _SERVER_BITS in offered or server_bits < 15:
        parameters.append((_SERVER_BITS, str(server_bits)))
    if client_bits < 15:
        parameters.append((_CLIENT_BITS, str(client_bits)))
    agreed = Agreed(server_fresh, client_fresh, server_bits, client_bits)
    return agreed, format_extension(PERMESSAGE_DEFLATE, parameters)


def make_offer(config: Deflate) -> str:
    """The client's offer (RFC 7692 §7.1)."""
    parameters: Parameters = []
    if not config.server_context_takeover:
        parameters.append((_SERVER_FRESH, None))
    if not config.client_context_takeover:
        parameters.append((_CLIENT_FRESH, None))
    if config.server_max_window_bits < 15:
        parameters.append((_SERVER_BITS, str(config.server_max_window_bits)))
    client_bits = config.client_max_window_bits
    parameters.append((_CLIENT_BITS, str(client_bits) if client_bits < 15 else None))
    return format_extension(PERMESSAGE_DEFLATE, parameters)


def check_answer(header_values: Iterable[str], config: Deflate | None) -> Agreed | None:
    """What the server's answer to `make_offer(config)` agreed, None for no compression. Raises ProtocolError where
    it is no valid answer to that offer (RFC 6455 §4.1, RFC 7692 §7.1)."""
    answers = parse(header_values)
    if not answers:
        return None
    if config is None or any(name.lower() != PERMESSAGE_DEFLATE for name, _ in answers):
        names = ", ".join(name[:50] for name, _ in answers[:5])
        raise ProtocolError(f"the server chose an extension that was not offered: {names}")
    if len(answers) > 1:
        raise ProtocolError("the server chose permessage-deflate twice")
    chosen = _parameters(answers[0][1], bare_client_bits=False)
    if chosen is None:
        raise ProtocolError("the server's permessage-deflate has a parameter that is unknown, repeated or malformed")
    if not config.server_context_takeover and _SERVER_FRESH not in chosen:
        raise ProtocolError(
            f"expected {_SERVER_FRESH} in the server's answer, as it was offered (RFC 7692 §7.1.1.1); for a server "
            "that can't, pass deflate=Deflate(server_context_takeover=True)"
        )
    server_bits = chosen.get(_SERVER_BITS) or 15
    if server_bits > config.server_max_window_bits:
        raise ProtocolError(
            f"expected {_SERVER_BITS}={config.server_max_window_bits} or less in the server's answer, "
            f"but it chose {server_bits} (RFC 7692 §7.1.2.1)"
        )
    client_bits = chosen.get(_CLIENT_BITS) or config.client_max_window_bits
    if not 9 <= client_bits <= config.client_max_window_bits:
        raise ProtocolError(
            f"expected {_CLIENT_BITS} from 9 to {config.client_max_window_bits} in the server's answer, "
            f"but it chose {client_bits} (RFC 7692 §7.1.2.2)"
        )
    client_fresh = _CLIENT_FRESH in chosen or not config.client_context_takeover
    return Agreed(_SERVER_FRESH in chosen, client_fresh, server_bits, client_bits)
