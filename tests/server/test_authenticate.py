"""`authenticate` runs before the 101: it gives a user, refuses, fails or takes too long; until it has answered there is
no WebSocket."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from tests.support import TEXT, Logged, Peer, Waiting, frame, serving, turns, until, upgrade

import portico


class Users(portico.Endpoint):
    """Remembers who was let in."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_open(self, ws: portico.WebSocket) -> None:
        self.seen.append(ws.user)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        self.seen.append(message)


def plain(request: portico.Request) -> Any:
    return {"name": request.cookies["session"]}


async def waiting(request: portico.Request) -> Any:
    await turns()
    return {"name": request.cookies["session"]}


@pytest.mark.parametrize("authenticate", [plain, waiting])
async def test_the_user_is_what_it_returns(authenticate: Callable[[portico.Request], Any]) -> None:
    users = Users()
    async with serving(users, authenticate=authenticate) as server, await Peer.connect(server) as peer:
        await peer.open(cookie="a=b; session=ann")
        await until(lambda: users.seen)
    assert users.seen == [{"name": "ann"}]


async def test_it_sees_the_whole_request() -> None:
    seen: list[portico.Request] = []
    async with serving(Users(), authenticate=seen.append) as server, await Peer.connect(server) as peer:
        await peer.open("/a%20b?token=t&x=%C3%A9", cookie='id="7"', x_more="y")
        [request] = seen
        assert (request.method, request.path, request.query) == ("GET", "/a b", {"token": "t", "x": "é"})
        assert request.cookies == {"id": "7"}
        assert request.headers["X-More"] == "y"
        assert request.client == peer.writer.get_extra_info("sockname")
        assert request.server == ("127.0.0.1", server.port)
        assert request.scheme == "ws"


def basic(request: portico.Request) -> str:
    user, password = request.basic_auth or ("", "")
    if password != "sésame":
        raise portico.Refuse("who is it?", status=401, headers={"WWW-Authenticate": 'Basic realm="door"'})
    return user


@pytest.mark.parametrize("credentials", [None, "ann:wrong", "ann"])
async def test_http_basic_refuses(credentials: str | None) -> None:
    """RFC 7617, RFC 9110 §11.6.1: a 401 says how to authenticate."""
    header = None if credentials is None else "Basic " + base64.b64encode(credentials.encode()).decode()
    async with serving(Users(), authenticate=basic) as server, await Peer.connect(server) as peer:
        peer.send(upgrade(authorization=header))
        answer = await peer.refused(401)
        assert answer.header("www-authenticate") == 'Basic realm="door"'
        assert answer.text == "who is it?"


async def test_http_basic_lets_in() -> None:
    users = Users()
    async with serving(users, authenticate=basic) as server, await Peer.connect(server) as peer:
        await peer.open(authorization="basic " + base64.b64encode("ann:sésame".encode()).decode())
        await until(lambda: users.seen)
    assert users.seen == ["ann"]


def refusing(error: BaseException, *, later: bool) -> Callable[[portico.Request], Any]:
    """An `authenticate` that raises `error`, at once or after a while."""

    def now(request: portico.Request) -> None:
        raise error

    async def after_a_while(request: portico.Request) -> None:
        await turns()
        raise error

    return after_a_while if later else now


