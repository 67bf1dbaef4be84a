"""The command ``portico``: argument parsing and printing only."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import ssl
import sys
from typing import Any

import click

import portico
from portico.cli.connect import command as connect_command
from portico.errors import PorticoError
from portico.server.server import until_signal

HOST = click.option("--host", default="127.0.0.1", show_default=True, help="Name or address to listen on.")
PORT = click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="TCP port; 0: any free one."
)
LEVELS = ("debug", "info", "warning", "error")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(
    portico.__version__,
    prog_name="portico",
    message=f"%(prog)s %(version)s, {'compiled' if portico.compiled else 'interpreted'}, "
    f"Python {sys.version.split()[0]}",
)
def main() -> None:
    """One port for HTTP, WebSocket and realtime events."""


main.add_command(connect_command)


@main.command()
@click.argument("target")
@HOST
@PORT
@click.option("--uds", metavar="PATH", help="Listen on a Unix socket instead.")
@click.option("--fd", type=click.IntRange(0), help="Listen on an inherited socket, by its file descriptor, instead.")
@click.option(
    "--tls-cert", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Certificate chain, PEM."
)
@click.option("--tls-key", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="Its private key, PEM.")
@click.option(
    "--origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help='Let pages of this origin open WebSockets; may be repeated, "*" for any. [default: the server\'s own]',
)
@click.option("--app-dir", default=".", show_default=True, help="Where to look for TARGET's module first.")
@click.option("--log-level", default="info", show_default=True, type=click.Choice(LEVELS), help="What is logged.")
def serve(
    target: str,
    host: str,
    port: int,
    uds: str | None,
    fd: int | None,
    tls_cert: str | None,
    tls_key: str | None,
    origins: tuple[str, ...],
    app_dir: str,
    log_level: str,
) -> None:
    """Serve TARGET, given as module:attribute: a portico.App, a coroutine handler, an Endpoint or an ASGI app."""
    _log(log_level)
    if bool(tls_key) and not tls_cert:
        raise click.UsageError("--tls-key without --tls-cert")
    if uds is not None and fd is not None:
        raise click.UsageError("--uds and --fd exclude each other")
    context = None
    if tls_cert is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        try:
            context.load_cert_chain(tls_cert, tls_key)
        except (OSError, ssl.SSLError) as error:
            raise click.ClickException(f"--tls-cert, --tls-key: {error}") from None
        context.set_alpn_protocols(["http/1.1"])
    options: dict[str, Any] = {"ssl": context, "uds": uds, "origins": list(origins) or None}
    if fd is not None:
        try:
            options["sock"] = socket.socket(fileno=fd)
        except OSError as error:
            raise click.ClickException(f"--fd {fd}: expected a socket: {error.strerror}") from None
    _run(_serve(load(target, app_dir), host, port, options))


@main.command()
@HOST
@PORT
def demo(host: str, port: int) -> None:
    """Serve a page that shows every connection on this port, live."""
    from portico.demo import running

    async def show() -> None:
        async with running(host, port) as server:
            _announce(server, "http", server.addresses)
            await until_signal(server)

    _log("warning")
    _run(show())


async def _serve(app: object, host: str, port: int, options: dict[str, Any]) -> None:
    async with portico.serve(app, host, port, **options) as server:
        _announce(server, "https" if options["ssl"] else "http", server.addresses)
        await until_signal(server)


def _announce(server: portico.Server, scheme: str, addresses: list[Any]) -> None:
    for address in addresses:
        if isinstance(address, tuple):
            host = f"[{address[0]}]" if ":" in address[0] else address[0]
            click.echo(f"Portico listens on {scheme}://{host}:{address[1]}/  (Ctrl+C stops it)")
        else:
            click.echo(f"Portico listens on {address}")


def _run(main: Any) -> None:
    try:
        asyncio.run(main)
    except PorticoError as error:
        raise click.ClickException(str(error)) from None


def _log(level: str) -> None:
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def load(target: str, app_dir: str = ".") -> object:
    """What ``module:attribute`` names; raises click.UsageError that says what is wrong with it."""
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise click.UsageError(f"TARGET {target!r}: expected module:attribute, for example app:app")
    sys.path.insert(0, os.path.abspath(app_dir))
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # the module is there, and what it imports is not
        raise click.UsageError(f"TARGET {target!r}: no module {module_name!r} in {os.path.abspath(app_dir)}") from None
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise click.UsageError(f"TARGET {target!r}: {module_name!r} has no {attribute!r}") from None
    return found
