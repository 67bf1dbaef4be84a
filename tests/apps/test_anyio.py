"""anyio in applications: task groups, cancel scopes, time limits, threads; and asyncio's own, on either server."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from tests.apps.hosts import GUARD_S, Host


async def test_a_request_has_a_task_of_its_own(host: Host) -> None:
    tasks = []

    async def page(request: Request) -> Response:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        assert anyio.get_current_task().id == id(task)
        await asyncio.sleep(0)
        assert asyncio.current_task() is task
        return JSONResponse(await anyio.to_thread.run_sync(anyio.from_thread.run, anyio.sleep, 0) is None)

    async with host(Starlette(routes=[Route("/", page)])) as site:
        assert (await site.http.get("/")).json() is True
        assert (await site.http.get("/")).json() is True
        assert tasks[0] is not tasks[1]
        assert asyncio.current_task() not in tasks


async def test_time_limits_end_what_they_are_around(host: Host) -> None:
    async def page(request: Request) -> Response:
        done = []
        with anyio.move_on_after(0.001) as scope:
            await anyio.sleep_forever()
        done.append(scope.cancelled_caught)
        try:
            with anyio.fail_after(0.001):
                await anyio.sleep_forever()
        except TimeoutError:
            done.append(True)
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            done.append(True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(request.receive(), 0.001)  # the body's end
            await asyncio.wait_for(request.receive(), 0.001)  # the client is still there
        with anyio.move_on_after(0) as scope:
            await anyio.sleep_forever()
        done.append(scope.cancelled_caught)
        task = asyncio.current_task()
        return JSONResponse([done, task.cancelling() if task else None])

    async with host(Starlette(routes=[Route("/", page)])) as site:
        for _ in range(2):
            assert (await site.http.get("/")).json() == [[True] * 4, 0]


async def test_task_groups_are_whole(host: Host) -> None:
    async def page(request: Request) -> Response:
        results: list[int] = []

        async def work(number: int) -> None:
            await anyio.lowlevel.checkpoint()
            results.append(number)

        async with anyio.create_task_group() as group:
            for number in range(50):
                group.start_soon(work, number)
        failed: list[str] = []
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                raise KeyError("inside")
        except* KeyError as errors:
            failed = [type(error).__name__ for error in errors.exceptions]
        return JSONResponse([sorted(results), failed])

    async with host(Starlette(routes=[Route("/", page)])) as site:
        assert (await site.http.get("/")).json() == [list(range(50)), ["KeyError"]]


async def test_a_group_ends_its_work_when_the_client_leaves(host: Host) -> None:
    """Reading beside the work, and cancelling it at ``http.disconnect``: as Starlette's and sse-starlette's do."""
    cancelled = asyncio.Event()
    waits = asyncio.Event()
    events: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return

        async def work() -> None:
            try:
                await anyio.sleep_forever()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with anyio.create_task_group() as group:
            group.start_soon(work)
            waits.set()
            while "http.disconnect" not in events:
                events.append((await receive())["type"])
            group.cancel_scope.cancel()

    async with host(app) as site, asyncio.timeout(GUARD_S):
        _, writer = await site.raw()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await waits.wait()
        writer.transport.abort()
        await cancelled.wait()
        assert events == ["http.request", "http.disconnect"]


async def test_a_websocket_is_read_and_written_by_two_tasks_of_a_group(host: Host) -> None:
    """A cancelled receive takes no message with it."""

    async def socket(ws: WebSocket) -> None:
        await ws.accept()

        async def write() -> None:
            for number in range(100):
                await ws.send_text(f"ours {number}")
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            got: list[str] = []
            while len(got) < 100:
                with anyio.move_on_after(0.0005):
                    got.append(await ws.receive_text())
        await ws.send_json(got == [f"theirs {number}" for number in range(100)])
        await ws.close()

    async with host(Starlette(routes=[WebSocketRoute("/", socket)])) as site, site.ws("/") as ws:
        received = []

        async def read() -> None:
            async for message in ws:
                received.append(message)

        reading = asyncio.create_task(read())
        for number in range(100):
            await ws.send(f"theirs {number}")
            if number % 10 == 0:
                await asyncio.sleep(0.001)
        await reading
        assert received == [*(f"ours {number}" for number in range(100)), "true"]


async def test_the_lifespan_may_keep_a_task_group_open(host: Host) -> None:
    done: list[str] = []

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> Any:
        async def background() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                done.append("background ended")

        async with anyio.create_task_group() as group:
            group.start_soon(background)
            yield {"group": group}
            group.cancel_scope.cancel()

    async def page(request: Request) -> Response:
        event = anyio.Event()

        async def work() -> None:
            event.set()

        request.state.group.start_soon(work)
        await event.wait()
        return JSONResponse("worked")

    async with host(Starlette(routes=[Route("/", page)], lifespan=lifespan)) as site:
        assert (await site.http.get("/")).json() == "worked"
    assert done == ["background ended"]
