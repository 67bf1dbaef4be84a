"""``GET …/events``: the requests of those who follow rooms without a session: Server-Sent Events, and polling for JSON.

They decide nothing themselves: `Origins` and ``authenticate`` hold as for sessions, and each room has to be opened by
the application's ``use_streams``.
"""

from __future__ import annotations

import inspect
import logging
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from portico.brokers import Position
from portico.errors import BrokerError, LocalError, Refuse
from portico.net.timers import Timed
from portico.realtime.feeds import Feed, Kept, Read, Watcher, merged
from portico.realtime.identity import EXPIRED, EXPIRED_DATA, Identity
from portico.realtime.origins import Header
from portico.realtime.polling import Waker, request_of, respond
from portico.realtime.polls import JSON
from portico.realtime.refusals import Refused, forbidden, refused_by
from portico.realtime.streams import Places, gap_block, joined
from portico.wire import engineio, socketio, sse

if TYPE_CHECKING:
    from portico.realtime.engine import Mounted
    from portico.wire.request import Request

logger = logging.getLogger("portico.realtime")

MAX_ROOMS = 100  # of one request
MAX_NAME = 256
MAX_WAIT_S = 60.0
MAX_LIMIT = 10_000
CLOSED = "streams are closed here: the application opens rooms with @io.use_streams, and Realtime(history=…)"


class Held(Timed, Watcher):
    """A request that waits until there is something."""

    __slots__ = ("waker",)

    def __init__(self) -> None:
        super().__init__()
        self.waker = Waker()

    def came(self, feed: Feed, kept: Kept) -> None:
        self.waker.wake()

    def lost(self, feed: Feed, reason: str) -> None:
        self.waker.wake()

    def ended(self) -> None:
        self.waker.wake()

    def expired(self, now: float) -> None:
        self.waker.wake()


class Wanted:
    """What a request asks for. Raises Refused."""

    def __init__(self, query: list[tuple[str, str]], fields: dict[bytes, bytes]) -> None:
        named = dict(query)
        self.rooms = list(dict.fromkeys(value for name, value in query if name == "room"))
        self.namespace = named.get("namespace") or "/"
        since = fields.get(b"last-event-id", b"").decode("utf-8", "replace")
        self.since = since or named.get("lastEventId") or named.get("since") or ""
        self.last = _number(named, "last", MAX_LIMIT)
        self.limit = _number(named, "limit", MAX_LIMIT) or 1000
        self.wait_s = _seconds(named)
        self.expires_at: float | None = None
        accept = fields.get(b"accept", b"")
        asks = "since" in named or "wait" in named or "limit" in named or b"application/json" in accept
        self.streams = sse.CONTENT_TYPE in accept or not asks
        if not self.rooms or len(self.rooms) > MAX_ROOMS:
            raise _bad(f"expected room=… once to {MAX_ROOMS} times, and {len(self.rooms)} came")
        if not all(0 < len(room) <= MAX_NAME for room in self.rooms):
            raise _bad(f"expected names of rooms of 1 to {MAX_NAME} characters")


