"""Engine.IO v4 by its protocol document: handshake, the two transports, heartbeat, upgrade, close, errors."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from tests.realtime.raw import serving
from tests.support import GUARD_S, until

import portico


def echo(**options: Any) -> portico.Realtime:
    io = portico.Realtime(**options)

    @io.on("*")
    async def any_event(client: Any, event: str, *args: Any) -> None:
        client.emit(event, *args)

    return io


# -- §Handshake ------------------------------------------------------------------------------------------------------


async def test_handshake_by_polling_says_what_the_client_needs() -> None:
    async with serving(portico.Realtime(ping_interval_s=0.3, ping_timeout_s=0.2, max_payload_bytes=5000)) as raw:
        opened = json.loads((await raw.get_open())[1:])
    assert isinstance(opened.pop("sid"), str)
    assert opened == {"upgrades": ["websocket"], "pingInterval": 300, "pingTimeout": 200, "maxPayload": 5000}


async def test_handshake_by_websocket_offers_no_upgrade() -> None:
    async with serving(portico.Realtime()) as raw, raw.socket() as socket:
        opened = await socket.opened()
    assert isinstance(opened.pop("sid"), str)
    assert opened == {"upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": 1000000}


async def test_sessions_have_ids_of_their_own() -> None:
    async with serving(portico.Realtime()) as raw:
        assert len({await raw.poll_session() for _ in range(20)}) == 20


# -- §Errors: the reference server's codes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "query", "code", "message"),
    [
        ("GET", {"transport": None}, 0, "Transport unknown"),
        ("GET", {"transport": "abc"}, 0, "Transport unknown"),
        ("GET", {"sid": "nobody"}, 1, "Session ID unknown"),
        ("POST", {"sid": "nobody"}, 1, "Session ID unknown"),
        ("POST", {}, 2, "Bad handshake method"),
        ("PUT", {}, 2, "Bad handshake method"),
        ("GET", {"transport": "websocket"}, 3, "Bad request"),
        ("GET", {"EIO": None}, 5, "Unsupported protocol version"),
        ("GET", {"EIO": "abc"}, 5, "Unsupported protocol version"),
        ("GET", {"EIO": "3"}, 5, "Unsupported protocol version"),
    ],
)
async def test_bad_requests_have_the_errors_of_the_protocol(
    method: str, query: dict[str, str | None], code: int, message: str
) -> None:
    async with serving(portico.Realtime()) as raw:
        status, text = await raw.request(method, **query)
    body = json.loads(text)
    assert (status, body["code"], body["message"]) == (400, code, message)
    assert body["hint"]


async def test_the_hint_for_another_version_names_packages() -> None:
    async with serving(portico.Realtime()) as raw:
        _, text = await raw.request(EIO="3")
    assert "EIO=3" in json.loads(text)["hint"]
    assert "socket.io-client 3 and 4" in json.loads(text)["hint"]


@pytest.mark.parametrize("query", [{"EIO": "3"}, {"EIO": None}, {"sid": "nobody"}, {"transport": "polling"}])
async def test_an_upgrade_request_is_refused_before_it_switches(query: dict[str, str | None]) -> None:
    async with serving(portico.Realtime()) as raw:
        url = raw.url(**({"transport": "websocket"} | query)).replace("http", "ws", 1)
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await raw.http.ws_connect(url)
    assert refused.value.status == 400


async def test_other_paths_below_the_mount_are_not_found() -> None:
    async with serving(portico.Realtime()) as raw, raw.http.get(raw.base + "/socket.io/x?EIO=4") as answer:
        assert answer.status in (404, 426)


async def test_the_path_without_its_slash_is_the_same() -> None:
    async with serving(portico.Realtime()) as raw:
        async with raw.http.get(raw.url().replace("/socket.io/", "/socket.io")) as answer:
            assert answer.status == 200
        async with raw.http.ws_connect(raw.url(transport="websocket").replace("/socket.io/", "/socket.io")) as ws:
            assert (await ws.receive_str())[0] == "0"


# -- §HTTP long-polling ----------------------------------------------------------------------------------------------


async def test_polling_holds_a_get_until_there_is_something() -> None:
    async with serving(echo()) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        assert (await raw.get(sid)).startswith("40{")
        held = asyncio.create_task(raw.get(sid))
        await until(lambda: raw.session.poll is not None)
        await raw.post(sid, '42["x",1]')
        assert await held == '42["x",1]'


async def test_polling_joins_packets_with_the_record_separator() -> None:
    """§Payload."""
    async with serving(echo()) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, '40\x1e42["a"]\x1e42["b"]')
        got = ""
        while got.count("\x1e") < 2:
            got += ("\x1e" if got else "") + await raw.get(sid)
        assert got.split("\x1e")[1:] == ['42["a"]', '42["b"]']


async def test_polling_carries_binary_in_base64() -> None:
    async with serving(echo()) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        await raw.post(sid, '451-["x",{"_placeholder":true,"num":0}]\x1ebAQIDBA==')
        assert await raw.get(sid) == '451-["x",{"_placeholder":true,"num":0}]\x1ebAQIDBA=='


@pytest.mark.parametrize("body", ["abc", "", "4\x1e", "7", "b!", "2", "40\x1ex"])
async def test_a_payload_that_is_none_ends_the_session(body: str) -> None:
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()
        assert (await raw.request("POST", body.encode(), sid=sid))[0] == 400
        assert (await raw.request(sid=sid))[0] == 400


async def test_a_payload_that_is_not_utf8_ends_the_session() -> None:
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()
        assert (await raw.request("POST", b"4\xff", sid=sid))[0] == 400
        assert (await raw.request(sid=sid))[0] == 400


async def test_a_second_get_at_once_ends_the_session() -> None:
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()
        held = asyncio.create_task(raw.request(sid=sid))
        await until(lambda: raw.session.poll is not None)
        assert (await raw.request(sid=sid))[0] == 400
        assert await held == (200, "1")
        assert (await raw.request(sid=sid))[0] == 400


async def test_a_second_post_at_once_ends_the_session() -> None:
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()

        async def slowly() -> Any:
            yield b"4"
            await asyncio.sleep(GUARD_S)

        first = asyncio.create_task(raw.request("POST", slowly(), sid=sid))
        await until(lambda: raw.session.posting)
        assert (await raw.request("POST", b"40", sid=sid))[0] == 400
        first.cancel()
        assert (await raw.request(sid=sid))[0] == 400


async def test_a_body_over_the_limit_is_413_whether_announced_or_not() -> None:
    async with serving(portico.Realtime(max_payload_bytes=100)) as raw:

        async def pieces() -> Any:
            for _ in range(20):
                yield b"4" * 20

        for body in (b"4" * 101, pieces()):
            sid = await raw.poll_session()
            status, text = await raw.request("POST", body, sid=sid)
            assert status == 413
            assert "max_payload_bytes" in text


async def test_a_body_of_binary_is_refused() -> None:
    """In version 4 binary is base64; CVE-2026-59725: what else comes ends the request and the session."""
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()
        headers = {"Content-Type": "application/octet-stream"}
        assert (await raw.request("POST", b"\x00", headers, sid=sid))[0] == 400
        assert (await raw.request(sid=sid))[0] == 400


async def test_a_client_that_drops_its_held_get_is_gone() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid = await raw.poll_session()
        held = asyncio.create_task(raw.get(sid))
        await until(lambda: raw.session.poll is not None)
        held.cancel()
        await until(lambda: not io.engine.sessions)
        assert io.counters.closed == {"transport close": 1}


# -- §WebSocket ------------------------------------------------------------------------------------------------------


async def test_websocket_sends_each_packet_as_a_message_and_binary_as_it_is() -> None:
    async with serving(echo()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.connect()
        await socket.send('42["x","é"]', '451-["y",{"_placeholder":true,"num":0}]', b"\x01\x02")
        await socket.expect('42["x","é"]', '451-["y",{"_placeholder":true,"num":0}]', b"\x01\x02")


@pytest.mark.parametrize("message", ["abc", "", "7", "2", b"\x01"])
async def test_websocket_ends_on_a_packet_that_is_none(message: str | bytes) -> None:
    async with serving(portico.Realtime()) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send(message)
        assert await socket.closed() == 1002


async def test_websocket_ends_on_a_message_over_the_limit() -> None:
    async with serving(portico.Realtime(max_payload_bytes=100)) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("4" * 101)
        assert await socket.closed() == 1009


# -- §Heartbeat ------------------------------------------------------------------------------------------------------


async def test_the_server_pings_on_websocket_and_stays_where_it_is_answered() -> None:
    async with serving(portico.Realtime(ping_interval_s=0.2, ping_timeout_s=5)) as raw, raw.socket() as socket:
        await socket.opened()
        for _ in range(3):
            await socket.expect("2")
            await socket.send("3")


async def test_the_server_pings_on_polling_and_stays_where_it_is_answered() -> None:
    async with serving(portico.Realtime(ping_interval_s=0.2, ping_timeout_s=5)) as raw:
        sid = await raw.poll_session()
        for _ in range(3):
            assert await raw.get(sid) == "2"
            await raw.post(sid, "3")


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_session_without_a_sign_of_life_ends(transport: str) -> None:
    io = portico.Realtime(ping_interval_s=0.2, ping_timeout_s=0.1)
    async with serving(io) as raw:
        if transport == "polling":
            sid = await raw.poll_session()
            await until(lambda: not io.engine.sessions)
            assert (await raw.request(sid=sid))[0] == 400
        else:
            async with raw.socket() as socket:
                await socket.opened()
                await socket.expect("2")
                await socket.closed()
        assert io.counters.closed == {"ping timeout": 1}


# -- §Close ----------------------------------------------------------------------------------------------------------


async def test_a_close_packet_ends_a_session_on_websocket() -> None:
    io = portico.Realtime()
    async with serving(io) as raw, raw.socket() as socket:
        await socket.opened()
        await socket.send("1")
        assert await socket.closed() == 1000
        assert io.counters.closed == {"transport close": 1}


async def test_a_close_packet_ends_a_session_on_polling_and_its_held_get_with_a_noop() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid = await raw.poll_session()
        held = asyncio.create_task(raw.get(sid))
        await until(lambda: raw.session.poll is not None)
        await raw.post(sid, "1")
        assert await held == "6"
        assert (await raw.request(sid=sid))[0] == 400


# -- §Upgrade --------------------------------------------------------------------------------------------------------


async def test_a_session_changes_over_to_websocket() -> None:
    async with serving(echo()) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            await socket.send("5", '42["x",1]')
            await socket.expect('42["x",1]')
            assert (await raw.request(sid=sid))[0] == 400  # it is on another transport now
            assert (await raw.request("POST", b"42", sid=sid))[0] == 400
            with pytest.raises(aiohttp.WSServerHandshakeError):
                async with raw.socket(sid):
                    pass
            await socket.send('42["y",2]')
            await socket.expect('42["y",2]')


async def test_the_probe_releases_a_held_get_with_a_noop() -> None:
    async with serving(portico.Realtime()) as raw:
        sid = await raw.poll_session()
        held = asyncio.create_task(raw.get(sid))
        await until(lambda: raw.session.poll is not None)
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            await socket.expect("3probe")
            assert await held == "6"


async def test_nothing_is_lost_repeated_or_reordered_while_it_changes_over() -> None:
    io = portico.Realtime()
    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        numbers = iter(range(1000))

        def emit(count: int) -> None:
            for _ in range(count):
                io.emit("n", next(numbers))

        got = []
        emit(3)
        async with raw.socket(sid) as socket:
            await socket.send("2probe")
            emit(2)
            await socket.expect("3probe")
            emit(2)
            got += (await raw.get(sid)).split("\x1e")
            emit(5)
            await socket.send("5")
            emit(5)
            while len(got) < 17:
                message = await socket.next()
                assert isinstance(message, str)
                got.append(message)
        assert got == [f'42["n",{n}]' for n in range(17)]


async def test_a_probe_that_is_not_followed_up_is_closed_and_polling_goes_on() -> None:
    async with serving(echo(upgrade_timeout_s=0.2)) as raw:
        sid = await raw.poll_session()
        async with raw.socket(sid) as socket:
            assert await socket.closed() == 1008
        await raw.post(sid, "40")
        assert (await raw.get(sid)).startswith("40{")


async def test_anything_but_a_probe_on_the_second_transport_closes_that_one() -> None:
    async with serving(echo()) as raw:
        sid = await raw.poll_session()
        async with raw.socket(sid) as socket:
            await socket.send('42["x"]')
            assert await socket.closed() == 1002
        await raw.post(sid, "40")
        assert (await raw.get(sid)).startswith("40{")


# -- origins: the same on both transports ----------------------------------------------------------------------------

EVIL = {"Origin": "https://evil.example"}


async def test_a_page_of_another_site_is_refused_on_both_transports_and_told_what_to_set() -> None:
    async with serving(portico.Realtime()) as raw:
        status, text = await raw.request(headers=EVIL)
        body = json.loads(text)
        assert (status, body["code"]) == (403, 4)
        assert "origins=['https://evil.example']" in body["message"]
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await raw.http.ws_connect(raw.url(transport="websocket"), headers=EVIL)
        assert refused.value.status == 403
        sid = await raw.poll_session()
        assert (await raw.request("POST", b"40", EVIL, sid=sid))[0] == 403
        assert (await raw.request("POST", b"40", {"Origin": raw.base}, sid=sid))[0] == 200


@pytest.mark.parametrize("where", ["server", "realtime"])
async def test_a_page_of_an_allowed_site_may_read_the_answers(where: str) -> None:
    origins = ["https://evil.example"]
    io = portico.Realtime(origins=origins if where == "realtime" else None)
    async with serving(io, origins=origins if where == "server" else None) as raw:
        async with raw.http.get(raw.url(), headers=EVIL) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "https://evil.example"
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert "Origin" in answer.headers["Vary"]
        preflight = EVIL | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-token"}
        async with raw.http.options(raw.url(), headers=preflight) as answer:
            assert answer.status == 204
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            assert answer.headers["Access-Control-Allow-Headers"] == "x-token"
        async with raw.http.ws_connect(raw.url(transport="websocket"), headers=EVIL) as ws:
            assert (await ws.receive_str())[0] == "0"


async def test_any_site_where_that_is_said_but_without_credentials() -> None:
    async with (
        serving(portico.Realtime(origins=["*"])) as raw,
        raw.http.get(raw.url(), headers=EVIL) as answer,
    ):
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Credentials" not in answer.headers


# -- authenticate ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True])
async def test_authenticate_decides_on_both_transports_and_is_asked_once_a_session(later: bool) -> None:
    asked = []

    def authenticate(request: portico.Request) -> Any:
        asked.append(request.query.get("transport"))
        if request.query.get("token") != "right":
            raise portico.Refuse("no token", 401, data={"need": "token"})
        return wait("ada") if later else "ada"

    async def wait(user: str) -> str:
        await asyncio.sleep(0)
        return user

    io = portico.Realtime(authenticate=authenticate)
    users = []

    @io.on("connect")
    async def connect(client: Any, auth: Any) -> None:
        users.append((client.user, client.transport, client.request.query["token"]))

    async with serving(io) as raw:
        status, text = await raw.request()
        assert (status, json.loads(text)) == (401, {"code": 4, "message": "no token", "data": {"need": "token"}})
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await raw.http.ws_connect(raw.url(transport="websocket"))
        async with raw.socket(token="right") as socket:
            await socket.opened()
            await socket.connect()
        status, text = await raw.request(token="right")
        sid = json.loads(text[1:])["sid"]
        await raw.post(sid, "40")
        await raw.get(sid)
        async with raw.socket(sid) as socket:
            await socket.send("2probe", "5")
            await socket.expect("3probe")
    assert users == [("ada", "websocket", "right"), ("ada", "polling", "right")]
    assert asked == ["polling", "websocket", "websocket", "polling"]


# -- the server stops ------------------------------------------------------------------------------------------------


async def test_a_stop_ends_sessions_on_both_transports_at_once() -> None:
    io = portico.Realtime()
    reasons = []

    @io.on("disconnect")
    async def gone(client: Any, reason: str) -> None:
        reasons.append(reason)

    async with serving(io) as raw:
        sid = await raw.poll_session()
        await raw.post(sid, "40")
        await raw.get(sid)
        held = asyncio.create_task(raw.get(sid))
        async with raw.socket() as socket:
            await socket.opened()
            await socket.connect()
            await until(lambda: any(session.poll for session in io.engine.sessions.values()))
            stopped = asyncio.create_task(raw.server.close())
            assert await held == "1"
            await socket.closed()
            await stopped
    assert reasons == ["server shutting down"] * 2
    assert not io.engine.sessions
