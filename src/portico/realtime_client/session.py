"""One Engine.IO session, from its handshake to its end: heartbeat, transports, the upgrade from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import quote

from portico.client.connect import connect
from portico.errors import ConnectionClosed, HandshakeError, ProtocolError
from portico.realtime_client.address import Address
from portico.realtime_client.exchange import Asker, Cookies
from portico.realtime_client.handshake import OLD, Opened, first_payload, opened
from portico.realtime_client.transports import Polling, Socket, Transport
from portico.websocket import WebSocket
from portico.wire import engineio

OLD_CONNECT: Final = "40"  # what a server of Socket.IO 2 says first of all, without being asked


class Ears:
    """Who a `Session` speaks to: each is called in the loop's thread."""

    __slots__ = ("binary", "room", "text", "writable")

    def __init__(
        self,
        text: Callable[[str], None],
        binary: Callable[[bytes], None],
        writable: Callable[[], None],
        room: Callable[[], Any],
    ) -> None:
        self.text = text  # a message came; raises ProtocolError where it can't be understood
        self.binary = binary
        self.writable = writable  # the session takes more
        self.room = room  # awaited before more is read


class Session:
    """One session. `open` begins it; ``over`` is done with the reason when it has ended, and ``error`` says more."""

    def __init__(self, address: Address, cookies: Cookies, ears: Ears, max_polled_bytes: int) -> None:
        self._address = address
        self._ears = ears
        self._asker = Asker(address, cookies, max_polled_bytes)
        self._cookies = cookies
        self._transport: Transport | None = None
        self._opened: Opened | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._polling: asyncio.Task[None] | None = None
        self._upgrading: asyncio.Task[None] | None = None
        self._heard_at = 0.0
        self._waiting_for_room = False
        self._timer: asyncio.TimerHandle | None = None
        self._held: list[str | tuple[bytes, list[bytes]]] | None = None  # what to send, while the transport changes
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.error: BaseException | None = None

    # -- facts ---------------------------------------------------------------------------------------------------------

    @property
    def transport(self) -> str:
        """The name of the transport in use."""
        return "" if self._transport is None else self._transport.name

    @property
    def max_payload(self) -> int:
        """How many bytes the server takes at once; 0 where it has not said."""
        return 0 if self._opened is None else self._opened.max_payload

    @property
    def free(self) -> bool:
        """Whether it takes a message now."""
        live = self._transport is not None and not self.over.done() and self._held is None
        return live and self._transport is not None and self._transport.free

    # -- the beginning -------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin the session. Raises OSError or HandshakeError, with nothing left of it."""
        try:
            if self._address.transports[0] == "polling":
                await self._open_polling()
            else:
                await self._open_socket()
        except BaseException:
            self._asker.close()
            raise
        self._heard_at = asyncio.get_running_loop().time()
        self._watch()

    async def _open_polling(self) -> None:
        where = self._address.shown
        answer = await self._asker.ask("GET", "", self._address.options.open_timeout_s)
        session, packets = first_payload(answer, where)
        self._opened = session
        polling = Polling(self, self._asker, session.sid, session.patience_s, session.max_payload, where)
        self._transport = polling
        for packet in packets:
            if packet == OLD_CONNECT:
                raise HandshakeError(f"{where}: {OLD}")
            self._guarded(packet)
        if self.over.done():
            return
        self._polling = self._start(polling.run())
        if "websocket" in self._address.transports and "websocket" in session.upgrades:
            self._upgrading = self._start(self._upgrade(polling, session.sid))

    async def _open_socket(self) -> None:
        where = self._address.shown
        ws = await self._websocket("")
        try:
            async with asyncio.timeout(self._address.options.open_timeout_s):
                first = await ws.recv()
            self._opened = opened(first, where)
        except TimeoutError:
            ws.stream.abort()
            within = f"within {self._address.options.open_timeout_s:g} s (open_timeout_s)"
            raise TimeoutError(f"{where}: no handshake of Engine.IO {within}") from None
        except ConnectionClosed as error:
            raise HandshakeError(f"{where}: the WebSocket was closed before Engine.IO's handshake: {error}") from None
        except BaseException:
            ws.stream.abort()
            raise
        self._transport = Socket(self, ws)
        self._start(self._transport.run())

    async def _websocket(self, sid: str) -> WebSocket:
        options = self._address.options
        return await connect(
            self._address.websocket(sid),
            headers=self._address.headers(str(self._cookies)),
            ssl=options.ssl,
            proxy=_proxy(options.proxy),
            deflate=options.deflate,
            limits=options.limits,
            keepalive=None,  # Engine.IO has its own
            open_timeout_s=options.open_timeout_s,
        )

    def _start(self, running: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._run(running))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run(self, running: Any) -> None:
        try:
            await running
        except ProtocolError as error:
            self.ended("parse error", error)
        except Exception as error:
            self.ended("transport error", error)
            raise

    # -- the upgrade (Engine.IO v4, "Upgrade") -------------------------------------------------------------------------

    async def _upgrade(self, polling: Polling, sid: str) -> None:
        ws: WebSocket | None = None
        try:
            async with asyncio.timeout(self._address.options.open_timeout_s):
                ws = await self._websocket(sid)
                await ws.send(engineio.PROBE_PING)
                if await ws.recv() != engineio.PROBE_PONG:
                    raise ProtocolError("no answer to the probe")
                self._held = []
                await polling.pause()
                await ws.send(engineio.UPGRADE)
        except (OSError, HandshakeError, ConnectionClosed, ProtocolError):
            if ws is not None:
                ws.stream.abort()
            self._changed(polling)
            polling.resume()
        except BaseException:
            if ws is not None:
                ws.stream.abort()
            if not self.over.done():
                self._changed(polling)
            raise
        else:
            self._asker.close()
            socket = Socket(self, ws)
            self._changed(socket)
            self._start(socket.run())
            if self._polling is not None:
                self._polling.cancel()
        self._ears.writable()

    def _changed(self, transport: Transport) -> None:
        held, self._held = self._held or [], None
        self._transport = transport
        for what in held:
            if isinstance(what, str):
                transport.control(what)
            else:
                transport.send(*what)

    # -- what comes and goes -------------------------------------------------------------------------------------------

    def send(self, text: bytes, attachments: list[bytes]) -> None:
        """Send a message; where it is not `free`, it is held back."""
        if self._held is not None:
            self._held.append((text, attachments))
        elif self._transport is not None and not self.over.done():
            self._transport.send(text, attachments)

    def took(self, packet: str | bytes) -> None:
        if self.over.done():
            return
        self._heard_at = asyncio.get_running_loop().time()
        if isinstance(packet, bytes):
            self._ears.binary(packet)
        elif packet[0] == engineio.MESSAGE:
            self._ears.text(packet[1:])
        elif packet[0] == engineio.PING:
            self._control(engineio.PONG + packet[1:])
        elif packet[0] == engineio.CLOSE:
            self.ended("transport close")
        elif packet[0] not in "0356":
            raise ProtocolError(f"packet of type {packet[0]!r}")

    def _guarded(self, packet: str | bytes) -> None:
        try:
            self.took(packet)
        except ProtocolError as error:
            self.ended("parse error", error)

    def _control(self, packet: str) -> None:
        if self._held is not None:
            self._held.append(packet)
        elif self._transport is not None:
            self._transport.control(packet)

    def writable(self) -> None:
        if not self.over.done():
            self._ears.writable()

    async def room(self) -> None:
        self._waiting_for_room = True
        try:
            await self._ears.room()
        finally:
            self._waiting_for_room = False
        self._heard_at = asyncio.get_running_loop().time()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """End the session where nothing came for too long; not while it is we who don't read."""
        loop = asyncio.get_running_loop()
        if self.over.done() or self._opened is None:
            return
        if self._waiting_for_room:
            self._heard_at = loop.time()
        due = self._heard_at + self._opened.patience_s
        if loop.time() >= due:
            self.ended("ping timeout")
        else:
            self._timer = loop.call_at(due, self._watch)

    def ended(self, reason: str, error: BaseException | None = None) -> None:
        """The end, whatever brought it: nothing more is told or sent."""
        if self.over.done():
            return
        self.error = error
        self.over.set_result(reason)
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._asker.close()

    async def taken(self) -> None:
        """Wait until the server has read what was sent. Raises ConnectionClosed."""
        if self._transport is not None and not self.over.done():
            await self._transport.taken()

    async def close(self, timeout_s: float) -> None:
        """End the session in good order, in `timeout_s` at most."""
        if self._upgrading is not None and not self._upgrading.done():
            self._upgrading.cancel()
            await asyncio.wait([self._upgrading])
        if self._transport is not None and not self.over.done():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._transport.close()
        self.ended("io client disconnect")
        await self.settled()

    async def settled(self) -> None:
        """Wait until none of its tasks runs."""
        left = self._tasks - {asyncio.current_task()}
        if left:
            await asyncio.wait(left)


def _proxy(proxy: Any) -> Any:
    """What `connect` takes for a proxy that was checked already."""
    if proxy is None or isinstance(proxy, bool):
        return proxy
    user = ""
    if proxy.credentials is not None:
        user = ":".join(quote(part, safe="") for part in proxy.credentials) + "@"
    return f"http://{user}{proxy.authority}"