@pytest.mark.parametrize("later", [False, True])
class TestRefusals:
    async def test_plain(self, later: bool) -> None:
        """403 with the reason as text; nothing after the refused request is answered."""
        authenticate = refusing(portico.Refuse("not today"), later=later)
        async with serving(Users(), authenticate=authenticate) as server, await Peer.connect(server) as peer:
            peer.send(upgrade() + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = await peer.refused(403)
            assert answer.text == "not today"
            assert answer.header("content-type") == "text/plain; charset=utf-8"

    async def test_status_and_headers(self, later: bool) -> None:
        error = portico.Refuse("later", status=429, headers=[("Retry-After", "7"), ("X-Why", "load")])
        async with (
            serving(Users(), authenticate=refusing(error, later=later)) as server,
            await Peer.connect(server) as peer,
        ):
            peer.send(upgrade())
            answer = await peer.refused(429)
            assert (answer.header("retry-after"), answer.header("x-why")) == ("7", "load")

    async def test_data(self, later: bool) -> None:
        """With data the body is JSON."""
        error = portico.Refuse("no seat", data={"free": 0})
        async with (
            serving(Users(), authenticate=refusing(error, later=later)) as server,
            await Peer.connect(server) as peer,
        ):
            peer.send(upgrade())
            answer = await peer.refused(403)
            assert answer.header("content-type") == "application/json"
            assert json.loads(answer.body) == {"reason": "no seat", "data": {"free": 0}}

    @pytest.mark.parametrize(
        "error",
        [
            ValueError("the secret is 1234"),
            portico.Refuse("why", headers={"X-Split": "a\r\nX-Injected: b"}),
            portico.Refuse("why", data=object()),
            portico.LocalError("the secret is 1234"),
            asyncio.CancelledError("the secret is 1234"),
        ],
    )
    async def test_a_failure_is_500_without_its_text(self, later: bool, error: BaseException, logged: Logged) -> None:
        async with (
            serving(Users(), authenticate=refusing(error, later=later)) as server,
            await Peer.connect(server) as peer,
        ):
            peer.send(upgrade())
            answer = await peer.refused(500)
            assert answer.text == "Internal server error.\n"
            assert answer.header("x-injected") is None
        assert logged.take("the client got 500").exc_info


class Door:
    """An `authenticate` that waits; `cancelled` tells that it was."""

    def __init__(self) -> None:
        self.wait = Waiting()
        self.cancelled = asyncio.Event()

    async def __call__(self, request: portico.Request) -> str:
        try:
            await self.wait.stay()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return "late"


async def test_nothing_of_the_websocket_exists_before_the_answer() -> None:
    """Frames that came with the request wait, unread, until the user is known."""
    users, door = Users(), Door()
    async with serving(users, authenticate=door) as server, await Peer.connect(server) as peer:
        peer.send(upgrade())
        await door.wait.reached()
        peer.send(frame(TEXT, b"early") * 5000)
        await until(lambda: server.connections[0].bytes_in > len(upgrade()))
        await turns()
        assert users.seen == []
        assert [connection.protocol for connection in server.connections] == ["http/1.1"]
        assert [connection.websocket for connection in server.connections] == [None]
        door.wait.go.set()
        assert (await peer.head()).status == 101
        await until(lambda: len(users.seen) == 5001)
        assert users.seen[:2] == ["late", "early"]


async def test_frames_sent_meanwhile_are_held_in_bounded_memory() -> None:
    """A peer that talks on while it is being looked at is not read for ever."""
    users, door = Users(), Door()
    many = frame(TEXT, bytes(60_000)) * 400
    async with serving(users, authenticate=door) as server, await Peer.connect(server) as peer:
        peer.send(upgrade() + many)
        await door.wait.reached()
        [connection] = server.connections
        await until(lambda: connection.bytes_in > 65536)
        await turns(100)
        assert connection.bytes_in < 65536 + 2 * 256 * 1024
        door.wait.go.set()
        await until(lambda: len(users.seen) == 401)


async def test_it_has_a_deadline() -> None:
    """`Limits.head_timeout_s`: then 503, and `authenticate` is cancelled."""
    users, door = Users(), Door()
    limits = portico.Limits(head_timeout_s=0.2)
    async with serving(users, authenticate=door, limits=limits) as server, await Peer.connect(server) as peer:
        peer.send(upgrade())
        answer = await peer.refused(503)
        assert answer.header("retry-after") == "5"
        await until(door.cancelled.is_set)
    assert users.seen == []


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_the_peer_leaves_meanwhile(how: str) -> None:
    users, door = Users(), Door()
    async with serving(users, authenticate=door) as server, await Peer.connect(server) as peer:
        peer.send(upgrade())
        await door.wait.reached()
        if how == "FIN":
            peer.writer.close()
        else:
            peer.reset()
        await until(door.cancelled.is_set)
        await until(lambda: server.connection_count == 0)
    assert users.seen == []


async def test_the_server_stops_meanwhile() -> None:
    """What is decided while the server stops becomes no WebSocket any more."""
    users, door = Users(), Door()
    async with serving(users, authenticate=door) as server, await Peer.connect(server) as peer:
        peer.send(upgrade())
        await door.wait.reached()
        stopping = asyncio.ensure_future(server.close())
        await turns()
        door.wait.go.set()
        await peer.refused(503)
        peer.writer.close()
        await stopping
    assert users.seen == []


async def test_two_at_once_do_not_wait_for_each_other() -> None:
    users, door = Users(), Door()

    async def authenticate(request: portico.Request) -> str:
        return await door(request) if request.path == "/slow" else "quick"

    async with (
        serving(users, authenticate=authenticate) as server,
        await Peer.connect(server) as slow,
        await Peer.connect(server) as quick,
    ):
        slow.send(upgrade("/slow"))
        await door.wait.reached()
        await quick.open("/quick")
        await until(lambda: users.seen == ["quick"])
        door.wait.go.set()
        assert (await slow.head()).status == 101
        await until(lambda: users.seen == ["quick", "late"])


async def test_it_runs_before_an_asgi_application_too() -> None:
    """Whoever holds the WebSocket, nobody is let in unasked; the application finds the user in its scope."""
    users: list[object] = []

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            users.append(scope["user"])
            await receive()
            await send({"type": "websocket.close"})

    async def authenticate(request: portico.Request) -> str:
        if "let" not in request.query:
            raise portico.Refuse("who?", status=401)
        return "somebody"

    async with serving(application, authenticate=authenticate) as server:
        async with await Peer.connect(server) as peer:
            peer.send(upgrade("/"))
            await peer.refused(401)
        async with await Peer.connect(server) as peer:
            peer.send(upgrade("/?let"))
            await peer.refused(403)
    assert users == ["somebody"]
