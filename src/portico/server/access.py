"""The access log: a line for each request, and two for each WebSocket, its beginning and its end.

What is logged is put aside while connections are served, and written once for all of it in the loop's next iteration:
that is what makes a line cheap. Values of secret-looking query parameters are hidden, control characters are escaped.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from portico.logs import CLOCK, Handler, TextFormatter, json_lines, visible
from portico.websocket import WebSocket

logger = logging.getLogger("portico.access")

QUIET_PATHS: Final = ("/health", "/healthz", "/livez", "/readyz")
HIDDEN: Final = b"***"
MAX_SHOWN: Final = 1000  # of a target, characters
MAX_PENDING: Final = 1000  # entries, before they are written within a turn
MAX_KNOWN: Final = 500  # targets, whose shown form is remembered

# Looked for in a parameter's name, lower case. A name too many costs a reader a value; one too few leaks a credential.
_SECRET: Final = re.compile(
    rb"token|key(?!word|board)|pass(?!ive|enger|age)|pwd|secret|auth(?!or(?!i))|session|credential|signature|bearer|jwt"
    rb"|cookie|ticket|assertion|csrf|xsrf|(?:^|[^a-z])(?:code|sig|sid|pin|otp|nonce|hmac|state)(?:$|[^a-z])"
)
_COLOURS: Final = {1: "36", 2: "32", 3: "36", 4: "33", 5: "31"}

Address = tuple[str, int]
Request = tuple[str, bytes, str, int, int, float, Address | None, str, bytes]


class AccessLog:
    """Writes access lines to the logger ``portico.access``, at INFO.

    - `quiet`: paths whose answers below 400 are logged at DEBUG only, as health checks' are.

    A record's ``fields`` is a dict of what it says: ``client``, ``method``, ``path``, ``query``, ``http``, ``scheme``,
    ``status``, ``bytes``, ``seconds``, ``user_agent`` of a request; a `logging.Filter` may look at them.
    """

    def __init__(self, quiet: Collection[str] = QUIET_PATHS) -> None:
        self._quiet = frozenset(quiet)
        self._pending: list[Any] = []
        self._known: dict[bytes, tuple[str, str]] = {}
        self._later: Callable[[Callable[[], None]], Any] | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._debug = False

    @property
    def enabled(self) -> bool:
        """Whether anything is to be written: the logger is on, and somebody takes its records."""
        return logger.isEnabledFor(logging.INFO) and logger.hasHandlers()

    def begin(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = time.monotonic) -> None:
        """Write from `loop` from now on; `clock` is what `began` was read from."""
        self._later = loop.call_soon
        self._clock = clock
        self._debug = logger.isEnabledFor(logging.DEBUG)

    # -- what happened -------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        target: bytes,
        version: str,
        status: int,
        sent: int,
        began: float,
        client: Address | None,
        scheme: str,
        agent: bytes = b"",
    ) -> None:
        """A request was answered, or its answer cut.

        `target` as it came; `version`: "1.1"; `sent`: bytes of the answer's body; `began`: when the request's head was
        complete, on the clock given to `begin`; `client`: None on a Unix socket; `agent`: the User-Agent, if wanted.
        """
        pending = self._pending
        pending.append((method, target, version, status, sent, self._clock() - began, client, scheme, agent))
        if len(pending) == 1 or len(pending) >= MAX_PENDING:
            self._due()

    def opened(self, ws: WebSocket) -> None:
        """The 101 is on its way to `ws`."""
        self._note("opened", ws)

    def closed(self, ws: WebSocket) -> None:
        """`ws` has ended, and TCP with it."""
        self._note("closed", ws)

    def _note(self, what: str, ws: WebSocket) -> None:
        """Take down what is said of `ws`: it should not live longer for it."""
        _, target, _ = ws.request.raw.split(b" ", 2)
        path, query = self._shown(target)
        said: dict[str, Any] = {
            "message": f"WebSocket {what} {path}",
            "client": _client(ws.request.client),
            "id": ws.id,
            "path": path,
        }
        if query:
            said["query"] = query
        said["scheme"] = ws.request.scheme
        if what == "opened":
            said["subprotocol"] = ws.subprotocol
        else:
            said |= _ending(ws, self._clock())
        self._pending.append(said)
        if len(self._pending) == 1 or len(self._pending) >= MAX_PENDING:
            self._due()

    def _due(self) -> None:
        if self._later is None or len(self._pending) >= MAX_PENDING:
            self.flush()
        else:
            self._later(self.flush)

    # -- writing -------------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what was put aside; also whoever ends the process at once calls this."""
        entries, self._pending = self._pending, []
        if not entries:
            return
        now = time.time()
        spoken = (
            entries if self._debug or not self._quiet else [entry for entry in entries if not self._is_quiet(entry)]
        )
        if not spoken:
            return
        handlers = _handlers()
        if handlers is None:
            for entry in spoken:
                self._record(entry, now)
            return
        for handler in handlers:
            handler.write(self._lines(spoken, now, handler.formatter))

    def _is_quiet(self, entry: Any) -> bool:
        return type(entry) is tuple and entry[3] < 400 and self._shown(entry[1])[0] in self._quiet

    def _record(self, entry: Any, now: float) -> None:
        """As a record of its own, for the handlers and filters that an application has set up."""
        level = logging.DEBUG if self._is_quiet(entry) else logging.INFO
        fields = self._fields(entry)
        text = self._text(entry)
        record = logger.makeRecord(logger.name, level, "", 0, "%s", (text,), None, extra={"fields": fields})
        record.created = now
        if logger.isEnabledFor(level):
            logger.handle(record)

    def _lines(self, entries: list[Any], now: float, formatter: Any) -> str:
        if isinstance(formatter, TextFormatter):
            colours = formatter.colours
            prefix = {level: formatter.begin(now, level, logger.name) for level in ("INFO", "DEBUG")}
            return "".join(
                f"{prefix['DEBUG' if self._debug and self._is_quiet(entry) else 'INFO']}{self._text(entry, colours)}\n"
                for entry in entries
            )
        begin = {"time": CLOCK.utc(now), "level": "info", "logger": logger.name}
        quiet = begin | {"level": "debug"}
        return json_lines(
            [(quiet if self._debug and self._is_quiet(entry) else begin) | self._fields(entry) for entry in entries]
        )

    def _fields(self, entry: Any) -> dict[str, Any]:
        if type(entry) is dict:
            return entry
        method, target, version, status, sent, seconds, client, scheme, agent = entry
        path, query = self._shown(target)
        fields = {
            "message": f"{method} {path} {status}",
            "client": _client(client),
            "method": method,
            "path": path,
            "query": query,
            "http": version,
            "scheme": scheme,
            "status": status,
            "bytes": sent,
            "seconds": round(seconds, 6),
        }
        if not query:
            del fields["query"]
        if agent:
            fields["user_agent"] = agent.decode("utf-8", "backslashreplace")
        return fields

    def _text(self, entry: Any, colours: bool = False) -> str:
        if type(entry) is dict:
            return _websocket_text(entry)
        method, target, version, status, sent, seconds, client, _, agent = entry
        path, query = self._shown(target)
        if query:
            path = f"{path}?{query}"
        code = f"\x1b[{_COLOURS.get(status // 100, '0')}m{status}\x1b[0m" if colours else status
        line = f"{_client(client)} {method} {path} HTTP/{version}"
        if not line.isprintable():
            line = visible(line)
        line = f"{line} {code} {sent} B {seconds * 1000:.1f} ms"
        return f'{line} "{visible(agent.decode("utf-8", "backslashreplace"))}"' if agent else line

    def _shown(self, target: bytes) -> tuple[str, str]:
        """The path and the query of `target`, fit to be seen."""
        known = self._known.get(target)
        if known is None:
            known = shown(target)
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            if len(target) <= 200:
                self._known[target] = known
        return known


