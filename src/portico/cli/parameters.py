"""The options of ``portico serve``, each with its default, its unit and its place in the help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import click

from portico.cli.options import option
from portico.limits import Keepalive, Limits
from portico.server.access import QUIET_PATHS

QUIET: Final = QUIET_PATHS
LEVELS: Final = ("debug", "info", "warning", "error", "critical")
FILE: Final = click.Path(exists=True, dir_okay=False)
FOLDER: Final = click.Path(exists=True, file_okay=False)
SECONDS: Final = "SECONDS"
BYTES: Final = "BYTES"

WHERE: Final = "Where it listens"
TLS: Final = "TLS"
PROXY: Final = "Behind a proxy"
WEBSOCKET: Final = "WebSocket"
APPLICATION: Final = "The application and its options"
LOGS: Final = "Logs"
DEVELOPMENT: Final = "Development"
STOP: Final = "The stop"
LIMITS_SECTION: Final = "Limits"

# A limit's option has its name in portico.Limits; what is in its help is what happens beyond.
_LIMITS: Final = {
    "max_connections": "Connections at a time, 0: no cap; 503 beyond.",
    "max_connections_per_address": "The same for one address.",
    "max_head_bytes": "A request's head; 431 beyond.",
    "max_headers": "Headers of a request; 431 beyond.",
    "head_timeout_s": "For a request's head to come, and for TLS handshakes; 408 beyond.",
    "max_body_buffer_bytes": "Body bytes held for an application that doesn't read; then reading pauses.",
    "keep_alive_s": "How long a connection without a request stays.",
    "min_progress_bytes": "Of a request's body or an answer, in each window; 408 or the end beyond. 0: no bound.",
    "progress_window_s": "That window.",
    "max_pipelined": "Requests that wait behind one another; then reading pauses.",
    "max_message_bytes": "A WebSocket message, after inflation; close 1009 beyond.",
    "max_fragments": "Frames in a message; close 1008 beyond.",
    "assembly_timeout_s": "From a message's first frame to its last; close 1008 beyond.",
    "max_unread_bytes": "Messages that the application has not taken; then reading pauses.",
    "high_water_bytes": "Unsent bytes above which sending waits.",
    "max_outbox_bytes": "Unsent bytes above which a slow peer is closed with 1008.",
    "close_timeout_s": "For the answer to a close frame; then TCP is dropped.",
    "handler_grace_s": "For a handler to end after its connection has; then it is cancelled.",
}
LIMITS: dict[str, str] = {}
"""What an option's value is called in `portico.Limits`."""


