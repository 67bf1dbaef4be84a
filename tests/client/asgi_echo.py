"""The ASGI application that uvicorn serves to the client's tests, in a process of its own; as `servers` wants it."""

from __future__ import annotations

import json
from typing import Any


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "websocket"
    await receive()
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    chosen = "chat.v2" if "chat.v2" in scope["subprotocols"] else None
    await send({"type": "websocket.accept", "subprotocol": chosen})
    while (event := await receive())["type"] == "websocket.receive":
        text = event.get("text")
        if text is not None and text.startswith("close "):
            _, code, reason = text.split(" ")
            await send({"type": "websocket.close", "code": int(code), "reason": reason})
        else:
            await send({"type": "websocket.send", "text": text, "bytes": event.get("bytes")})
    print(json.dumps([event["code"], event.get("reason") or ""]), flush=True)
