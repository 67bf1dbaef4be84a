"""Who may poll from which page, and that the short way (`polls`) answers as the long one (`polling`) would: the same
status, headers, body and effects, for many combinations of Origin, Host, proxies' headers and options.

A query in another order makes a request take the long way; all else is the same, to the byte.
"""

from __future__ import annotations

import json
import re
import ssl
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from tests.realtime.raw import Raw, realtime, serving
from tests.support import Answer, Logged, Peer, until

import portico
from portico.realtime.polls import HeldPoll

SHORT = "/socket.io/?EIO=4&transport=polling&t=abc.0&sid="
LONG = "/socket.io/?EIO=4&t=abc.0&transport=polling&sid="

HOST = "app.example:8000"
OWN = "http://app.example:8000"
HERE = "127.0.0.1"
LISTED = ["https://listed.example", re.compile(r"https://[a-z]+\.team\.example")]

Lines = list[str]


def origin(*values: str) -> Lines:
    return [f"Origin: {value}" for value in values]


HEADERS: dict[str, Lines] = {
    "none": [],
    "own": origin(OWN),
    "own, capitals": origin("HTTP://APP.Example:8000"),
    "own, space around": ["oRIGIN:\t " + OWN + " \t"],
    "own, as https": origin("https://app.example:8000"),
    "own, without its port": origin("http://app.example"),
    "own, another port": origin("http://app.example:8001"),
    "own, a port too long": origin("http://app.example:0008000"),
    "own, a zero before the port": origin("http://app.example:08000"),
    "own, as a name's beginning": origin(OWN + ".evil.example"),
    "own, as a user": origin(OWN + "@evil.example"),
    "own, with a slash": origin(OWN + "/"),
    "own, and another in one line": origin(OWN + ", https://evil.example"),
    "own, a subdomain": origin("http://www.app.example:8000"),
    "own, another scheme": origin("ws://app.example:8000"),
    "own, no ASCII": origin(OWN + "é"),
    "own twice": origin(OWN, OWN),
    "own, then foreign": origin(OWN, "https://evil.example"),
    "foreign, then own": origin("https://evil.example", OWN),
    "foreign": origin("https://evil.example"),
    "foreign, of great length": origin("https://" + "e" * 400 + ".example"),
    "null": origin("null"),
    "empty": origin(""),
    "listed": origin("https://listed.example"),
    "listed, capitals, port": origin("HTTPS://Listed.Example:443"),
    "listed, as http": origin("http://listed.example"),
    "of the pattern": origin("https://red.team.example"),
    "of the pattern, and more": origin("https://red.team.example.evil.example"),
    "own, of another host": ["Host: evil.example", *origin(OWN)],
    "of the host, whatever it is": ["Host: other.example", *origin("http://other.example")],
    "of the host, with the port that is meant": ["Host: app.example", *origin("http://app.example:80")],
    "of an empty host": ["Host:", *origin("http://")],
    "own, said to be https": ["X-Forwarded-Proto: https", *origin("https://app.example:8000")],
    "own, said to be https, asked with http": ["X-Forwarded-Proto: https", *origin(OWN)],
    "of the host that is told": ["X-Forwarded-Host: public.example", *origin("http://public.example")],
    "of the host that is not told": ["X-Forwarded-Host: public.example", *origin(OWN)],
    "all told": [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: public.example",
        *origin("https://public.example"),
    ],
    "told by the one before, too": [
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Host: evil.example, app.example:8000",
        *origin("http://evil.example"),
    ],
    "told what can't be": ["X-Forwarded-Proto: gopher", *origin(OWN)],
    "told an empty host": ["X-Forwarded-Host: ", *origin(OWN)],
    "told by Forwarded": [
        "Forwarded: for=192.0.2.1;proto=https;host=public.example",
        *origin("https://public.example"),
    ],
    "as Chromium": [
        "sec-ch-ua-mobile: ?0",
        *origin(OWN),
        "Sec-Fetch-Site: same-origin",
        "Sec-Fetch-Mode: cors",
        f"Referer: {OWN}/page.html",
        "Cookie: session=abc; csrftoken=def",
    ],
    "own, as if for a preflight": [
        *origin(OWN),
        "Access-Control-Request-Method: POST",
        "Access-Control-Request-Headers: content-type",
    ],
    "own, JSON": ["Content-Type: application/json", *origin(OWN)],
    "own, binary": ["Content-Type: application/octet-stream", *origin(OWN)],
    "foreign, JSON": ["Content-Type: application/json", *origin("https://evil.example")],
}

ALONE = {"none"}
AS_TOLD = {"of the host that is not told", "told what can't be", "told an empty host"}  # what X-Forwarded-* says is air
OF_HOST = {"of the host, whatever it is", "of the host, with the port that is meant"}
OWNS = {
    "own",
    "own, capitals",
    "own, space around",
    "own, a zero before the port",
    "as Chromium",
    "own, as if for a preflight",
    "own, JSON",
}
LAST_OWN = {"own twice", "foreign, then own"}  # the last one counts, but that is `polling`'s affair
LONG_WAY = LAST_OWN | {"own, then foreign", "own, JSON", "foreign, JSON", "foreign, of great length"}
HTTPS = {"own, as https", "own, said to be https"}


