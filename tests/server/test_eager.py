"""An application's task is one like any other: what asyncio, contextvars and anyio promise holds in it.

From Python 3.12 on it begins at once, within the turn that brought its request; what never waits costs no turn of the
loop. None of the rules below depends on that.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import sniffio
from tests.support import GUARD_S, Logged, Peer, Waiting, get, pages, respond, serving, turns, until

import portico
from portico.net.reactor import Reactor

EAGER = sys.version_info >= (3, 12)

mark: contextvars.ContextVar[str] = contextvars.ContextVar("mark", default="none")


async def bodies(peer: Peer, *paths: str) -> list[str]:
    """The answers to these requests, sent at once."""
    peer.send(b"".join(get(path) for path in paths))
    return [(await peer.answer()).text for _ in paths]


async def ask(app: Any) -> str:
    async with serving(pages(app)) as server, await Peer.connect(server) as peer:
        return (await bodies(peer, "/"))[0]


class TestTasks:
    async def test_it_begins_at_once_where_python_can_do_that(self) -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(Reactor.running().in_turn)
            await asyncio.sleep(0)
            seen.append(Reactor.running().in_turn)
            await respond(send)

        await ask(app)
        assert seen == [EAGER, False]

    async def test_current_task(self) -> None:
        """One task from the first step to the last; and none is left as the current one."""
        tasks: list[asyncio.Task[Any] | None] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.append(asyncio.current_task())
            assert tasks[-1] in asyncio.all_tasks()
            if scope["path"] == "/waits":
                await asyncio.sleep(0)
            tasks.append(asyncio.current_task())
            asyncio.get_running_loop().call_soon(lambda: tasks.append(asyncio.current_task()))
            await respond(send)

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            await bodies(peer, "/waits")
            await bodies(peer, "/")
            await until(lambda: len(tasks) == 6)
        assert tasks[0] is tasks[1] is not None
        assert tasks[3] is tasks[4] is not None
        assert tasks[0] is not tasks[3]
        assert tasks[2] is tasks[5] is None

    async def test_one_that_begins_within_the_end_of_another(self) -> None:
        """The next request may begin where the one before it is answered; either still is its own task."""
        seen: dict[str, Any] = {}

        async def app(scope: Any, receive: Any, send: Any) -> None:
            before = asyncio.current_task()
            await asyncio.sleep(0)
            await respond(send, scope["path"].encode())
            seen[scope["path"]] = before
            assert asyncio.current_task() is before

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            paths = [f"/{number}" for number in range(10)]
            assert await bodies(peer, *paths) == paths
        assert len(set(seen.values())) == 10

    @pytest.mark.parametrize("start", ["task", "group", "wait_for", "ensure_future", "shield"])
    async def test_receive_and_send_are_coroutines_to_who_runs_them(self, start: str) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async def run(coroutine: Any) -> Any:
                if start == "task":
                    return await asyncio.create_task(coroutine)
                if start == "group":
                    async with asyncio.TaskGroup() as group:
                        task = group.create_task(coroutine)
                    return task.result()
                if start == "wait_for":
                    return await asyncio.wait_for(coroutine, GUARD_S)
                return await (
                    asyncio.ensure_future(coroutine) if start == "ensure_future" else asyncio.shield(coroutine)
                )

            message = await run(receive())
            await run(send({"type": "http.response.start", "status": 200, "headers": []}))
            await run(send({"type": "http.response.body", "body": message["type"].encode()}))

        assert await ask(app) == "http.request"

    async def test_they_may_be_started_by_anyio(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(receive)
            async with anyio.create_task_group() as group:
                group.start_soon(send, {"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": sniffio.current_async_library().encode()})

        assert await ask(app) == "asyncio"

    async def test_called_in_another_thread_they_wait_to_be_awaited(self) -> None:
        """As coroutines do; `asyncio.run_coroutine_threadsafe` gets them so, from a WSGI application for example."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            start = {"type": "http.response.start", "status": 200, "headers": []}
            unused = await asyncio.to_thread(lambda: (receive(), send(start)))
            loop = asyncio.get_running_loop()
            later = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(receive(), loop).result())
            await send(start)
            for coroutine in unused:
                coroutine.close()
            end = {"type": "http.response.body", "body": later["body"]}
            await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(send(end), loop).result())

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            peer.send(get(method="POST", Content_Length="5") + b"12345")
            assert (await peer.answer()).text == "12345"

    @pytest.mark.parametrize("kind", ["eager", "old", "new"])
    async def test_a_task_factory_of_the_loop_is_used(self, kind: str) -> None:
        made: list[Any] = []

        def old(loop: Any, coroutine: Any) -> Any:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop)

        def new(loop: Any, coroutine: Any, **options: Any) -> Any:
            made.append(coroutine)
            return asyncio.Task(coroutine, loop=loop, **options)

        if kind == "eager" and not EAGER:
            new = old
        async with serving(pages(marking)) as server, await Peer.connect(server) as peer:
            loop = asyncio.get_running_loop()
            eager = getattr(asyncio, "eager_task_factory", old)
            loop.set_task_factory({"eager": eager, "old": old, "new": new}[kind])  # type: ignore[arg-type]
            try:
                assert await bodies(peer, "/1", "/2") == ["none /1", "none /2"]
            finally:
                loop.set_task_factory(None)
        assert made or kind == "eager"