class OctalMode(click.ParamType[int]):
    """The bits of a file's mode, as chmod takes them."""

    name = "mode"

    def convert(self, value: Any, parameter: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            mode = int(value, 8)
        except ValueError:
            mode = -1
        if not 0 <= mode <= 0o777:
            self.fail(f"{value!r}: expected an octal mode from 0 to 777, as 660", parameter, ctx)
        return mode


def limit(section: str, field: str, name: str, text: str) -> Callable[[Any], Any]:
    """An option for the field `field` of `portico.Limits`."""
    LIMITS[name] = field
    value = getattr(Limits(), field)
    unit = SECONDS if field.endswith("_s") else BYTES if field.endswith("_bytes") else "NUMBER"
    return option(
        section,
        "--" + name.replace("_", "-"),
        name,
        default=value,
        type=click.FLOAT if isinstance(value, float) else click.INT,
        metavar=unit,
        help=f"{text} [default: {value:.12g}]",
    )


def was_given(*names: str) -> bool:
    """Whether one of these parameters was set anywhere, not left at its default."""
    ctx = click.get_current_context()
    return any(ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT for name in names)


_where = [
    option(
        WHERE,
        "--host",
        multiple=True,
        default=["127.0.0.1"],
        metavar="HOST",
        help="Name or address, * for all of the machine's; may be repeated. [default: 127.0.0.1]",
    ),
    option(
        WHERE,
        "--port",
        default=8000,
        metavar="PORT",
        type=click.IntRange(0, 65535),
        help="TCP port, 0 for any free one. [default: 8000]",
    ),
    option(
        WHERE,
        "--bind",
        multiple=True,
        metavar="ADDRESS",
        help="In their place: HOST:PORT, unix:PATH, fd://NUMBER, systemd or systemd:NAME; may be repeated.",
    ),
    option(WHERE, "--uds", metavar="PATH", type=click.Path(), help="In their place: a Unix socket."),
    option(
        WHERE,
        "--uds-mode",
        metavar="MODE",
        type=OctalMode(),
        help="Its mode in octal, as 660. [default: as the umask leaves it]",
    ),
    option(
        WHERE,
        "--fd",
        metavar="NUMBER",
        type=click.IntRange(0),
        help="In their place: an inherited socket, by its file descriptor.",
    ),
]
_tls = [
    option(
        TLS,
        "--tls-cert",
        multiple=True,
        metavar="FILE",
        type=FILE,
        help="Certificate chain, PEM; repeated, the one that a client asks for by name (SNI). Loaded again on SIGHUP "
        "and when it changes.",
    ),
    option(TLS, "--tls-key", multiple=True, metavar="FILE", type=FILE, help="Its private key, PEM, in the same order."),
    option(TLS, "--tls-password-file", metavar="FILE", type=FILE, help="Holds the password of encrypted keys."),
    option(
        TLS, "--tls-client-ca", metavar="FILE", type=FILE, help="Clients have to show a certificate signed by one here."
    ),
]
_proxy = [
    option(
        PROXY,
        "--trusted-proxy",
        multiple=True,
        metavar="ADDRESS",
        help='An address or network of proxies, "unix" or "*"; may be repeated. [default: none]',
    ),
    option(
        PROXY,
        "--proxy-headers",
        default="x-forwarded",
        metavar="KIND",
        type=click.Choice(["x-forwarded", "forwarded"]),
        help="Which of their headers say who the client is: x-forwarded or forwarded. [default: x-forwarded]",
    ),
    option(
        PROXY,
        "--proxy-protocol/--no-proxy-protocol",
        default=False,
        help="Whether connections begin with a PROXY header, version 1 or 2. [default: no]",
    ),
]
_websocket = [
    option(
        WEBSOCKET,
        "--origin",
        multiple=True,
        metavar="ORIGIN",
        help='Let pages of this origin open WebSockets; may be repeated, "*" for any. [default: the server\'s own]',
    ),
    option(
        WEBSOCKET,
        "--deflate/--no-deflate",
        default=True,
        help="Whether compression is offered (RFC 7692). [default: yes]",
    ),
    option(WEBSOCKET, "--ping/--no-ping", default=True, help="Whether dead peers are found by pings. [default: yes]"),
    option(
        WEBSOCKET,
        "--ping-interval-s",
        default=Keepalive().ping_interval_s,
        metavar=SECONDS,
        type=float,
        help=f"From one ping to the next. [default: {Keepalive().ping_interval_s:g}]",
    ),
    option(
        WEBSOCKET,
        "--ping-timeout-s",
        default=Keepalive().ping_timeout_s,
        metavar=SECONDS,
        type=float,
        help=f"For any byte after a ping; close 1011 beyond. [default: {Keepalive().ping_timeout_s:g}]",
    ),
]
_application = [
    option(
        APPLICATION,
        "--app-dir",
        default=".",
        metavar="DIRECTORY",
        type=FOLDER,
        help="Where to look for TARGET's module first. [default: .]",
    ),
    option(
        APPLICATION,
        "--config",
        metavar="FILE",
        type=click.Path(),
        help="TOML with options. [default: [tool.portico] in pyproject.toml of --app-dir, if there]",
    ),
]
_logs = [
    option(
        LOGS,
        "--log-format",
        default="auto",
        metavar="FORMAT",
        type=click.Choice(["auto", "text", "json"]),
        help="text, json (a line each), or auto: text on a terminal, json elsewhere. [default: auto]",
    ),
    option(
        LOGS,
        "--log-level",
        default="info",
        metavar="LEVEL",
        type=click.Choice(LEVELS, case_sensitive=False),
        help=f"The least that is logged: {', '.join(LEVELS)}. [default: info]",
    ),
    option(
        LOGS,
        "--access-log/--no-access-log",
        default=None,
        help="A line for each request, two for each WebSocket. [default: unless --log-level is above info]",
    ),
    option(
        LOGS,
        "--quiet-path",
        multiple=True,
        metavar="PATH",
        help=f"Requests to it, answered below 400, are logged at debug; may be repeated. [default: {', '.join(QUIET)}]",
    ),
]
_development = [
    option(
        DEVELOPMENT,
        "--reload/--no-reload",
        default=False,
        help="Whether to start again when files change. Needs portico[reload]. [default: no]",
    ),
    option(
        DEVELOPMENT,
        "--reload-dir",
        multiple=True,
        metavar="DIRECTORY",
        type=FOLDER,
        help="Where to look for changes; may be repeated. [default: --app-dir]",
    ),
    option(
        DEVELOPMENT,
        "--reload-include",
        multiple=True,
        metavar="GLOB",
        help="Files that count besides *.py; may be repeated.",
    ),
    option(
        DEVELOPMENT, "--reload-exclude", multiple=True, metavar="GLOB", help="Files that don't count; may be repeated."
    ),
]
_stop = [
    limit(STOP, "drain_s", "drain_seconds", "Over how long WebSockets are closed; 0: all at once."),
    limit(STOP, "stop_timeout_s", "stop_timeout_s", "After that, for requests and sockets to end; then they are cut."),
]
_limits = [limit(LIMITS_SECTION, name, name, text) for name, text in _LIMITS.items()]

EVERY: Final = [
    *(_where + _tls + _proxy + _websocket),
    *(_application + _logs + _development + _stop + _limits),
]


def every(function: Any) -> Any:
    """Decorate `function` with all of them."""
    for each in reversed(EVERY):
        function = each(function)
    return function