def shown(target: bytes) -> tuple[str, str]:
    """The path and the query of a request's target, shortened, with the values of secret-looking parameters hidden."""
    cut = target[:MAX_SHOWN]
    path, _, query = cut.partition(b"?")
    if query:
        query = b"&".join(_hidden(pair) for pair in query.split(b"&"))
    shortened = f"…({len(target)} bytes)" if len(target) > MAX_SHOWN else ""
    words = [part.decode("ascii", "backslashreplace") for part in (path, query)]
    words[bool(query)] += shortened
    return words[0], words[1]


def _hidden(pair: bytes) -> bytes:
    if b";" in pair:  # which was a separator once, and still is to some
        return b";".join(map(_hidden, pair.split(b";")))
    name, _, value = pair.partition(b"=")
    if not value:
        return pair
    looked_at = name
    if b"%" in pair:
        looked_at, value = unquote_to_bytes(unquote_to_bytes(name)), unquote_to_bytes(unquote_to_bytes(value))
    if b"=" in value:  # it may be a query of its own, as of the page to go back to
        looked_at += value
    return name + b"=" + HIDDEN if _SECRET.search(looked_at.lower()) else pair


def _client(client: Address | None) -> str:
    if client is None:
        return "-"
    host, port = client
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _ending(ws: WebSocket, now: float) -> dict[str, Any]:
    close = ws.closed
    stream = ws.stream
    said: dict[str, Any] = {}
    if close is not None:
        said = {"code": close.code, "by": close.by, "clean": close.clean, "reason": close.reason}
        if close.cause is not None:
            said["cause"] = f"{type(close.cause).__name__}: {close.cause}"
    said["seconds"] = round(now - stream.opened, 3)
    said |= {"messages_in": ws.messages_in, "messages_out": ws.messages_out}
    said |= {"bytes_in": stream.bytes_in, "bytes_out": stream.bytes_out}
    return said


def _websocket_text(said: dict[str, Any]) -> str:
    target = f"{said['path']}?{said['query']}" if "query" in said else said["path"]
    line = f"{said['client']} WebSocket {target} {said['id']}"
    if "seconds" not in said:
        subprotocol = f", subprotocol {said['subprotocol']}" if said["subprotocol"] else ""
        return visible(f"{line} opened{subprotocol}")
    line += f" closed {said.get('code')} by {said.get('by')}{'' if said.get('clean') else ', not cleanly'}"
    for name in ("reason", "cause"):
        if said.get(name):
            line += f', {name} "{said[name]}"'
    came = f"{said['messages_in']} messages, {said['bytes_in']} B in"
    went = f"{said['messages_out']} messages, {said['bytes_out']} B out"
    return visible(f"{line}; {said['seconds']:.1f} s; {came}; {went}")


def _handlers() -> list[Handler] | None:
    """The handlers of ``portico.access`` where all of them are ours and nothing filters: they take many lines at once.
    None where each line has to be a record."""
    found: list[Handler] = []
    each: logging.Logger | None = logger
    if logger.filters:
        return None
    while each is not None:
        for handler in each.handlers:
            if type(handler) is not Handler or handler.filters or handler.level > logging.DEBUG:
                return None
            found.append(handler)
        each = each.parent if each.propagate else None
    return found