@dataclass
class Site:
    """A server's options, and whose pages it lets in: names of `HEADERS`. ``tls``: it is asked over TLS."""

    allows: set[str]
    options: dict[str, Any] = field(default_factory=dict)
    tls: bool = False


USUAL = ALONE | OWNS | LAST_OWN | OF_HOST
TRUSTING = {"trusted_proxies": [HERE]}
SITES = {
    "its own": Site(USUAL | AS_TOLD | {"own, said to be https, asked with http"}),
    "a list": Site(ALONE | {"listed", "listed, capitals, port", "of the pattern"}, {"origins": LISTED}),
    "any": Site(set(HEADERS), {"origins": ["*"]}),
    "any, and a list": Site(set(HEADERS), {"origins": [*LISTED, "*"]}),
    "nobody": Site(ALONE, {"origins": []}),
    "over TLS": Site(ALONE | HTTPS, tls=True),
    "behind a proxy": Site(
        USUAL
        | {"own, said to be https", "of the host that is told", "all told", *AS_TOLD}
        - {"of the host that is not told"},
        TRUSTING,
    ),
    "behind a proxy that is not trusted": Site(
        USUAL | AS_TOLD | {"own, said to be https, asked with http"}, {"trusted_proxies": ["192.0.2.9"]}
    ),
    "behind a proxy, a list": Site(
        ALONE | {"listed", "listed, capitals, port", "of the pattern"}, {"origins": LISTED} | TRUSTING
    ),
    "behind a proxy with Forwarded": Site(
        USUAL | AS_TOLD | {"own, said to be https, asked with http", "told by Forwarded"},
        {"proxy_headers": "forwarded"} | TRUSTING,
    ),
    "behind a proxy over TLS": Site(ALONE | HTTPS | {"all told"}, TRUSTING, tls=True),
}


@dataclass
class Visit:
    """What a session's requests with certain headers led to."""

    answers: list[tuple[int, Lines, bytes]] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)  # by the application
    counted: dict[str, Counter[str]] = field(default_factory=dict)
    held: str = ""  # how a GET was held; "" where it was not


class Visitor:
    """Asks one server, over one connection."""

    def __init__(self, raw: Raw, peer: Peer, heard: list[Any]) -> None:
        self.raw, self.peer, self.heard = raw, peer, heard

    def send(self, method: str, target: str, lines: Lines, body: bytes = b"") -> None:
        names = {line.partition(":")[0].lower() for line in lines}
        lines = ["Connection: keep-alive", *lines]
        if "host" not in names:
            lines.insert(0, f"Host: {HOST}")
        if method == "POST":
            lines += [f"Content-Length: {len(body)}"]
            lines += [] if "content-type" in names else ["Content-type: text/plain;charset=UTF-8"]
        head = "\r\n".join([f"{method} {target} HTTP/1.1", *lines, "", ""])
        self.peer.send(head.encode("latin-1") + body)

    async def taken(self, method: str = "GET") -> Answer:
        answer = await self.peer.answer(method)
        assert (answer.header("connection") or "keep-alive") == "keep-alive", answer
        return answer

    async def asked(self, method: str, target: str, lines: Lines, body: bytes = b"") -> Answer:
        self.send(method, target, lines, body)
        return await self.taken(method)

    async def visit(self, way: str, lines: Lines) -> Visit:
        """Ask in each manner that a session is asked in, with these headers."""
        visit, io, counters = Visit(), self.raw.io, self.raw.io.counters
        before = {"refused": counters.refused.copy(), "closed": counters.closed.copy()}
        self.heard.clear()
        sid = json.loads((await self.asked("GET", SHORT[: -len("&sid=")], [])).body[1:])["sid"]
        assert (await self.asked("POST", SHORT + sid, [], b"40")).body == b"ok"
        assert (await self.asked("GET", SHORT + sid, [])).body[:2] == b"40"

        async def ask(method: str, body: bytes = b"") -> Answer:
            self.send(method, way + sid, lines, body)
            return await told(method)

        async def told(method: str = "GET") -> Answer:
            answer = await self.taken(method)
            shown = [f"{name}: {value}" for name, value in answer.headers if name.lower() != "date"]
            visit.answers.append((answer.status, shown, answer.body))
            return answer

        for method in ("OPTIONS", "PUT", "HEAD"):
            await ask(method)
        if (await ask("POST", b'42["told",1]\x1e420["told",2]')).status == 200:
            assert (await ask("GET")).body == b"430[]"
            self.send("GET", way + sid, lines)
            session = io.engine.sessions[sid]
            await until(lambda: session.poll is not None)
            visit.held = type(session.poll).__name__
            io.emit("news", 1)
            assert (await told()).body == b'42["news",1]'
        else:
            await ask("GET")
        await ask("POST", b"42[")
        await self.asked("POST", SHORT + sid, [], b"x")  # the end, where it was not the end already
        visit.heard = list(self.heard)
        visit.counted = {name: getattr(counters, name) - before[name] for name in before}
        return visit


