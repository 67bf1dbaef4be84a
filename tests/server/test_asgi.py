"""ASGI 3.0: what a mounted application is told of a request, its lifespan, and its own WebSockets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import websockets
from tests.support import KEY, TEXT, Logged, Peer, Waiting, close_frame, frame, get, respond, serving, until, upgrade

import portico


class Recorder:
    """An ASGI application that keeps the scopes it got, and answers all there is."""

    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["pool"] = ["shared"]
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})
            return
        self.scopes.append(scope)
        if scope["type"] == "http":
            await respond(send, b"page")
        else:
            await receive()
            await send({"type": "websocket.accept"})


class TestScopes:
    async def test_http(self) -> None:
        """ASGI HTTP, §HTTP Connection Scope."""
        app = Recorder()
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(
                b"POST /a%20b/%E2%82%AC?x=1&y=%20 HTTP/1.1\r\nHost: a\r\nX-Twice: 1\r\nContent-Length: 0\r\n"
                b"X-twice:  2 \r\n\r\n"
            )
            await peer.answer()
            [scope] = app.scopes
            assert scope == {
                "type": "http",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "method": "POST",
                "scheme": "http",
                "path": "/a b/€",
                "raw_path": b"/a%20b/%E2%82%AC",
                "query_string": b"x=1&y=%20",
                "root_path": "",
                "headers": [(b"host", b"a"), (b"x-twice", b"1"), (b"content-length", b"0"), (b"x-twice", b"2")],
                "client": peer.writer.get_extra_info("sockname"),
                "server": ("127.0.0.1", server.port),
                "state": {"pool": ["shared"]},
                "extensions": {
                    "http.response.early_hint": {},
                    "http.response.pathsend": {},
                    "http.response.trailers": {},
                    "http.response.zerocopysend": {},
                },
            }

    async def test_websocket(self) -> None:
        """ASGI WebSocket, §WebSocket Connection Scope."""
        app = Recorder()
        async with serving(app) as server, await Peer.connect(server) as peer:
            await peer.open("/ws?x", sec_websocket_protocol="chat, superchat")
            [scope] = app.scopes
            assert scope == {
                "type": "websocket",
                "asgi": {"version": "3.0", "spec_version": "2.4"},
                "http_version": "1.1",
                "scheme": "ws",
                "path": "/ws",
                "raw_path": b"/ws",
                "query_string": b"x",
                "root_path": "",
                "headers": [
                    (b"host", b"127.0.0.1"),
                    (b"upgrade", b"websocket"),
                    (b"connection", b"Upgrade"),
                    (b"sec-websocket-key", KEY.encode()),
                    (b"sec-websocket-version", b"13"),
                    (b"sec-websocket-protocol", b"chat, superchat"),
                ],
                "client": peer.writer.get_extra_info("sockname"),
                "server": ("127.0.0.1", server.port),
                "subprotocols": ["chat", "superchat"],
                "state": {"pool": ["shared"]},
                "extensions": {"websocket.http.response": {}},
            }

    async def test_each_request_gets_its_own_copy_of_the_state(self) -> None:
        """ASGI §Lifespan State: a shallow copy."""
        app = Recorder()
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get() + get())
            await peer.answer()
            await peer.answer()
        first, second = (scope["state"] for scope in app.scopes)
        assert first is not second
        assert first["pool"] is second["pool"]

    async def test_mounts(self) -> None:
        """The longest mount wins; root_path is where it is, and path is whole (ASGI 2.4)."""
        apps = {name: Recorder() for name in ("/", "/api", "/api/deep/")}
        app = portico.App()
        for name, each in apps.items():
            app.mount(name, each)
        targets = ["/", "/apiary", "/api", "/api/", "/api/x?y=/api/deep", "/api/deep", "/api/deep/x", "*"]
        async with serving(app) as server, await Peer.connect(server) as peer:
            for target in targets:
                peer.send(get(target, method="OPTIONS"))
                await peer.answer() if target != "*" else await peer.refused(404)
        got = {name: [(scope["root_path"], scope["path"]) for scope in each.scopes] for name, each in apps.items()}
        assert got == {
            "/": [("", "/"), ("", "/apiary")],
            "/api": [("/api", "/api"), ("/api", "/api/"), ("/api", "/api/x")],
            "/api/deep/": [("/api/deep", "/api/deep"), ("/api/deep", "/api/deep/x")],
        }


class Lifespan:
    """An application that goes through its lifespan as it is told to; `told` is what the server said."""

    def __init__(self, *answers: dict[str, Any]) -> None:
        self.answers = list(answers)
        self.told: list[str] = []
        self.ended = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"page")
            return
        try:
            for answer in self.answers:
                self.told.append((await receive())["type"])
                await send(answer)
        finally:
            self.ended = True


STARTED = {"type": "lifespan.startup.complete"}
ENDED = {"type": "lifespan.shutdown.complete"}


async def tasks_left() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type] # there is one


class TestLifespan:
    async def test_start_and_end(self) -> None:
        app = Lifespan(STARTED, ENDED)
        async with serving(app) as server, await Peer.connect(server) as peer:
            assert app.told == ["lifespan.startup"]
            peer.send(get())
            await peer.answer()
        assert app.told == ["lifespan.startup", "lifespan.shutdown"]
        assert app.ended
        assert await tasks_left() == set()

    async def test_a_start_that_fails(self) -> None:
        """The server does not start, says why, and holds no socket; what had started before is ended."""
        first, second = (
            Lifespan(STARTED, ENDED),
            Lifespan({"type": "lifespan.startup.failed", "message": "no database"}),
        )
        app = portico.App()
        app.mount("/one/longer", first)
        app.mount("/two", second)
        server = portico.serve(app, "127.0.0.1", 0)
        with pytest.raises(portico.PorticoError, match="no database"):
            await server
        assert first.told == ["lifespan.startup", "lifespan.shutdown"]
        assert server.sockets == []
        assert first.ended
        assert second.ended
        assert await tasks_left() == set()

    async def test_an_end_that_fails_is_logged(self, logged: Logged) -> None:
        async with serving(Lifespan(STARTED, {"type": "lifespan.shutdown.failed", "message": "stuck"})):
            pass
        logged.take("failed to shut down: stuck")

    async def test_an_end_that_never_comes_is_bounded(self, logged: Logged) -> None:
        never = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(STARTED)
            await never.wait()

        async with serving(app, limits=portico.Limits(stop_timeout_s=0.1)):
            pass
        logged.take("did not shut down within 0.1 s")
        assert await tasks_left() == set()

    async def test_a_start_that_is_cancelled(self) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.Event().wait()

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(portico.serve(app, "127.0.0.1", 0).start(), 0.05)
        assert await tasks_left() == set()

    async def test_one_that_breaks_while_it_serves_is_logged(self, logged: Logged) -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send(STARTED)
            raise ValueError

        async with serving(app):
            await until(lambda: logged.records)
        logged.take("failed in its lifespan")

    async def test_an_application_that_knows_none(self) -> None:
        """An exception before its first answer means that it takes no part (ASGI §Lifespan)."""
        async with serving(Lifespan({"type": "no.such.message"})) as server, await Peer.connect(server) as peer:
            peer.send(get())
            assert (await peer.answer()).body == b"page"
        assert await tasks_left() == set()

    async def test_one_application_at_two_places_starts_once(self) -> None:
        once = Lifespan(STARTED, ENDED)
        app = portico.App()
        app.mount("/one", once)
        app.mount("/two", once)
        async with serving(app):
            pass
        assert once.told == ["lifespan.startup", "lifespan.shutdown"]


class Socket:
    """An ASGI application that does with a WebSocket what a test says."""

    def __init__(self, act: Any) -> None:
        self.act = act
        self.got: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await respond(send, b"page")
        elif scope["type"] == "websocket":

            async def listen() -> Any:
                self.got.append(await receive())
                return self.got[-1]

            await self.act(listen, send)


async def echo(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        kind = "text" if message.get("text") is not None else "bytes"
        await send({"type": "websocket.send", kind: message[kind]})


class TestWebSockets:
    async def test_messages_both_ways(self) -> None:
        app = Socket(echo)
        async with serving(app) as server:
            async with websockets.connect(f"ws://127.0.0.1:{server.port}/ws") as ws:
                for message in ("text é", b"bytes", "", b"", "x" * 300_000):
                    await ws.send(message)
                    assert await ws.recv() == message
                await ws.close(4001, "enough")
            await until(lambda: len(app.got) == 7)
        assert app.got[0] == {"type": "websocket.connect"}
        assert app.got[1] == {"type": "websocket.receive", "text": "text é"}
        assert app.got[2] == {"type": "websocket.receive", "bytes": b"bytes"}
        assert app.got[-1] == {"type": "websocket.disconnect", "code": 4001, "reason": "enough"}

    async def test_subprotocol_and_headers(self) -> None:
        async def act(receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept", "subprotocol": "b", "headers": [(b"set-cookie", b"a=1")]})

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            answer = await peer.open(sec_websocket_protocol="a, b")
            assert answer.header("sec-websocket-protocol") == "b"
            assert answer.header("set-cookie") == "a=1"
            await peer.closed_with(1000)  # it returned

    @pytest.mark.parametrize(
        "accept",
        [
            {"headers": [(b"x-a", b"1\r\nx-injected: 2")]},
            {"headers": [(b"sec-websocket-accept", b"mine")]},
            {"headers": [(b"connection", b"close")]},
            {"subprotocol": "not a token"},
            {"subprotocol": "never-offered"},
        ],
    )
    async def test_an_accept_that_cant_be_sent(self, accept: dict[str, Any], logged: Logged) -> None:
        """RFC 6455 §4.2.2: the handshake's fields are the server's, and the subprotocol is one that was offered."""

        async def act(receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept", **accept})

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade(sec_websocket_protocol="offered"))
            assert not any("injected" in name for name, _ in (await peer.refused(500)).headers)
        record = logged.take("failed on a WebSocket")
        assert record.exc_info
        assert isinstance(record.exc_info[1], portico.LocalError)

    async def test_a_close_before_the_accept_is_403(self) -> None:
        """ASGI WebSocket, §Close."""

        async def act(receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            assert (await receive())["type"] == "websocket.disconnect"

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade() + get())
            await peer.refused(403)

    async def test_a_denial_response(self) -> None:
        """ASGI extension websocket.http.response."""

        async def act(receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"content-type", b"text/html"), (b"www-authenticate", b"Basic")]
            await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
            await send({"type": "websocket.http.response.body", "body": "wér".encode(), "more_body": True})
            await send({"type": "websocket.http.response.body", "body": b"bist\xff"})

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade() + get())
            answer = await peer.refused(401)
            assert answer.body == "wér".encode() + b"bist\xff"
            assert answer.header("www-authenticate") == "Basic"
            assert answer.header("content-type") == "text/html"

    @pytest.mark.parametrize("accepted", [False, True])
    async def test_an_exception(self, accepted: bool, logged: Logged) -> None:
        """500 before the 101, close code 1011 after it; the peer never sees its text."""

        async def act(receive: Any, send: Any) -> None:
            await receive()
            if accepted:
                await send({"type": "websocket.accept"})
            raise ValueError("the secret is 1234")

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade())
            if accepted:
                assert (await peer.head()).status == 101
                assert "secret" not in await peer.closed_with(1011)
            else:
                assert "secret" not in (await peer.refused(500)).text
        logged.take("failed on a WebSocket")

    async def test_an_end_without_a_decision_is_500(self, logged: Logged) -> None:
        async def act(receive: Any, send: Any) -> None:
            await receive()

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade())
            await peer.refused(500)
        logged.take("ended without an answer to an upgrade request")

    @pytest.mark.parametrize("how", ["FIN", "RST", "close without a code"])
    async def test_disconnect_codes(self, how: str) -> None:
        """1006 without a close frame, 1005 for one without a code (RFC 6455 §7.1.5)."""
        app = Socket(echo)
        async with serving(app) as server, await Peer.connect(server) as peer:
            await peer.open()
            if how == "RST":
                peer.reset()
            elif how == "FIN":
                peer.writer.close()
            else:
                peer.send(frame(0x88))
            await until(lambda: len(app.got) == 2)
        code = 1005 if how == "close without a code" else 1006
        assert app.got[1] == {"type": "websocket.disconnect", "code": code, "reason": ""}

    @pytest.mark.parametrize("how", ["FIN", "RST", "too late"])
    async def test_nobody_is_left_before_the_decision(self, how: str) -> None:
        """The application that still thinks learns it from receive(), and what it decides then is an OSError."""
        raised: list[Any] = []
        wait = Waiting()
        wait.go.set()

        async def act(receive: Any, send: Any) -> None:
            await receive()
            await wait.stay()
            assert (await receive())["type"] == "websocket.disconnect"
            try:
                await send({"type": "websocket.accept"})
            except OSError as error:
                raised.append(error)
                raise

        limits = portico.Limits(head_timeout_s=0.1 if how == "too late" else 10)
        async with serving(Socket(act), limits=limits) as server, await Peer.connect(server) as peer:
            peer.send(upgrade())
            await wait.reached()
            if how == "RST":
                peer.reset()
            elif how == "FIN":
                peer.writer.close()
            else:
                await peer.refused(503)
            await until(lambda: raised)

    async def test_sending_to_nobody_raises_oserror(self) -> None:
        raised: list[Any] = []

        async def act(receive: Any, send: Any) -> None:
            await echo(receive, send)
            try:
                await send({"type": "websocket.send", "text": "late"})
            except OSError as error:
                raised.append(error)
            await send({"type": "websocket.close"})  # harmless

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.send(close_frame(1000))
            await until(lambda: raised)

    async def test_closing_with_code_and_reason(self) -> None:
        async def act(receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 4000, "reason": "enough"})

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            await peer.open()
            assert await peer.closed_with(4000) == "enough"

    @pytest.mark.parametrize("kind", ["websocket.send", "http.response.start", "websocket.http.response.body"])
    async def test_messages_before_the_accept(self, kind: str, logged: Logged) -> None:
        async def act(receive: Any, send: Any) -> None:
            await receive()
            await send({"type": kind, "status": 200, "text": "early"})

        async with serving(Socket(act)) as server, await Peer.connect(server) as peer:
            peer.send(upgrade())
            await peer.refused(500)
        logged.take("failed on a WebSocket")

    async def test_http_goes_on_beside_it(self) -> None:
        """Connections don't know of each other: pages are served while WebSockets are open."""
        async with (
            serving(Socket(echo)) as server,
            await Peer.connect(server) as one,
            await Peer.connect(server) as two,
        ):
            await one.open()
            for _ in range(3):
                two.send(get())
                one.send(frame(TEXT, b"x"))
                assert (await two.answer()).body == b"page"
                assert await one.frame() == (TEXT, b"x")
            await two.open()
            two.send(frame(TEXT, b"y"))
            assert await two.frame() == (TEXT, b"y")
