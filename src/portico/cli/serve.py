"""``portico serve``: an application, its options, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NoReturn

import click

import portico
from portico import logs
from portico.cli import parameters, reload
from portico.cli.loading import Broken, load
from portico.cli.options import Configured
from portico.errors import LocalError, PorticoError
from portico.limits import Deflate, Keepalive, Limits
from portico.net import activation
from portico.net.binding import Places
from portico.net.certificates import Certificates
from portico.server.access import AccessLog
from portico.server.drain import until_signal
from portico.server.server import Server

logger = logging.getLogger("portico")

BROKEN: Final = 3  # exit statuses, besides click's 2 for what was asked for
NO_ADDRESS: Final = 4
LOUDER: Final = ("warning", "error", "critical")  # levels that leave the access log out, unless it is asked for

EPILOG = """
Each option is also PORTICO_<NAME> in the environment, as in PORTICO_PORT, and <name> in a file: the one that --config
names, or [tool.portico] of the pyproject.toml in --app-dir. The command line comes first, then the environment.

Exit status: 0 after an orderly stop; 1 where it was cut short, by a second signal or for a handler that did not end;
2: wrong options; 3: the application failed to start; 4: the address can't be had.
"""


@click.command("serve", cls=Configured, epilog=EPILOG)
@click.argument("target", envvar="PORTICO_TARGET")
@parameters.every
def command(**given: Any) -> None:
    """Serve TARGET, given as module:attribute: a portico.App, a coroutine handler, an Endpoint or an ASGI app.

    SIGTERM or SIGINT stops it in order: nothing new is accepted, requests end, WebSockets are closed with 1001 over
    --drain-seconds, and --stop-timeout-s later what is left is cut. A second signal ends it at once. SIGHUP loads TLS
    certificates again.
    """
    logs.set_up(given["log_format"], given["log_level"])
    signal.signal(signal.SIGTERM, _give_up)  # by default, process 1 of a container would not even hear it
    try:
        child = reload.Child.here()
        if given["reload"] and child is None:
            asyncio.run(_supervise(given))
        else:
            asyncio.run(_serve(_server(given, child), given, child))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _server(given: dict[str, Any], child: reload.Child | None) -> Server:
    try:
        options = server_options(given)
        place = _places(given) if child is None else child.place()
        return portico.serve(load(given["target"], given["app_dir"]), **place, **options)
    except LocalError as error:
        raise click.UsageError(str(error)) from None
    except Broken as error:
        logger.critical("%s", error, exc_info=error.__cause__)
        sys.exit(BROKEN)


async def _serve(server: Server, given: dict[str, Any], child: reload.Child | None) -> None:
    try:
        await server.start()
    except LocalError as error:
        _fail(NO_ADDRESS, error)
    except PorticoError as error:
        _fail(BROKEN, error)
    try:
        numbers = [signal.SIGTERM]
        if child is None:
            numbers.append(signal.SIGINT)
        else:
            child.watch_parent()
        await until_signal(server, numbers, ready=lambda: announce(server, given))
    finally:
        await server.close()


async def _supervise(given: dict[str, Any]) -> None:
    reload.check()
    try:
        places = Places(**_places(given))
    except LocalError as error:
        raise click.UsageError(str(error)) from None
    try:
        sockets = await places.open()
    except LocalError as error:
        _fail(NO_ADDRESS, error)
    try:
        status = await reload.Parent(sockets, reload.Watched.of(given)).run()
    finally:
        for sock in sockets:
            sock.close()
        places.release()
    sys.exit(status)


def _fail(status: int, error: Exception) -> NoReturn:
    logger.critical("%s", error)
    sys.exit(status)


def _give_up(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(128 + number)


# -- what the options mean --------------------------------------------------------------------------------------------


def server_options(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `portico.serve` that the options stand for, but for where to listen."""
    return {
        "ssl": _certificates(given),
        "trusted_proxies": given["trusted_proxy"],
        "proxy_headers": given["proxy_headers"],
        "proxy_protocol": given["proxy_protocol"],
        "origins": list(given["origin"]) or None,
        "deflate": Deflate() if given["deflate"] else None,
        "limits": Limits(**{field: given[name] for name, field in parameters.LIMITS.items()}),
        "keepalive": _keepalive(given),
        "access_log": _access_log(given),
    }