def listening(**options: Any) -> tuple[portico.Realtime, list[int]]:
    """A Realtime, and what it is told."""
    heard: list[int] = []
    io = realtime(**options)

    @io.on("told")
    async def told(client: object, value: int) -> None:
        heard.append(value)

    return io, heard


@pytest.mark.parametrize("site", SITES.values(), ids=SITES)
async def test_both_ways_answer_the_same(
    site: Site, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, logged: Logged
) -> None:
    """Fetch, §CORS protocol; RFC 6454 §5: who is refused is refused by both, and nothing of it is heard."""
    io, heard = listening()
    options = site.options | ({"ssl": server_tls} if site.tls else {})
    tls = client_tls if site.tls else None
    allowed: set[str] = set()
    async with serving(io, **options) as raw, await Peer.connect(raw.server, tls=tls) as peer:
        visitor = Visitor(raw, peer, heard)
        for name, lines in HEADERS.items():
            short, long = await visitor.visit(SHORT, lines), await visitor.visit(LONG, lines)
            assert long.held in ("", "TaskPoll")
            held, short.held = short.held, long.held
            assert short == long, name
            if held:
                allowed.add(name)
                assert (held == HeldPoll.__name__) is (name not in LONG_WAY), name
                assert short.heard == [1, 2]
            elif name != "own, binary":
                assert {status for status, _, _ in short.answers} == {403}, name
                assert not short.heard
    assert allowed == site.allows - {"own, binary"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"access-control-allow-origin": OWN, "access-control-allow-credentials": "true", "vary": "Origin"}),
        ({"origins": ["*"]}, {"access-control-allow-origin": "*"}),
    ],
)
async def test_a_page_may_read_the_answers(options: Any, expected: dict[str, str], logged: Logged) -> None:
    """Fetch, §HTTP responses; RFC 9110 §12.5.5: whose answer depends on the Origin says so to caches."""
    io, heard = listening()
    async with serving(io, **options) as raw, await Peer.connect(raw.server) as peer:
        visit = await Visitor(raw, peer, heard).visit(SHORT, origin(OWN))
    assert visit.held == HeldPoll.__name__
    for status, lines, _ in visit.answers:
        headers = dict(line.lower().split(": ", 1) for line in lines)
        cross = {
            name: value
            for name, value in headers.items()
            if name == "vary" or "-control-allow-o" in name or "-credentials" in name
        }
        assert cross == {name: value.lower() for name, value in expected.items()}, status


async def test_a_page_that_is_let_in_no_more_is_refused_at_once(logged: Logged) -> None:
    """The list is the application's, and may change."""
    allowed = [OWN]
    io, heard = listening(origins=allowed)
    async with serving(io) as raw, await Peer.connect(raw.server) as peer:
        visitor = Visitor(raw, peer, heard)
        assert (await visitor.visit(SHORT, origin(OWN))).held == HeldPoll.__name__
        allowed.clear()
        refused = await visitor.visit(SHORT, origin(OWN))
        assert {status for status, _, _ in refused.answers} == {403}


async def test_each_mount_has_its_own_origins(logged: Logged) -> None:
    """A session's page is let in at one mount of it, and not at another one."""
    io = realtime()
    app = portico.App()
    app.mount("/socket.io", io)
    async with (
        portico.serve(app, HERE, 0) as server,
        portico.serve(app, HERE, 0, origins=["https://listed.example"]) as other,
        await Peer.connect(server) as peer,
        await Peer.connect(other) as second,
    ):
        visitor = Visitor(Raw(io, None, server), peer, [])  # type: ignore[arg-type]  # not asked
        sid = json.loads((await visitor.asked("GET", SHORT[: -len("&sid=")], [])).body[1:])["sid"]
        assert (await visitor.asked("POST", SHORT + sid, origin(OWN), b"40")).status == 200
        visitor.peer = second
        assert (await visitor.asked("POST", SHORT + sid, origin(OWN), b"40/x,")).status == 403
        assert (await visitor.asked("POST", SHORT + sid, origin("https://listed.example"), b"40/x,")).status == 200


async def test_the_access_log_names_the_client_behind_a_proxy(caplog: pytest.LogCaptureFixture, logged: Logged) -> None:
    """Both ways: the client, not the proxy."""
    lines = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", *origin("https://app.example:8000")]
    with caplog.at_level("INFO", logger="portico.access"):
        async with serving(realtime(), access_log=True, **TRUSTING) as raw, await Peer.connect(raw.server) as peer:
            visitor = Visitor(raw, peer, [])
            sid = json.loads((await visitor.asked("GET", SHORT[: -len("&sid=")], lines)).body[1:])["sid"]
            for way in (SHORT, LONG):
                assert (await visitor.asked("POST", way + sid, lines, b"3")).status == 200
    said = [record.getMessage() for record in caplog.records if record.name == "portico.access"]
    assert [line.split(" ")[0] for line in said] == ["192.0.2.1:0"] * 3, said
