"""The official client from npm: every feature, over polling with an upgrade, WebSocket alone, polling alone."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.support import GUARD_S

import portico
from portico.realtime import Recovery

NODE = Path(__file__).parents[1] / "interop" / "node"


def realtime(**options: Any) -> portico.Realtime:
    io = portico.Realtime(recovery=Recovery(), **options)
    answers: list[int] = []

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        if auth.get("token") != "right":
            raise portico.Refuse("wrong token", data={"need": ["token"]})
        client.join("room")
        if not client.recovered:
            client.emit("hello", client.id)

    @io.on("add")
    def add(client: Any, a: int, b: int) -> int:
        return a + b

    @io.on("values")
    async def values(client: Any, *args: Any) -> Any:
        return (*args, client.id == "x")

    @io.on("echo")
    async def echo(client: Any, value: Any) -> Any:
        return value

    @io.on("fail")
    async def fail(client: Any) -> None:
        raise portico.Refuse("not you")

    @io.on("count")
    async def count(client: Any, n: int) -> int:
        await asyncio.sleep(0)
        answers.append(n)
        return len(answers)

    @io.on("ask", concurrent=True)
    async def ask(client: Any, value: int) -> Any:
        answer, binary = await client.call("question", value, timeout=5)
        return [answer, len(binary)]

    @io.on("never", concurrent=True)
    async def never(client: Any) -> None:
        await asyncio.sleep(1)

    @io.on("ready")
    async def ready(client: Any) -> None:
        client.data["ready"] = True

    @io.on("rooms")
    async def rooms(client: Any) -> Any:
        return [sorted(client.rooms), client.data]

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        if client.data:
            for n in range(5):
                io.to("room").emit("missed", n)
            io.to("elsewhere").emit("missed", "not ours")
            io.except_(client).emit("missed", "nor this")
            io.to(client.id).emit("last")

    for namespace in (io.of("/admin"), io.matching(r"/room-\d+")):

        @namespace.on("where")
        async def where(client: Any) -> str:
            return str(client.namespace.name)

        @namespace.on("leave")
        async def leave(client: Any) -> None:
            client.disconnect()

    return io


@pytest.mark.parametrize("transports", ["polling,websocket", "websocket", "polling"])
async def test_every_feature(transports: str) -> None:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "socket.io-client").is_dir():
        pytest.fail(f"the tests need Node.js and npm's socket.io-client: run make test, or npm ci in {NODE}")
    async with asyncio.timeout(3 * GUARD_S), portico.serve(realtime(), "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}"
        process = await asyncio.create_subprocess_exec(
            node, str(NODE / "official.mjs"), url, transports, stdout=asyncio.subprocess.PIPE
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert json.loads(output) == {
        "refused": ["wrong token", {"need": ["token"]}],
        "nowhere": "Invalid namespace",
        "hello": True,
        "transport": transports.rpartition(",")[2],
        "sum": 5,
        "values": ["é", None, False],
        "binary": [[1, 2], [], "€"],
        "error": {"error": "not you"},
        "ordered": list(range(1, 101)),
        "asked": [42, 1],
        "timeout": "operation has timed out",
        "big": True,
        "namespaces": ["/admin", "/room-7"],
        "kinds": 3,
        "left": "io server disconnect",
        "recovered": [False, True, True],
        "missed": [0, 1, 2, 3, 4],
        "still": [["room"], {"ready": True}],
    }
