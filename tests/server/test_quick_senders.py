"""A peer that reads is not slow, however much is sent to it within one callback."""

from __future__ import annotations

import pytest
import websockets
from tests.support import serving

import portico

PIECES = 18
PIECE = b"x" * 65536  # together more than max_outbox_bytes, 1 MiB


class Direct(portico.Endpoint):
    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        for _ in range(PIECES):
            ws.write(PIECE)


class ByRoom(portico.Endpoint):
    def __init__(self, policy: str) -> None:
        self.room = portico.Room(on_slow=policy)  # type: ignore[arg-type] # one of the four

    def on_open(self, ws: portico.WebSocket) -> None:
        self.room.add(ws)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(str(sum(self.room.send(PIECE[:20_000]) for _ in range(PIECES * 3))))


def reader(server: portico.Server) -> websockets.connect:
    return websockets.connect(f"ws://127.0.0.1:{server.port}/", compression=None)


async def test_direct_sends_are_written_before_a_peer_is_called_slow() -> None:
    """The kernel takes some, up to 256 KiB at once; 1 MiB of what it does not take is allowed."""
    async with serving(Direct(), deflate=None) as server, reader(server) as ws:
        await ws.send("go")
        for _ in range(PIECES):
            assert await ws.recv() == PIECE


@pytest.mark.parametrize("policy", ["close", "drop_oldest", "drop_newest"])
async def test_broadcasts_are_written_before_a_member_is_called_slow(policy: str) -> None:
    async with serving(ByRoom(policy), deflate=None) as server, reader(server) as ws:
        await ws.send("go")
        for _ in range(PIECES * 3):
            assert await ws.recv() == PIECE[:20_000]
        assert await ws.recv() == str(PIECES * 3)
