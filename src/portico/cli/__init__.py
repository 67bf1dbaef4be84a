"""The command ``portico``: argument parsing and printing only."""

from __future__ import annotations

import asyncio
import logging
import sys

import click

import portico
from portico.cli.connect import command as connect_command
from portico.cli.serve import command as serve_command
from portico.cli.serve import url
from portico.errors import PorticoError
from portico.server.drain import until_signal


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
main.add_command(serve_command)


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Name or address to listen on.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="TCP port; 0: any free one."
)
def demo(host: str, port: int) -> None:
    """Serve a page that shows every connection on this port, live."""
    from portico.demo import running

    async def show() -> None:
        async with running(host, port) as server:
            lines = [f"Portico listens on {url(address)}  (Ctrl+C stops it)" for address in server.addresses]
            await until_signal(server, ready=lambda: click.echo("\n".join(lines)))

    logging.basicConfig(level="WARNING", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(show())
    except PorticoError as error:
        raise click.ClickException(str(error)) from None
