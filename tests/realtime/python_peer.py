"""python-socketio on uvicorn, with the events of tests/interop/node/realtime.mjs.

Says its port, and then one line of JSON for each thing that happened. Its one argument is JSON: {"options": of Node's}.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import Any

import socketio
import uvicorn

settings = json.loads(sys.argv[1])
options = {"pingInterval": "ping_interval", "pingTimeout": "ping_timeout"}
given = {options[name]: value / 1000 for name, value in settings.get("options", {}).items() if name in options}
io = socketio.AsyncServer(async_mode="asgi", **given)


def say(*what: Any) -> None:
    print(json.dumps(what, default=lambda data: {"type": "Buffer", "data": list(data)}), flush=True)


class Events(socketio.AsyncNamespace):
    async def on_connect(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        auth = auth or {}
        if auth.get("token") == "no":
            raise socketio.exceptions.ConnectionRefusedError("not you", {"code": 7})
        if self.namespace == "/admin" and auth.get("token") != "admin":
            raise socketio.exceptions.ConnectionRefusedError("admins only")
        say("connect", auth, False, {}, io.transport(sid, self.namespace))

    async def on_disconnect(self, sid: str, reason: str) -> None:
        say("disconnect", reason)

    async def on_echo(self, sid: str, *args: Any) -> None:
        await self.emit("echo", args, to=sid)

    async def on_say(self, sid: str, *args: Any) -> None:
        say("say", *args)

    async def on_count(self, sid: str, n: int) -> None:
        for i in range(n):
            await self.emit("number", i, to=sid)

    async def on_give(self, sid: str, *args: Any) -> Any:
        return args

    async def on_silent(self, sid: str) -> None:
        await asyncio.Event().wait()

    async def on_join(self, sid: str, room: str) -> None:
        await self.enter_room(sid, room)

    async def on_everyone(self, sid: str, *args: Any) -> None:
        await self.emit("news", args)

    async def on_ask(self, sid: str, *args: Any) -> None:
        try:
            say("answer", await self.call("question", args, to=sid, timeout=2))
        except socketio.exceptions.TimeoutError as error:
            say("answer failed", str(error))

    async def on_askRaw(self, sid: str, value: Any) -> None:
        await self.emit("question", value, to=sid, callback=lambda *values: say("answers", *values))

    async def on_kick(self, sid: str) -> None:
        await self.disconnect(sid)


io.register_namespace(Events("/"))
io.register_namespace(Events("/admin"))


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(socketio.ASGIApp(io), log_level="warning", lifespan="off")
        say(listener.getsockname()[1])
        await uvicorn.Server(config).serve([listener])


asyncio.run(main())