def _places(given: dict[str, Any]) -> dict[str, Any]:
    if given["fd"] is not None:
        if given["uds"] is not None or given["bind"]:
            raise LocalError("--fd excludes --uds and --bind: expected one of them")
        try:
            return {"sock": activation.inherited(given["fd"])}
        except LocalError as error:
            raise LocalError(f"--fd {given['fd']}: {error}") from None
    hosts = [None if host == "*" else host for host in given["host"]]
    place: dict[str, Any] = {"uds": given["uds"], "bind": list(given["bind"]) or None}
    if given["uds_mode"] is not None:
        place["uds_mode"] = given["uds_mode"]
    if place["bind"] is None or parameters.was_given("host", "port"):
        place |= {"host": hosts[0] if len(hosts) == 1 else hosts, "port": given["port"]}
    return place


def _keepalive(given: dict[str, Any]) -> Keepalive | None:
    if not given["ping"]:
        return None
    return Keepalive(ping_interval_s=given["ping_interval_s"], ping_timeout_s=given["ping_timeout_s"])


def _access_log(given: dict[str, Any]) -> AccessLog | bool:
    wanted = given["access_log"]
    if wanted is None:
        wanted = given["log_level"] not in LOUDER
    if not wanted:
        return False
    if given["log_level"] in LOUDER:  # it was asked for
        logging.getLogger("portico.access").setLevel(logging.INFO)
    return AccessLog(given["quiet_path"] or parameters.QUIET)


def _certificates(given: dict[str, Any]) -> Certificates | None:
    certs, keys = given["tls_cert"], given["tls_key"]
    if not certs:
        for name in ("tls_key", "tls_password_file", "tls_client_ca"):
            if given[name]:
                raise click.UsageError(f"--{name.replace('_', '-')} without --tls-cert")
        return None
    if keys and len(keys) != len(certs):
        raise click.UsageError(f"--tls-key: expected none, or one for each --tls-cert, which are {len(certs)}")
    password = _password(given["tls_password_file"])
    pairs = list(zip(certs, keys or [None] * len(certs), strict=True))
    try:
        found = Certificates(*pairs[0], password=password, client_ca=given["tls_client_ca"])
        for pair in pairs[1:]:
            found.add(*pair, password=password)
    except LocalError as error:
        raise LocalError(f"--tls-cert, --tls-key: {error}") from None
    return found


def _password(file: str | None) -> Callable[[], bytes] | None:
    if file is None:
        return None

    def read() -> bytes:  # again with each loading of the certificates
        try:
            with open(file, "rb") as opened:
                return opened.read().rstrip(b"\r\n")
        except OSError as error:
            raise LocalError(f"--tls-password-file {file}: {error.strerror}") from None

    return read


# -- the first line ---------------------------------------------------------------------------------------------------


def announce(server: Server, given: dict[str, Any]) -> None:
    """Print, for each address, that it can be connected to now: the one thing that goes to stdout."""
    build = "compiled" if portico.compiled else "interpreted"
    python = platform.python_version()
    scheme = "https" if given["tls_cert"] else "http"
    json = isinstance(logs.formatter(given["log_format"], sys.stdout), logs.JsonFormatter)
    for address in server.addresses:
        place = url(address, scheme)
        if json:
            line: dict[str, Any] = {
                "time": logs.CLOCK.utc(time.time()),
                "level": "info",
                "logger": "portico",
                "message": f"Portico listens on {place}",
                "url": place,
                "target": given["target"],
                "version": portico.__version__,
                "build": build,
                "python": python,
                "pid": os.getpid(),
            }
            click.echo(logs.json_lines([line]), nl=False)
        else:
            what = f"serves {given['target']}; {portico.__version__}, {build}, Python {python}"
            click.echo(f"Portico listens on {place}  ({what}; Ctrl+C stops it)")


def url(address: Any, scheme: str = "http") -> str:
    """How `address`, one of `Server.addresses`, is written."""
    if not isinstance(address, tuple):
        return str(address)
    host, port = address
    return f"{scheme}://[{host}]:{port}/" if ":" in host else f"{scheme}://{host}:{port}/"
