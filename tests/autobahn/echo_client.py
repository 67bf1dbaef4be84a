"""The client under test for Autobahn|Testsuite: does each case of a fuzzing server, then asks for its report."""

from __future__ import annotations

import argparse
import asyncio
import contextlib

import portico

MIB = 1024 * 1024
AGENT = "portico"


def open_case(uri: str) -> portico.client.connect.Connect:
    """With limits wide enough for the 16 MiB messages of 9.*, and every message compressed for 12.* and 13.*."""
    return portico.connect(
        uri,
        proxy=None,
        keepalive=None,
        deflate=portico.Deflate(server_context_takeover=True, client_context_takeover=True, threshold_bytes=0),
        limits=portico.Limits(max_message_bytes=32 * MIB, max_outbox_bytes=64 * MIB, max_fragments=1_000_000),
    )


async def main(server: str) -> None:
    async with open_case(f"{server}/getCaseCount") as ws:
        count = int(await ws.recv())
    for case in range(1, count + 1):
        async with open_case(f"{server}/runCase?case={case}&agent={AGENT}") as ws:
            with contextlib.suppress(portico.ConnectionClosed):
                async for message in ws:
                    await ws.send(message)
    async with open_case(f"{server}/updateReports?agent={AGENT}") as ws:
        async for _ in ws:
            pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("server", help="ws://127.0.0.1:PORT")
    asyncio.run(main(parser.parse_args().server))
