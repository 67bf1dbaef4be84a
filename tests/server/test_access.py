"""The access log: what its lines say, what they hide, and when they are written."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support import TEXT, Peer, close_frame, frame, pages, respond, serving, until

import portico
from portico import logs
from portico.server.access import AccessLog, shown

logger = logging.getLogger("portico.access")
CLIENT = ("192.0.2.7", 40312)


class Lines:
    """What was written, in both formats."""

    def __init__(self) -> None:
        self._text = io.StringIO()
        self._json = io.StringIO()
        self.handlers = [
            logs.Handler(logs.TextFormatter(), self._text),
            logs.Handler(logs.JsonFormatter(), self._json),
        ]

    def text(self) -> list[str]:
        """The lines of text, without time, level and logger."""
        return [line.partition("portico.access  ")[2] for line in self._text.getvalue().splitlines()]

    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._json.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """``portico.access`` writes here, at INFO and above, and nowhere else."""
    found = Lines()
    before = logger.level, logger.propagate
    logger.propagate = False
    logger.setLevel(logging.INFO)
    for handler in found.handlers:
        logger.addHandler(handler)
    yield found
    for handler in found.handlers:
        logger.removeHandler(handler)
    logger.level, logger.propagate = before
    logging.Logger.manager._clear_cache()  # type: ignore[attr-defined] # what setLevel() does


def request(log: AccessLog, target: str | bytes = "/", status: int = 200, **given: Any) -> None:
    raw = target.encode("latin-1") if isinstance(target, str) else target
    values: dict[str, Any] = {
        "method": "GET",
        "version": "1.1",
        "sent": 13,
        "began": time.monotonic(),
        "client": CLIENT,
        "scheme": "http",
    }
    log.request(target=raw, status=status, **values | given)


class TestRequests:
    def test_a_line_says_who_asked_for_what_and_what_they_got(self, lines: Lines) -> None:
        log = AccessLog()
        request(log, "/shoes?size=43", 404, agent=b"curl/8", began=time.monotonic() - 2)
        log.flush()
        assert lines.text()[0].startswith("192.0.2.7:40312 GET /shoes?size=43 HTTP/1.1 404 13 B 20")
        assert lines.text()[0].endswith(' ms "curl/8"')
        (found,) = lines.json()
        assert found.pop("time").endswith("Z")
        assert 2 <= found.pop("seconds") < 2.5
        assert found == {
            "level": "info",
            "logger": "portico.access",
            "message": "GET /shoes 404",
            "client": "192.0.2.7:40312",
            "method": "GET",
            "path": "/shoes",
            "query": "size=43",
            "http": "1.1",
            "scheme": "http",
            "status": 404,
            "bytes": 13,
            "user_agent": "curl/8",
        }

    @pytest.mark.parametrize(
        ("client", "written"),
        [(("2001:db8::1", 443), "[2001:db8::1]:443"), (None, "-"), (("proxy\nd", 0), "proxy\\nd:0")],
    )
    def test_every_kind_of_client_is_written(self, lines: Lines, client: Any, written: str) -> None:
        log = AccessLog()
        request(log, client=client)
        log.flush()
        assert lines.text()[0].startswith(written + " GET /")

    @given(st.binary(min_size=1, max_size=60), st.binary(max_size=20))
    def test_nothing_forges_a_line(self, target: bytes, agent: bytes) -> None:
        """A parser lets no such target through; the log doesn't rely on it."""
        found = Lines()
        log = AccessLog()
        for handler in found.handlers:
            handler.write(
                log._lines([("GET", target, "1.1", 200, 0, 0.0, CLIENT, "http", agent)], 0.0, handler.formatter)
            )
        for stream in (found._text, found._json):
            assert stream.getvalue().endswith("\n")
            assert [c for c in stream.getvalue()[:-1] if unicodedata.category(c) in ("Cc", "Zl", "Zp")] == []
        assert len(found.text()) == len(found.json()) == 1

    def test_a_target_is_cut_after_1000_characters(self) -> None:
        path, query = shown(b"/" + b"x" * 2000)
        assert path == "/" + "x" * 999 + "…(2001 bytes)"
        path, query = shown(b"/?token=" + b"x" * 2000)
        assert (path, query) == ("/", "token=***…(2008 bytes)")


