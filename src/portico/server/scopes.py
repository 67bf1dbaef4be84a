"""ASGI's connection scopes (ASGI HTTP & WebSocket 2.4, ASGI TLS 0.2)."""

from __future__ import annotations

import functools
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

from portico.net.stream import Stream
from portico.server.switch import Switch

if TYPE_CHECKING:
    from portico.server.server import Server

ENDS_A_TURN: Final = 1000  # so often an application may ask on after the end before others have their turn
VERSIONS = {"version": "3.0", "spec_version": "2.4"}


HTTP_EXTENSIONS: dict[str, dict[str, Any]] = {
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.trailers": {},
    "http.response.zerocopysend": {},
}


def http_base(server: Server, stream: Stream) -> dict[str, Any]:
    """What the scopes of all requests on one connection share (ASGI HTTP & WebSocket, §HTTP connection scope)."""
    return {
        "type": "http",
        "asgi": VERSIONS,
        "scheme": "https" if stream.tls else "http",
        "client": server.peer(stream),
        "server": server.local(stream),
        "extensions": HTTP_EXTENSIONS | tls_extension(stream),
    }


def websocket_scope(switch: Switch, root: str, state: dict[str, Any]) -> dict[str, Any]:
    """The scope of one upgrade request (§WebSocket connection scope)."""
    request = switch.request
    head = request.head
    return {
        "type": "websocket",
        "asgi": VERSIONS,
        "http_version": head.version,
        "scheme": request.scheme,
        "path": head.path,
        "raw_path": head.raw_path,
        "query_string": head.query,
        "root_path": root,
        "headers": head.headers,
        "client": request.client,
        "server": request.server,
        "subprotocols": switch.upgrade.subprotocols if switch.upgrade else [],
        "state": state,
        "extensions": {"websocket.http.response": {}} | tls_extension(switch.stream),
    }


def tls_extension(stream: Stream) -> dict[str, dict[str, Any]]:
    """The ``tls`` extension (ASGI TLS), as far as Python knows: ``server_cert`` is None always."""
    if not stream.tls:
        return {}
    connection: Any = stream.sock  # an ssl.SSLSocket
    certificate = connection.getpeercert(binary_form=True)
    cipher = connection.cipher()
    return {
        "tls": {
            "server_cert": None,
            "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate)] if certificate else [],
            "client_cert_name": _name(connection.getpeercert()) if certificate else None,
            "client_cert_error": None,
            "tls_version": VERSION_NUMBERS.get(connection.version() or ""),
            "cipher_suite": _suites().get(cipher[0]) if cipher else None,
        }
    }


VERSION_NUMBERS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
SHORT = {  # RFC 4514 §3
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
_SPECIAL = re.compile(r'[,+"\\<>;]|^[ #]| $')


def _name(certificate: Any) -> str | None:
    """The subject as RFC 4514 writes it, the last part first; None where the certificate was not verified."""
    subject = (certificate or {}).get("subject", ())
    parts = [
        "+".join(f"{SHORT.get(kind, kind)}={_SPECIAL.sub(_escaped, value)}" for kind, value in group)
        for group in reversed(subject)
    ]
    return ",".join(parts) or None


def _escaped(found: re.Match[str]) -> str:
    return "\\" + found[0]


@functools.cache
def _suites() -> dict[str, int]:
    """The numbers of the cipher suites by OpenSSL's names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    return {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
