"""The server under test for Autobahn|Testsuite: an echo, as a coroutine or as an endpoint.

Its limits are wide enough for the 16 MiB messages and the 65,536 fragments of the cases 9.*, and every message is
compressed where the client asks for it, so that the cases 12.* and 13.* test what they are there for.
"""

from __future__ import annotations

import argparse

import portico

MIB = 1024 * 1024


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Echo(portico.Endpoint):
    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=9001)
    parser.add_argument("--endpoint", action="store_true", help="callbacks instead of a coroutine")
    args = parser.parse_args()
    portico.run(
        Echo() if args.endpoint else echo,
        host="127.0.0.1",
        port=args.port,
        keepalive=None,
        deflate=portico.Deflate(server_context_takeover=True, client_context_takeover=True, threshold_bytes=0),
        limits=portico.Limits(max_message_bytes=32 * MIB, max_outbox_bytes=64 * MIB, max_fragments=1_000_000),
    )


if __name__ == "__main__":
    main()