SECRET = [
    "token",
    "access_token",
    "id_token",
    "accessToken",
    "refresh-token",
    "csrfmiddlewaretoken",
    "key",
    "api_key",
    "apikey",
    "X-Api-Key",
    "signingKey",
    "password",
    "passwd",
    "pass",
    "passphrase",
    "pwd",
    "db_password",
    "secret",
    "client_secret",
    "auth",
    "authorization",
    "oauth_verifier",
    "authcode",
    "session",
    "sessionid",
    "PHPSESSION",
    "code",
    "CODE",
    "device_code",
    "sig",
    "signature",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "hmac",
    "sid",
    "jwt",
    "bearer",
    "ticket",
    "otp",
    "pin",
    "nonce",
    "cookie",
]
PLAIN = [
    "q",
    "page",
    "size",
    "author",
    "keyword",
    "keyboard_layout",
    "passenger",
    "passive",
    "encoding",
    "barcode",
    "postcodes",
    "design",
    "signal",
    "side",
    "kind",
]


class TestSecrets:
    @pytest.mark.parametrize("name", SECRET)
    def test_the_value_of_a_secret_looking_parameter_is_hidden(self, name: str) -> None:
        for separator in "&;":
            target = f"/a?x=1{separator}{name}=hunter2{separator}y=2"
            assert shown(target.encode())[1] == f"x=1{separator}{name}=***{separator}y=2"

    @pytest.mark.parametrize("name", PLAIN)
    def test_others_are_shown(self, name: str) -> None:
        assert shown(f"/a?{name}=shoes".encode()) == ("/a", f"{name}=shoes")

    @pytest.mark.parametrize(
        "query",
        [
            "to%6ben=hunter2",
            "%74%6F%6B%65%6E=hunter2",
            "to%256ben=hunter2",
            "next=/?token=hunter2",
            "next=https%3A%2F%2Fexample.org%2F%3Ftoken%3Dhunter2",
            "next=%252F%253Ftoken%253Dhunter2",
            "user[password]=hunter2",
            "token==hunter2",
            "x&token=hunter2",
            "?token=hunter2",
            "a;token=hunter2",
        ],
    )
    def test_escapes_and_nesting_hide_it_no_less(self, query: str) -> None:
        assert "hunter2" not in shown(f"/a?{query}".encode())[1]

    def test_a_name_without_a_value_stays(self) -> None:
        assert shown(b"/a?token=&key") == ("/a", "token=&key")

    def test_they_are_hidden_in_every_format(self, lines: Lines) -> None:
        log = AccessLog()
        request(log, "/a?token=hunter2")
        log.flush()
        assert "/a?token=***" in lines.text()[0]
        assert lines.json()[0]["query"] == "token=***"


class TestQuietPaths:
    @pytest.mark.parametrize("target", ["/healthz", "/livez", "/readyz", "/health", "/healthz?full=1"])
    def test_health_checks_are_not_seen_at_info(self, lines: Lines, target: str) -> None:
        log = AccessLog()
        request(log, target)
        log.flush()
        assert lines.text() == []

    def test_those_that_fail_are(self, lines: Lines) -> None:
        log = AccessLog()
        request(log, "/healthz", 503)
        log.flush()
        assert [line["status"] for line in lines.json()] == [503]

    def test_at_debug_all_of_them_are(self, lines: Lines) -> None:
        logger.setLevel(logging.DEBUG)
        log = AccessLog(quiet=["/ping"])

        async def serve() -> None:
            log.begin(asyncio.get_running_loop())
            request(log, "/ping")
            request(log, "/healthz")

        asyncio.run(serve())
        log.flush()
        assert [(line["path"], line["level"]) for line in lines.json()] == [("/ping", "debug"), ("/healthz", "info")]


class TestWhenItIsWritten:
    async def test_once_for_all_that_happened_in_a_turn(self, lines: Lines) -> None:
        log = AccessLog()
        log.begin(asyncio.get_running_loop())
        for number in range(3):
            request(log, f"/{number}")
        assert lines.text() == []
        await asyncio.sleep(0)
        assert [line["path"] for line in lines.json()] == ["/0", "/1", "/2"]

    async def test_what_is_put_aside_is_bounded(self, lines: Lines) -> None:
        log = AccessLog()
        log.begin(asyncio.get_running_loop())
        for _ in range(2500):
            request(log)
        assert len(log._pending) == 500
        await asyncio.sleep(0)
        assert len(lines.text()) == 2500


