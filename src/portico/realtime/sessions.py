"""A session of Engine.IO: it belongs to no transport.

It owns what waits for the peer, the heartbeat, and the way from long-polling to WebSocket. A session is on one
transport at a time; the other one may be probed meanwhile. It ends once, with one reason.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from typing import TYPE_CHECKING, Any

from portico.errors import LimitExceeded, ProtocolError
from portico.net.timers import NEVER, Timed
from portico.realtime import unidentified
from portico.realtime.channel import Channel
from portico.realtime.outgoing import CLOSE, NOOP, PING, PROBE_PONG, EventFrame, KeyedFrame, Outgoing
from portico.realtime.slow import Lag
from portico.websocket.websocket import WebSocket
from portico.wire import engineio

if TYPE_CHECKING:
    from portico.realtime.engine import Engine, Mounted
    from portico.realtime.polls import Poll
    from portico.wire.request import Request

logger = logging.getLogger("portico.realtime")

LAG_S = 1.0
PACKETS_AN_ANSWER = 16
LEAVING_S = 10.0  # how long what a closed session has left waits to be fetched


class Session(Timed):
    """One client's session. ``request`` is the one that began it, ``user`` what ``authenticate`` returned for that.

    ``closed`` is the reason of its end, None while it lives. ``buffered``: bytes that wait for the peer.
    """

    __slots__ = (
        "_connect_by",
        "_heard",
        "_next_ping",
        "_ping_sent",
        "_probe_by",
        "_queue",
        "_queued",
        "_room",
        "_unread",
        "allowance",
        "channel",
        "closed",
        "engine",
        "id",
        "lag",
        "mounted",
        "poll",
        "posting",
        "probe",
        "request",
        "user",
        "ws",
    )

    def __init__(self, engine: Engine, mounted: Mounted, request: Request, user: Any) -> None:
        super().__init__()
        self.engine = engine
        self.mounted = mounted  # where it came in
        self.request = request
        self.user = user
        self.id = secrets.token_urlsafe(15)
        self.closed: str | None = None
        self.ws: WebSocket | None = None  # the transport, where it is WebSocket
        self.probe: WebSocket | None = None  # while it is tried
        self.poll: Poll | None = None  # the GET that is held
        self.posting = False
        self.channel = Channel(self)
        self.lag: Lag | None = None  # while it does not keep up, and the application wants to know
        # What it may still send before it is connected to a namespace, in bytes; None from then on.
        self.allowance: int | None = 0
        self._queue: deque[Outgoing] | None = None
        self._queued = 0
        self._unread = 0
        self._room: asyncio.Future[None] | None = None  # a POST that waits until less is unread
        now = engine.reactor.clock()
        self._heard = now
        self._ping_sent = 0.0
        self._next_ping = now + engine.options.ping_interval_s
        self._probe_by = NEVER
        self.expect_connect()

    def expect_connect(self) -> None:
        """From now on it has to connect to a namespace, in time and with little."""
        options = self.engine.options
        self.allowance = options.unidentified.max_bytes
        self._connect_by = self.engine.reactor.clock() + options.connect_timeout_s
        self._schedule()

    @property
    def transport(self) -> str:
        """``"websocket"`` or ``"polling"``."""
        return "polling" if self.ws is None else "websocket"

    def greeting(self, upgrades: list[str]) -> bytes:
        """The packet that begins it."""
        options = self.engine.options
        return engineio.handshake(
            self.id,
            upgrades,
            ping_interval_s=options.ping_interval_s,
            ping_timeout_s=options.ping_timeout_s,
            max_payload_bytes=options.max_payload_bytes,
        )

    @property
    def max_payload_bytes(self) -> int:
        """How much one message of the peer, or one POST, may have."""
        options = self.engine.options
        if self.allowance is None:
            return options.max_payload_bytes
        return min(options.max_payload_bytes, options.unidentified.max_payload_bytes)

    @property
    def buffered(self) -> int:
        ws = self.ws
        return self._queued if ws is None else ws.stream.buffered

    @property
    def writable(self) -> bool:
        """Whether a message would leave now: what is volatile is dropped otherwise."""
        ws = self.ws
        if ws is None:
            return self.poll is not None and not self._queue
        stream = ws.stream
        return bool(ws.sending and not stream.blocked and stream.buffered <= stream.high_water)

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, out: Outgoing) -> bool:
        """Send a packet, without waiting; returns whether the session has taken it."""
        if self.closed is not None:
            return False
        ws = self.ws
        if ws is None:
            return self._enqueue(out)
        if not ws.sending:
            return False
        stream = ws.stream
        codec = ws.wire.codec
        slow = stream.buffered > stream.high_water or (out.key is not None and stream.blocked)
        if codec is None:
            frames = out.framed()
        elif not codec.keep_writing:
            frames = out.packed(codec)
        elif slow:
            frames = out.framed()  # what is compressed may not be dropped: the next builds on it (RFC 7692 §7.2)
        else:
            messages = [out.text.decode(), *out.attachments] if out.text else out.attachments
            frames = b"".join([ws.wire.encode(message) for message in messages])
        if slow:
            return self._send_slow(ws, out, frames)
        stream.write(frames)
        if codec is None or not codec.keep_writing:
            ws.wire.sent += out.messages
        return True

    def _send_slow(self, ws: WebSocket, out: Outgoing, frames: bytes) -> bool:
        """Send to a peer that may not keep up; returns whether it takes the message."""
        stream = ws.stream
        if not stream.blocked:
            stream.flush_within()  # it may be only we who have not written yet
            if not ws.sending:
                return False
        key = out.key
        # With a place in the history it goes behind all that has an earlier one: a client is asked for the last it got.
        if key is not None and stream.replace(
            b"" if out.offset else frames, lambda entry: type(entry) is KeyedFrame and entry.key == key
        ):
            self._lost(replaced=1)
            if not out.offset:
                return True
        if self._fits(ws, out, len(frames)):
            stream.write(frames)
            ws.wire.sent += out.messages
            return True
        self.overflow(out)
        return False

    def _fits(self, ws: WebSocket, out: Outgoing, size: int) -> bool:
        stream = ws.stream
        options = self.engine.options
        missing = stream.buffered + size - options.max_outbox_bytes
        if missing <= 0 or stream.buffered <= stream.high_water or out is PING:
            return True
        if options.on_slow == "drop_oldest":
            dropped = stream.drop_oldest(EventFrame, missing)
            if dropped:
                self._lost(dropped)
            return dropped > 0
        return False

    def _enqueue(self, out: Outgoing) -> bool:
        queue = self._queue
        if queue is None:
            queue = self._queue = deque()
        options = self.engine.options
        if out.key is not None and queue and self._replace(queue, out):
            return True
        missing = self._queued + out.size - options.max_outbox_bytes
        if missing > 0 and queue and out is not PING:
            if options.on_slow == "drop_oldest":
                self._drop_oldest(queue, missing)
            if queue and self._queued + out.size > options.max_outbox_bytes:
                self.overflow(out)
                return False
        queue.append(out)
        self._queued += out.size
        if self.poll is not None:
            self.poll.wake()
        return True

    def _replace(self, queue: deque[Outgoing], out: Outgoing) -> bool:
        for index, before in enumerate(queue):
            if before.key == out.key:
                self._lost(replaced=1)
                if out.offset:  # as in _send_slow
                    del queue[index]
                    self._queued -= before.size
                    return False
                queue[index] = out
                self._queued += out.size - before.size
                return True
        return False

    def _drop_oldest(self, queue: deque[Outgoing], missing: int) -> None:
        """Make `missing` bytes of room in the queue, if its events have that much."""
        before, first = len(queue), 0
        while missing > 0 and first < len(queue):
            out = queue[first]
            if out.droppable:
                missing -= out.size
                self._queued -= out.size
                del queue[first]
            else:
                first += 1
        if len(queue) < before:
            self._lost(before - len(queue))

    def _lost(self, dropped: int = 0, replaced: int = 0) -> None:
        """Events were dropped or replaced: that is counted, and told to the application."""
        counters = self.engine.counters
        counters.dropped += dropped
        counters.replaced += replaced
        lag = self.lag
        if lag is None:
            handler = self.engine.io.slow
            if handler is None or self.closed is not None:
                return
            lag = self.lag = Lag(self, handler)
        lag.lost(dropped, replaced)

    def overflow(self, out: Outgoing) -> None:
        """The peer is too slow: the event is dropped, or the session ends. What must not be missing, as an
        acknowledgement, ends it whatever the policy is."""
        self._lost(1)
        if self.engine.options.on_slow == "close" or not out.droppable:
            if self.lag is not None:
                self.lag.closing()
            logger.info("session %s is too slow: over %d bytes unsent", self.id, self.engine.options.max_outbox_bytes)
            if self.ws is not None:
                self.ws.too_slow()
            self.close("transport error", discard=True)

    def take(self) -> list[Outgoing]:
        """What the next poll is answered with: at least one packet if any waits, and about ``max_payload_bytes``. Not
        more packets than python-engineio's client reads: it drops an answer with more, whole."""
        queue = self._queue
        limit = self.engine.options.max_payload_bytes
        count = 0
        taken: list[Outgoing] = []
        while queue and limit > 0:
            out = queue[0]
            count += out.messages
            if count > PACKETS_AN_ANSWER and taken:
                break
            queue.popleft()
            self._queued -= out.size
            limit -= out.size
            taken.append(out)
        if not queue:
            self._queue = None
            if self.lag is not None:
                self.lag.drained = True
        return taken

    @property
    def waiting(self) -> bool:
        """Whether something waits for the next poll."""
        return bool(self._queue)

    # -- in ------------------------------------------------------------------------------------------------------------

    def heard(self) -> None:
        """The peer has shown that it lives."""
        self._heard = self.engine.reactor.clock()

    def receive(self, packet: str | bytes) -> None:
        """A packet came on the session's transport."""
        if self.closed is not None:
            return
        if isinstance(packet, bytes):
            self.channel.receive_binary(packet)
            return
        kind = packet[:1]
        if kind == engineio.MESSAGE:
            self.channel.receive(packet)
        elif self.allowance is not None and not unidentified.afford(self, len(packet)):
            pass  # it has ended
        elif kind == engineio.PONG:
            self._ping_sent = 0.0
            self._next_ping = self.engine.reactor.clock() + self.engine.options.ping_interval_s
            self._schedule()
        elif kind == engineio.CLOSE:
            self.close("transport close")
        elif kind != engineio.NOOP:
            self.fail(ProtocolError(f"packet {packet[:20]!r} from a client"))

    def fail(self, error: ProtocolError) -> None:
        """The peer has broken a rule: it is not understood any more."""
        self.engine.counters.refused["parse error"] += 1
        logger.debug("session %s: %s", self.id, error)
        ws = self.ws
        if ws is not None:
            code = 1008 if isinstance(error, LimitExceeded) else 1002
            ws.close(code, str(error).encode()[:123].decode(errors="ignore"))
        self.close("parse error", discard=True)

    def hold(self, size: int) -> None:
        """`size` bytes came that no handler has taken yet; below 0: they are taken. Much of it pauses reading."""
        self._unread += size
        ws = self.ws
        if self._room is not None and not self.full and not self._room.done():
            self._room.set_result(None)
        if ws is None or not ws.stream.open:
            return
        if self._unread > ws.settings.max_unread:
            ws.stream.pause()
        elif size < 0 and ws.stream.paused and self._unread <= ws.settings.max_unread >> 1:
            self._heard = self.engine.reactor.clock()
            ws.stream.resume()

    @property
    def full(self) -> bool:
        """Whether as much is unread as may be."""
        return self._unread > self.engine.options.max_unread_bytes

    def has_room(self, size: int) -> bool:
        """Whether `size` bytes more would not be more than may be unread."""
        return self._unread + size <= self.engine.options.max_unread_bytes

    async def room(self) -> None:
        """Wait until no more is unread than may be."""
        while self.full and self.closed is None:
            self._room = self.engine.reactor.loop.create_future()
            try:
                await self._room
            finally:
                self._room = None

    # -- from polling to WebSocket (Engine.IO v4, §Upgrade) ------------------------------------------------------------

    def begin_probe(self, ws: WebSocket) -> None:
        """A WebSocket was opened for this session."""
        self.probe = ws
        self._probe_by = self.engine.reactor.clock() + self.engine.options.upgrade_timeout_s
        self._schedule()

    def receive_probe(self, ws: WebSocket, message: str | bytes) -> None:
        """A message came on the WebSocket that is tried."""
        if message == engineio.PROBE_PING:
            ws.write(PROBE_PONG.text.decode())
            if self.poll is not None:
                self.poll.release()  # so that the client has no poll open when it changes over
        elif message == engineio.UPGRADE:
            self._upgrade(ws)
        else:
            ws.close(1002, "expected 2probe or 5")

    def _upgrade(self, ws: WebSocket) -> None:
        poll = self.poll
        self.ws, self.probe = ws, None
        self._probe_by = NEVER
        if poll is not None:
            poll.finish([NOOP])  # a client that changes over has none: whatever it is, it gets nothing that counts
        queue, self._queue = self._queue, None
        self._queued = 0
        for out in queue or ():
            self.send(out)

    # -- time ----------------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        due = self._ping_sent + self.engine.options.ping_timeout_s if self._ping_sent else self._next_ping
        self.engine.reactor.wheel.schedule(self, min(due, self._connect_by, self._probe_by))

    def expired(self, now: float) -> None:
        if self.closed is not None:
            self.engine.forget(self)
            return
        if self._connect_by <= now:
            self._connect_by = NEVER
            if self.allowance is not None:
                self.close("forced server close", discard=True)
                return
        if self._probe_by <= now:
            self._probe_by = NEVER
            if self.probe is not None:
                self.probe.close(1008, "not upgraded in time")
        options = self.engine.options
        if self._ping_sent:
            ws = self.ws
            heard = self._heard if ws is None else max(self._heard, ws.stream.last_read)
            late = now - self._ping_sent - options.ping_timeout_s
            if heard > self._ping_sent:
                self._ping_sent = 0.0  # any byte is a sign of life
                self._next_ping = now + options.ping_interval_s
            elif late > LAG_S or (ws is not None and ws.stream.paused):
                self._ping_sent = now - options.ping_timeout_s + LAG_S / 2  # it was we who were late, or don't read
            elif late >= 0:
                self.close("ping timeout", discard=True)
                return
        elif self._next_ping <= now:
            self._ping_sent = now
            self.send(PING)
        self._schedule()

    # -- the end -------------------------------------------------------------------------------------------------------

    def close(self, reason: str, *, discard: bool = False) -> None:
        """End it. What waits is still delivered, unless it is to be discarded."""
        if self.closed is not None:
            return
        self.closed = reason
        if self.allowance is not None:
            self.engine.waiting.leave(self)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        try:
            self.channel.end(reason)
        finally:
            self._end_transport(discard)

    def _end_transport(self, discard: bool) -> None:
        probe, self.probe = self.probe, None
        if probe is not None:
            probe.close(1000)
        if self.ws is not None:
            self.ws.close(1000)
            self.engine.forget(self)
            return
        poll = self.poll
        last = [] if discard else list(self._queue or ())
        self._queue, self._queued = None, 0
        if poll is not None:
            poll.finish([*last, NOOP if self.closed == "transport close" else CLOSE])
            self.engine.forget(self)
        elif discard or self.closed == "transport close":
            self.engine.forget(self)
        else:  # it waits to be fetched
            self._queue = deque([*last, CLOSE])
            self.engine.reactor.wheel.schedule(self, self.engine.reactor.clock() + LEAVING_S)

    def lost(self, ws: WebSocket) -> None:
        """A WebSocket of this session has ended."""
        if ws is self.probe:
            self.probe = None
        elif ws is self.ws and self.closed is None:
            close = ws.closed
            broken = close is not None and isinstance(close.cause, ProtocolError)
            if self.mounted.stopping or (close is not None and close.by == "us" and close.code == 1001):
                self.close("server shutting down")
            else:
                self.close("transport error" if broken else "transport close")
