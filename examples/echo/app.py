"""Plain WebSocket, in both styles: a coroutine that echoes, and callbacks that pass each message on to everybody."""

from __future__ import annotations

import os
import pathlib

import portico

app = portico.App()
app.static("/", pathlib.Path(__file__).with_name("page"), html=True)


@app.websocket("/echo")
async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:  # str for text, bytes for binary
        await ws.send(message)


class Everybody(portico.Endpoint):
    """One room for all. Who reads too slowly misses old messages, and holds up nobody."""

    def __init__(self) -> None:
        self.room = portico.Room(on_slow="drop_oldest")

    def on_open(self, ws: portico.WebSocket) -> None:
        self.room.add(ws)
        self.room.send(f"Somebody has come: {len(self.room)} are here.")

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.room.send(message)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self.room.discard(ws)
        self.room.send(f"Somebody has left: {len(self.room)} are here.")


app.websocket("/everybody", Everybody(), limits=portico.Limits(max_message_bytes=4096))

if __name__ == "__main__":
    portico.run(app, port=int(os.environ.get("PORT", "8000")))
