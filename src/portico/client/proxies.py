"""Which proxy a connection goes through, what it is asked, and what its refusal means."""

from __future__ import annotations

import base64
import urllib.request
from typing import Any

from portico.errors import HandshakeError, LocalError
from portico.net.proxy import ProxyRefused
from portico.wire.headers import Headers
from portico.wire.uri import Uri, parse_uri


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
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    if urllib.request.proxy_bypass(f"{host}:{uri.port}") or urllib.request.proxy_bypass(uri.host):
        return None
    found = urllib.request.getproxies()
    for scheme in ("wss", "https") if uri.secure else ("ws", "https", "http"):
        if found.get(scheme):
            return parse_proxy(found[scheme], f"{scheme.upper()}_PROXY in the environment")
    return None


def connect_head(uri: Uri, proxy: Uri) -> bytes:
    """The request for a tunnel to where `uri` is."""
    host = f"[{uri.host}]" if ":" in uri.host else uri.host
    lines = [f"CONNECT {host}:{uri.port} HTTP/1.1", f"Host: {host}:{uri.port}"]
    if proxy.credentials is not None:
        lines.append(f"Proxy-Authorization: {basic(*proxy.credentials)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def proxy_error(refused: ProxyRefused, proxy: Uri) -> HandshakeError:
    """What `connect` raises where the proxy opened no tunnel."""
    pairs = [line.partition(b":") for line in refused.answer.split(b"\r\n")[1:] if b":" in line]
    headers = Headers([(name.strip().lower(), value.strip()) for name, _, value in pairs])
    advice = ""
    if refused.status == 407 and proxy.credentials is None:
        advice = "; it wants credentials, as in http://user:password@host:port"
    return HandshakeError(f"{proxy.authority}: {refused}{advice}", status=refused.status, headers=headers.items())


def basic(user: str, password: str) -> str:
    """Basic credentials (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