async def marking(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what `mark` is at the start and at the end, after it has been set to the request's path."""
    before = mark.get()
    mark.set(scope["path"])
    if "wait" in scope["path"]:
        await asyncio.sleep(0)
    await respond(send, f"{before} {mark.get()}".encode())


class TestContexts:
    async def test_each_request_has_its_own(self) -> None:
        """PEP 567: what a task sets is its own; on one connection, one after the other."""
        async with serving(pages(marking)) as server, await Peer.connect(server) as peer:
            for path in ("/1", "/wait2", "/3"):
                assert await bodies(peer, path) == [f"none {path}"]
            async with await Peer.connect(server) as other:
                assert await bodies(other, "/4") == ["none /4"]
        assert mark.get() == "none"

    async def test_also_where_one_begins_within_the_end_of_another(self) -> None:
        paths = [f"/wait{number}" if number % 3 else f"/{number}" for number in range(100)]
        async with serving(pages(marking)) as server, await Peer.connect(server) as peer:
            assert await bodies(peer, *paths) == [f"none {path}" for path in paths]

    async def test_also_where_the_peer_is_slow(self) -> None:
        """The next request begins when there is room again."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(mark.get())
            mark.set("set")
            await asyncio.sleep(0)
            await respond(send, bytes(2_000_000))

        seen: list[str] = []
        async with serving(pages(app)) as server, await Peer.connect(server, receive_buffer=4096) as peer:
            peer.send(get() * 5)
            for _ in range(5):
                await peer.answer()
        assert seen == ["none"] * 5

    async def test_nothing_gets_out_of_it(self) -> None:
        """Neither to callbacks of the same loop, nor to a WebSocket's."""
        seen: list[str] = []

        class Endpoint(portico.Endpoint):
            def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
                seen.append(mark.get())
                ws.write(message)

        app = portico.App()
        app.websocket("/ws", Endpoint())
        app.mount("/", pages(marking))
        async with serving(app) as server, await Peer.connect(server) as peer, await Peer.connect(server) as other:
            await other.open("/ws")
            await bodies(peer, "/1", "/wait2")
            other.send(b"\x81\x80\0\0\0\0")
            await other.frame()
        assert seen == ["none"]

    async def test_what_was_set_before_the_start_is_there(self) -> None:
        token = mark.set("server's")
        try:
            async with serving(pages(marking)) as server, await Peer.connect(server) as peer:
                assert await bodies(peer, "/1", "/2") == ["server's /1", "server's /2"]
        finally:
            mark.reset(token)


class TestCancelling:
    @pytest.mark.parametrize("waits", [False, True])
    async def test_timeouts(self, waits: bool) -> None:
        """They end what is in them, and nothing after them; asyncio's and anyio's, also in the first step."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if waits:
                await asyncio.sleep(0)
            await receive()
            seen = []
            try:
                async with asyncio.timeout(0.01):
                    await receive()
            except TimeoutError:
                seen.append("asyncio")
            with anyio.move_on_after(0.01) as scope_:
                await receive()
            seen.append(str(scope_.cancelled_caught))
            try:
                with anyio.fail_after(0.01):
                    await anyio.sleep_forever()
            except TimeoutError:
                seen.append("anyio")
            await asyncio.sleep(0)
            await respond(send, " ".join(seen).encode())

        assert await ask(app) == "asyncio True anyio"

    async def test_a_task_group(self) -> None:
        """As frameworks use it: one task streams, the other waits for the client to leave."""
        left: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            async with anyio.create_task_group() as group:

                async def watch() -> None:
                    left.append((await receive())["type"])
                    group.cancel_scope.cancel()

                group.start_soon(watch)
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"one", "more_body": True})
                if scope["path"] == "/forever":
                    await anyio.sleep_forever()
                await send({"type": "http.response.body", "body": b"two"})
                group.cancel_scope.cancel()
            left.append("out")

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            assert await bodies(peer, "/", "/") == ["onetwo"] * 2
            await until(lambda: left.count("out") == 2)
            left.clear()
            peer.send(get("/forever"))
            await peer.head()
            peer.reset()
            await until(lambda: left == ["http.disconnect", "out"])

    async def test_at_the_end_of_the_server(self) -> None:
        """What still runs after the stop is cancelled, and may clean up."""
        waiting = Waiting()
        seen: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await waiting.stay()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                seen.append("cleaned up")
                raise

        limits = portico.Limits(stop_timeout_s=0.05)
        async with serving(pages(app), limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(get())
            await waiting.reached()
            await server.close()
            assert seen == ["cleaned up"]
            assert await peer.to_end() == b""

    async def test_by_itself(self, logged: Logged) -> None:
        """A task that is cancelled from within ends its request alone."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/cancelled":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            await respond(send, b"well")

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            peer.send(get("/cancelled"))
            await peer.refused(500)
            async with await Peer.connect(server) as other:
                assert await bodies(other, "/") == ["well"]
        logged.take("an application failed")


class TestEnds:
    @pytest.mark.parametrize("waits", [False, True])
    async def test_an_exception(self, waits: bool, logged: Logged) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            if waits:
                await asyncio.sleep(0)
            raise ValueError("in the application")

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            peer.send(get() * 2)
            await peer.refused(500)
        record = logged.take("an application failed")
        assert record.exc_info
        assert isinstance(record.exc_info[1], ValueError)

    async def test_very_many_that_are_answered_at_once(self) -> None:
        """10,000 requests in one go: no recursion, and whoever else wants something need not wait for all of them."""
        count, done = 10_000, 0
        between: list[int] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            nonlocal done
            if scope["path"] == "/other":
                between.append(done)
            else:
                done += 1
                depth = 0
                frame: Any = sys._getframe()
                while frame is not None:
                    depth, frame = depth + 1, frame.f_back
                assert depth < 200
            await respond(send, b"x")

        async with (
            serving(pages(app)) as server,
            await Peer.connect(server) as peer,
            await Peer.connect(server) as other,
        ):
            peer.send(get() * count)
            received = 0
            while received < count:
                other.send(get("/other"))
                received += (await peer.reader.read(1 << 16)).count(b"HTTP/1.1 200 ")
                await other.answer()
        assert done == count
        assert sum(0 < each < count for each in between) > 5

    async def test_background_work_goes_on(self) -> None:
        """After the response, and although nobody but the server holds its task: the loop only has weak references."""
        there = asyncio.Event()
        ended: list[str] = []
        tasks: list[Callable[[], Any]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.append(weakref.ref(task))
            del task
            await respond(send, b"done")
            future = asyncio.get_running_loop().create_future()
            waiting.append(weakref.ref(future))
            there.set()
            await future
            ended.append("well")

        waiting: list[Callable[[], Any]] = []
        async with serving(pages(app)) as server:
            async with await Peer.connect(server) as peer:
                assert await bodies(peer, "/") == ["done"]
                await there.wait()
            await until(lambda: server.connection_count == 0)
            gc.collect()
            waiting[0]().set_result(None)
            await until(lambda: ended)
            await turns()
            gc.collect()
            assert tasks[0]() is None  # and then it is let go of

    async def test_one_that_never_waits_leaves_nothing(self) -> None:
        tasks: weakref.WeakSet[Any] = weakref.WeakSet()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            tasks.add(asyncio.current_task())
            await respond(send, b"x")

        async with serving(pages(app)) as server, await Peer.connect(server) as peer:
            await bodies(peer, *["/"] * 100)
            await turns()
            gc.collect()
            assert not tasks
            assert not server.tasks
