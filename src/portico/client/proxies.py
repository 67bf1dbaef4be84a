"""Which proxy a connection goes through, what it is asked, and what its refusal means."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ipaddress
import re
import socket
import urllib.request
from typing import Any, Final

from portico.errors import HandshakeError, LocalError
from portico.limits import Limits
from portico.net.proxy import ProxyRefused
from portico.wire.headers import Headers
from portico.wire.http1 import END, Rejected, ResponseParser
from portico.wire.uri import Uri, parse_uri

MAX_REFUSAL_BYTES: Final = 64 * 1024
_SEPARATORS = re.compile(r"[,\s]+")
_PLACE = re.compile(r"(?:\[([^\]]*)\]|([^:]*)|(.*:.*:.*))(?::([0-9]+))?")


def parse_proxy(text: Any, name: str = "proxy=") -> Uri:
    """The proxy that ``http://user:password@host:port`` names. Raises LocalError, never with the password in it."""
    scheme, slashes, rest = text.partition("://") if isinstance(text, str) else ("", "", "")
    if not slashes:
        scheme, rest = "http", text
    if not isinstance(text, str) or scheme.lower() != "http":
        came = f"{scheme}://…" if slashes else type(text).__name__
        raise LocalError(f"{name}: expected one that begins with http:// (and that knows CONNECT), got {came}")
    try:
        return parse_uri(f"ws://{rest}")
    except LocalError as error:
        raise LocalError(f"{name}: {str(error).replace('ws://', 'http://')}") from None


def proxy_for(uri: Uri, proxy: Uri | bool | None) -> Uri | None:
    """The proxy to go through: the one given, or with True the environment's; None goes directly.

    As in browsers, ws: goes through CONNECT as well, by preference of the proxy for HTTPS (RFC 6455 §4.1, item 3 of
    the connection's requirements).
    """
    if not proxy or isinstance(proxy, Uri):
        return proxy or None
    found = urllib.request.getproxies()
    no_proxy = found.get("no")
    if urllib.request.proxy_bypass(uri.host) if no_proxy is None else bypassed(no_proxy, uri.host, uri.port):
        return None  # without NO_PROXY: the settings of Windows or macOS
    for scheme in ("wss", "https") if uri.secure else ("ws", "https", "http"):
        if found.get(scheme):
            return parse_proxy(found[scheme], f"{scheme.upper()}_PROXY in the environment")
    return None


def bypassed(no_proxy: str, host: str, port: int) -> bool:
    """Whether NO_PROXY says to go to `host` directly.

    Its entries are separated by commas or spaces: ``*`` for everything; a name, for itself and all below it, whether or
    not ``.`` or ``*.`` stands before it; an address or a network (``10.0.0.0/8``); each perhaps with a port.
    """
    host = host.removesuffix(".")
    address = _address(host)
    return any(_covers(entry, host, address, port) for entry in _SEPARATORS.split(no_proxy.lower()))


def _covers(entry: str, host: str, address: Any, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        try:
            return address is not None and address in ipaddress.ip_network(entry, strict=False)
        except ValueError:
            return False
    match = _PLACE.fullmatch(entry)
    if match is None or (match[4] and int(match[4]) != port):
        return False
    name = (match[1] or match[2] or match[3] or "").removeprefix("*").lstrip(".").removesuffix(".")
    if not name or address is not None:
        return bool(name) and _address(name) == address
    with contextlib.suppress(UnicodeError):
        name = name.encode("idna").decode("ascii")
    return host == name or host.endswith("." + name)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def connect_head(uri: Uri, proxy: Uri) -> bytes:
    """The request for a tunnel to where `uri` is."""
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    lines = [f"CONNECT {host}:{uri.port} HTTP/1.1", f"Host: {host}:{uri.port}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: {basic(*proxy.credentials)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


async def refusal_body(sock: socket.socket, refused: ProxyRefused, limits: Limits, deadline: float) -> bytes:
    """The body of a proxy's refusal: what comes of it until `deadline` on the loop's clock, cut at 64 KiB."""
    loop = asyncio.get_running_loop()
    parser = ResponseParser(limits)
    data = refused.head + b"\r\n\r\n" + refused.rest
    body = b""
    with contextlib.suppress(OSError):  # TimeoutError is one
        async with asyncio.timeout_at(deadline):
            while len(body) < MAX_REFUSAL_BYTES:
                for event in parser.feed(data):
                    if event is END or isinstance(event, Rejected):
                        return body[:MAX_REFUSAL_BYTES]
                    if isinstance(event, bytes):
                        body += event
                data = await loop.sock_recv(sock, 4096)
                if not data:
                    break
    return body[:MAX_REFUSAL_BYTES]


def proxy_error(refused: ProxyRefused, proxy: Uri, body: bytes) -> HandshakeError:
    """What `connect` raises where the proxy opened no tunnel."""
    pairs = [line.partition(b":") for line in refused.head.split(b"\r\n")[1:] if b":" in line]
    headers = Headers([(name.strip().lower(), value.strip()) for name, _, value in pairs])
    advice = ""
    if refused.status == 407 and proxy.credentials is None:
        advice = "; it wants credentials, as in http://user:password@host:port"
    message = f"{proxy.authority}: {refused}{advice}"
    return HandshakeError(message, status=refused.status, headers=headers.items(), body=body)


def basic(user: str, password: str) -> str:
    """Basic credentials (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