class Following:
    """The requests of one mount."""

    def __init__(self, mounted: Mounted) -> None:
        self._mounted = mounted
        self._io = mounted.io
        self._held: dict[Held, None] = {}

    async def answer(
        self, scope: dict[str, Any], fields: dict[bytes, bytes], calls: Any, headers: list[Header]
    ) -> None:
        """Answer one request. `calls`: receive and send. Raises Refused."""
        if scope["method"] not in ("GET", "HEAD"):
            raise Refused(engineio.BAD_METHOD, f"expected GET, and {scope['method']} came", status=405)
        wanted = Wanted(_query(scope), fields)
        await self._admit(request_of(scope), wanted)
        feeds = self._io.feeds
        if feeds is None or not all(map(feeds.keeps, wanted.rooms)):
            raise forbidden("a room keeps no history: it has to be among those of Realtime(history=…)")
        receive, send = calls
        streams = wanted.streams
        head = [(b"content-type", sse.CONTENT_TYPE), (b"x-accel-buffering", b"no"), *headers]
        if streams and (scope["method"] == "HEAD" or self._mounted.stopping):
            await respond(send, 200, sse.retry(3000) + b"\n", head)  # any error would keep the client from coming back
            return
        try:
            followed = tuple([await feeds.open(wanted.namespace, room) for room in wanted.rooms])
            places, gap = await self._begin(followed, wanted)
            if not all(map(feeds.has, followed)):  # so many rooms were asked for meanwhile that these were let go of
                raise BrokerError("more rooms are followed at once than may be")
            if not streams:
                body = await self._poll(followed, places, wanted, gap, receive)
                if body is not None:
                    await respond(send, 200, body, [JSON, *headers])
                return
        except BrokerError as error:
            if streams:
                await respond(send, 200, sse.retry(3000) + b"\n", head)
                return
            logger.debug("a poll is refused, as the history can't be read: %s", error)
            raise _later("the history can't be read now") from None
        self._mounted.engine.counters.streams += 1
        await send({"type": "http.response.start", "status": 200, "headers": head})
        told = b"" if gap is None else gap_block(places, None, gap)
        await self._io.streams.run(self._mounted, followed, places, told, calls, wanted.expires_at)

    async def _admit(self, request: Request, wanted: Wanted) -> None:
        """Ask the application."""
        functions = self._io.functions_of(wanted.namespace)
        if functions is None or not functions.streams:
            raise forbidden(CLOSED)
        try:
            user = await self._identify(request)
            if type(user) is Identity:
                wanted.expires_at = user.expires_at
                if user.expires_at is not None and user.expires_at <= time.time():
                    raise Refuse(EXPIRED, data=EXPIRED_DATA)
                user = user.user
            for room in wanted.rooms:
                for function in functions.streams:
                    if await function.call(self._io.pool, request, room, user) is False:
                        raise Refuse("not authorized")
        except Refuse as refuse:
            raise refused_by(refuse) from None

    async def _identify(self, request: Request) -> Any:
        """Who asks, as for a session."""
        waiting, reactor = self._mounted.engine.waiting, self._mounted.engine.reactor
        if "ticket" in request.query or self._mounted.options.authenticate is not None:
            waiting.check_failures(request, reactor)
        try:
            user = self._mounted.identify(request)
            return await user if inspect.isawaitable(user) else user
        except Refuse:
            waiting.attempt(request, reactor)
            raise

    async def _begin(self, feeds: tuple[Feed, ...], wanted: Wanted) -> tuple[Places, str | None]:
        """Where to begin, and why that is not where it was asked to."""
        if wanted.since:
            try:
                places = [Position.parse(text) for text in wanted.since.split(",")]
            except LocalError:
                places = []
            if len(places) == len(feeds):
                return places, None
            return [feed.position for feed in feeds], "the position is none of these rooms"
        if not wanted.last:
            return [feed.position for feed in feeds], None
        reads = [await feed.read(None, wanted.last) for feed in feeds]
        rooms = frozenset(wanted.rooms)
        newest = [one for one in merged(reads) if one[1].is_first_for(rooms)][-wanted.last :]
        places = [read.position for read in reads]
        for index, kept in reversed(newest):
            places[index] = Position(kept.position.epoch, kept.position.offset - 1)
        return places, None

    async def _poll(
        self, feeds: tuple[Feed, ...], places: Places, wanted: Wanted, gap: str | None, receive: Any
    ) -> bytes | None:
        """The answer to a poll, where there is somebody to be answered."""
        reactor = self._mounted.engine.reactor
        self._mounted.engine.counters.polls += 1
        until = reactor.clock() + wanted.wait_s
        held = Held()
        self._held[held] = None
        for feed in feeds:
            feed.watch(held)
        try:
            while True:
                reads = [await feed.read(place) for feed, place in zip(feeds, places, strict=True)]
                gaps = [f"{feed.room}: {read.gap}" for feed, read in zip(feeds, reads, strict=True) if read.gap]
                gap = "; ".join(filter(None, [gap, *gaps])) or None
                if gap or any(read.kept for read in reads) or reactor.clock() >= until or self._mounted.stopping:
                    return self._body(feeds, places, reads, wanted, gap)
                reactor.wheel.schedule(held, until)
                if not await held.waker.wait(receive):
                    return None
        finally:
            del self._held[held]
            reactor.wheel.cancel(held)
            for feed in feeds:
                feed.unwatch(held)

    def _body(
        self, feeds: tuple[Feed, ...], places: Places, reads: list[Read], wanted: Wanted, gap: str | None
    ) -> bytes:
        rooms = frozenset(feed.room for feed in feeds)
        places = [place if read.gap is None else read.position for place, read in zip(places, reads, strict=True)]
        left = self._mounted.engine.options.max_outbox_bytes
        events: list[bytes] = []
        more = False
        for index, kept in merged(reads):
            if events and (left <= 0 or len(events) >= wanted.limit):
                more = True
                break
            places[index] = kept.position
            if kept.is_first_for(rooms):
                events.append(kept.json(joined(places)))
                left -= len(events[-1])
        if not more:
            places = [read.position for read in reads]
        rest = socketio.to_json({"position": joined(places), "gap": gap, "more": more})
        return b'{"events":[%b],%b' % (b",".join(events), rest[1:])

    def stop(self) -> None:
        """The server stops: who waits is answered."""
        for held in list(self._held):
            held.ended()


def _query(scope: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True, max_num_fields=MAX_ROOMS + 20)
    except ValueError:
        raise _bad(f"expected at most {MAX_ROOMS} rooms") from None


def _number(named: dict[str, str], name: str, most: int) -> int:
    text = named.get(name, "0")
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise _bad(f"{name}={text[:20]!r}: expected a number from 1 to {most}")
    return min(int(text), most)


def _seconds(named: dict[str, str]) -> float:
    text = named.get("wait") or "0"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise _bad(f"wait={text[:20]!r}: expected seconds, at most {MAX_WAIT_S:g}")
    return min(seconds, MAX_WAIT_S)


def _bad(hint: str) -> Refused:
    return Refused(engineio.BAD_REQUEST, hint)


def _later(hint: str) -> Refused:
    return Refused(engineio.BAD_REQUEST, hint, status=503, headers=[("Retry-After", "5")])