class TestWhoTakesIt:
    def test_it_is_off_where_the_level_says_so(self, lines: Lines) -> None:
        assert AccessLog().enabled
        logger.setLevel(logging.WARNING)
        assert not AccessLog().enabled

    @pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
    async def test_a_server_keeps_none_that_is_off(self, lines: Lines, level: int) -> None:
        logger.setLevel(level)
        async with serving(pages(lambda scope, receive, send: respond(send)), access_log=True) as server:
            assert (server.access is not None) == (level == logging.INFO)

    async def test_in_the_library_it_has_to_be_asked_for(self, lines: Lines) -> None:
        async with serving(pages(lambda scope, receive, send: respond(send))) as server:
            assert server.access is None

    def test_an_applications_own_handler_gets_records(self, lines: Lines) -> None:
        """With ``fields``, and beside ours."""
        records: list[logging.LogRecord] = []
        own = logging.Handler()
        own.emit = records.append  # type: ignore[method-assign] # logging's own way would be a class
        logger.addHandler(own)
        try:
            log = AccessLog()
            request(log, "/a?token=hunter2")
            log.flush()
        finally:
            logger.removeHandler(own)
        (found,) = records
        assert found.levelno == logging.INFO
        assert "GET /a?token=*** HTTP/1.1 200" in found.getMessage()
        assert found.fields["query"] == "token=***"  # type: ignore[attr-defined] # is what this tests
        assert lines.text() == [found.getMessage()]
        assert lines.json()[0]["status"] == 200

    def test_a_filter_may_look_at_the_fields(self, lines: Lines) -> None:
        def no_images(record: logging.LogRecord) -> bool:
            return not record.fields["path"].endswith(".png")  # type: ignore[attr-defined] # is what this tests

        logger.addFilter(no_images)
        try:
            log = AccessLog()
            request(log, "/a.png")
            request(log, "/a.html")
            log.flush()
        finally:
            logger.removeFilter(no_images)
        assert [line["path"] for line in lines.json()] == ["/a.html"]


class Told(portico.Endpoint):
    """Tells the access log what a server would."""

    def __init__(self, log: AccessLog) -> None:
        self._log = log

    def on_open(self, ws: portico.WebSocket) -> None:
        self._log.opened(ws)

    def on_message(self, ws: portico.WebSocket, message: str | bytes) -> None:
        ws.write(message)

    def on_close(self, ws: portico.WebSocket, close: portico.Close) -> None:
        self._log.closed(ws)


class TestWebSockets:
    async def test_one_line_when_it_opens_and_one_when_it_closes(self, lines: Lines) -> None:
        """With the code, who closed it, why, seconds, and bytes both ways (handshake included)."""
        log = AccessLog()
        async with serving(Told(log), subprotocols=["chat"]) as server, await Peer.connect(server) as peer:
            log.begin(asyncio.get_running_loop())
            await peer.open("/ws?token=hunter2&a=1", sec_websocket_protocol="chat")
            peer.send(frame(TEXT, b"hello"))
            assert await peer.frame() == (TEXT, b"hello")
            peer.send(close_frame(4001, "bye\x1b[2J\n"))
            await peer.to_end()
            await until(lambda: len(lines.text()) == 2)
            client = "127.0.0.1:{}".format(peer.writer.get_extra_info("sockname")[1])
        opened, closed = lines.json()
        assert opened["message"] == "WebSocket opened /ws"
        assert (opened["client"], opened["query"], opened["subprotocol"]) == (client, "token=***&a=1", "chat")
        assert closed["message"] == "WebSocket closed /ws"
        assert (closed["client"], closed["id"]) == (client, opened["id"])
        assert (closed["code"], closed["by"], closed["clean"]) == (4001, "peer", True)
        assert closed["reason"] == "bye\x1b[2J\n"
        assert closed["bytes_in"] > 5
        assert closed["bytes_out"] > 5
        assert closed["seconds"] >= 0
        first, second = lines.text()
        assert first == f"{client} WebSocket /ws?token=***&a=1 {opened['id']} opened, subprotocol chat"
        assert f' {opened["id"]} closed 4001 by peer, reason "bye\\x1b[2J\\n"; ' in second

    async def test_an_end_by_the_network_says_so(self, lines: Lines) -> None:
        log = AccessLog()
        async with serving(Told(log)) as server, await Peer.connect(server) as peer:
            await peer.open()
            peer.reset()
            await until(lambda: server.connection_count == 0)
            log.flush()
        (_, closed) = lines.json()
        assert (closed["code"], closed["by"], closed["clean"]) == (1006, "network", False)
        assert closed["cause"].startswith("ConnectionResetError")
        assert "closed 1006 by network, not cleanly, cause" in lines.text()[1]
