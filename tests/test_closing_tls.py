"""`test_closing_matrix`, over TLS: whether TLS ends in good order (close_notify), is cut by FIN or RST, even within
a record, or falls silent, the user is told once, as the right `Close`, in time.

A missing close_notify (RFC 8446 §6.1) is no matter of its own: a WebSocket ends with a close frame, and what comes
without one is 1006, as without TLS.
"""

from __future__ import annotations

import asyncio
import pathlib
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from tests.client.fakes import Certificates
from tests.support import turns
from tests.test_closing_matrix import (
    AT_ONCE_S,
    GRACE_S,
    KEEPALIVE,
    LIMITS,
    LOST,
    STYLES,
    Ending,
    Told,
    both_at_once,
    by_peer,
    by_us,
    ended,
    fin,
    logged,
    others,
    reads,
    rst,
    silent,
    within,
)

import portico
from portico import Close
from portico.testing import Flow, Link, pair, run

__all__ = ["logged"]  # the fixture: nothing may be warned of

URI = "wss://localhost/"


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's and the server's."""
    directory: pathlib.Path = tmp_path_factory.mktemp("tls")
    certificates = Certificates(directory)
    return certificates.client(), certificates.server(certificates.signed())


def notified(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
    """TLS ends in good order, the WebSocket doesn't."""
    theirs.stream.close()
    return LOST, AT_ONCE_S


def within_a_record(then: Callable[[Link], object]) -> Ending:
    """A record is cut short: some of its bytes have come, and then the connection is gone."""

    def end(ours: portico.WebSocket, theirs: portico.WebSocket, link: Link) -> tuple[Close, float]:
        flow = link.to_client if ours.client else link.to_server
        flow.tear()
        theirs.write(b"x" * 1000)
        asyncio.get_running_loop().call_soon(look, flow, flow.bytes_out + 100, link)
        return LOST, 2 * AT_ONCE_S

    def look(flow: Flow, enough: int, link: Link) -> None:
        if flow.bytes_out < enough:
            asyncio.get_running_loop().call_soon(look, flow, enough, link)
        else:
            then(link)

    return end


cut_short = within_a_record(Link.cut)
reset_short = within_a_record(Link.reset)
ENDINGS: dict[str, Ending] = {
    "by_peer": by_peer,
    "by_us": by_us,
    "both_at_once": both_at_once,
    "notified": notified,
    "fin": fin,
    "rst": rst,
    "cut_short": cut_short,
    "reset_short": reset_short,
    "silent": silent,
}
RESETS = {"rst", "reset_short"}


def options(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> dict[str, Any]:
    client, server = contexts
    ends = {"client": {"ssl": client}, "server": {"ssl": server}}
    return {"uri": URI, "limits": LIMITS, "keepalive": KEEPALIVE, **ends}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("style", STYLES)
def test_a_handler_is_told_once(style: str, ending: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """On the server."""
    told = Told()

    async def main() -> None:
        with Link(tcp=ending in RESETS) as link:
            async with pair(told.handler(style), link=link, **options(contexts)) as (client, server):
                assert server.stream.tls
                reader = asyncio.create_task(reads(client))
                await turns()
                assert server.closed is None
                close, bound = ENDINGS[ending](server, client, link)
                await within(bound, lambda: server.closed is not None and server.stream.gone)
                await within(GRACE_S + AT_ONCE_S if style == "idle" else 2 * AT_ONCE_S, lambda: told.ends)
                await turns()
                assert others() <= {reader}, "only the peer's task is left"
            await reader
            assert not others()
            assert told.ends == [close]
            assert server.closed == close

    run(main(), patience_s=0.01 if ending in RESETS else 0)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("style", ["iterating", "pushing", "callbacks"])
def test_a_client_is_told_once(style: str, ending: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    told = Told()

    async def main() -> None:
        endpoint = told.callbacks() if style == "callbacks" else None
        with Link(tcp=ending in RESETS) as link:
            async with pair(endpoint=endpoint, link=link, **options(contexts)) as (client, server):
                reader = asyncio.create_task(reads(server))
                user = None if endpoint else asyncio.create_task(told.handler(style)(client))
                await turns()
                assert client.closed is None
                close, bound = ENDINGS[ending](client, server, link)
                await within(bound, lambda: client.closed is not None and client.stream.gone)
                if user is not None:
                    await ended(user, AT_ONCE_S)
                await turns()
                assert others() <= {reader}, "only the peer's task is left"
            await reader
            assert not others()
            assert told.ends == [close]
            assert client.closed == close

    run(main(), patience_s=0.01 if ending in RESETS else 0)
