"""What the namespaces of one client share: the session of the moment, coming back when it has ended, and the outbox."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from portico.client.backoff import Backoff, Delays, may_come_back
from portico.errors import ConnectionClosed, HandshakeError, LocalError, ProtocolError
from portico.realtime_client.address import Address
from portico.realtime_client.errors import Disconnected
from portico.realtime_client.exchange import Cookies
from portico.realtime_client.handlers import Intake
from portico.realtime_client.handshake import OLD
from portico.realtime_client.outbox import Budget, Emission
from portico.realtime_client.session import Ears, Session
from portico.wire import socketio
from portico.wire.formats import Format

if TYPE_CHECKING:
    from portico.realtime_client.namespace import Namespace

logger = logging.getLogger("portico.realtime_client")

THREADS: Final = 4  # for sync handlers: one for each namespace at most is in use
NEVER: Final = frozenset({401, 403})  # what a server that once let us in does not say in passing


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a client behaves, as `RealtimeClient` was told."""

    backoff: Backoff
    reconnect: bool
    connect_timeout_s: float
    max_outbox_bytes: int
    max_event_bytes: int
    max_polled_bytes: int
    packets: Format


class Link:
    """A client's connection, however often it is made anew."""

    def __init__(self, address: Address, options: Options) -> None:
        self.namespaces: dict[str, Namespace] = {}
        self.budget = Budget(options.max_outbox_bytes)
        self.ended = False
        self.reason = ""
        self._address = address
        self._options = options
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0
        self._task: asyncio.Task[None] | None = None
        self._session: Session | None = None
        self.packets = options.packets
        self._decoder = options.packets.decoder(options.max_event_bytes)
        self._packet_bytes = 0
        self._early_bytes = 0
        self._leaving: asyncio.Future[None] | None = None
        self._error: BaseException | None = None
        self._established = False
        self._executor: ThreadPoolExecutor | None = None
        self._intake: Intake | None = None

    # -- facts ---------------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    @property
    def free(self) -> bool:
        """Whether there is a session, and it takes a message now."""
        return self._session is not None and self._session.free

    @property
    def transport(self) -> str:
        return "" if self._session is None else self._session.transport

    def old(self) -> str:
        """What is said of a server of Socket.IO 2."""
        return f"{self._address.shown}: {OLD}"

    # -- from outside --------------------------------------------------------------------------------------------------

    async def start(self, retry: bool) -> None:
        """Connect all namespaces. Raises what keeps one of them from it; then nothing is left running."""
        if self.running:
            raise LocalError("connect() of a client that is connected or on its way: expected one connect() at a time")
        loop = self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self.ended = False
        self.reason = ""
        self._error = None
        self._established = False
        self._leaving = loop.create_future()
        self._executor = ThreadPoolExecutor(THREADS, "portico-handler")
        self._intake = Intake(self._address.options.limits.max_unread_bytes)
        outcomes = [self._want(namespace) for namespace in self.namespaces.values()]
        self._task = loop.create_task(self._run(retry))
        try:
            done, _ = await asyncio.wait(outcomes, return_when=asyncio.FIRST_EXCEPTION)
            errors = [error for outcome in outcomes if outcome in done and (error := outcome.exception())]
            if errors:
                raise errors[0]
        except BaseException:
            for outcome in outcomes:
                if not outcome.done():
                    outcome.cancel()
            await self.close(flush=False)
            raise

    async def join(self, namespace: Namespace) -> None:
        """Connect a namespace besides those that are connected."""
        if namespace._wanted:
            raise LocalError(f"connect() of the namespace {namespace.name}, which is connected or on its way")
        outcome = self._want(namespace)
        session = self._session
        try:
            if session is not None and not session.over.done():
                auth = await namespace._ask_auth()
                if session is self._session and not session.over.done():
                    session.send(*namespace._connect_packet(auth))
                    self._watch(session)
            await outcome
        except BaseException:
            if not namespace.connected:
                namespace._wanted = False
                namespace._outcome = None
            raise

    def _want(self, namespace: Namespace) -> asyncio.Future[None]:
        if self._executor is None or self._intake is None or self._loop is None or self.ended:
            raise LocalError("connect() of a namespace whose client is not connected: connect the client first")
        namespace._wanted = True
        namespace._handlers.begin(self._executor, self._intake)
        namespace._outcome = self._loop.create_future()
        return namespace._outcome

    async def leave(self, namespace: Namespace) -> None:
        """Disconnect one namespace, with what it still has to send."""
        if len(self._wanted()) <= 1:
            await self.close()
        elif namespace._wanted:
            await self._flushed([namespace])
            self._say_goodbye(namespace)
            namespace._end("io client disconnect", None)

    async def close(self, *, flush: bool = True) -> None:
        """Send what waits, where there is a connection; disconnect; wait until handlers have run."""
        if self._task is None:
            self.reason = self.reason or "io client disconnect"
            self.ended = True
            for namespace in self.namespaces.values():
                namespace._end(self.reason, None)
            return
        if flush and self.running:
            await self._flushed(self._wanted())
        self._leave("io client disconnect", None)
        if not any(namespace._handlers.running for namespace in self.namespaces.values()):
            await asyncio.wait([self._task])

    async def wait(self) -> str:
        """The reason, when it is over for good. Raises what it ended with."""
        if self._task is None:
            raise LocalError("wait() of a client that was never connected: connect() first")
        await asyncio.wait([self._task])
        if self._error is not None:
            raise self._error
        return self.reason

    # -- out -----------------------------------------------------------------------------------------------------------

    def check_size(self, text: bytes, attachments: list[bytes]) -> None:
        """Raises LocalError where the server of the moment does not take so much at once."""
        most = 0 if self._session is None else self._session.max_payload
        if not most:
            return
        sizes = [len(text) + 1, *(_size(each, self.transport) for each in attachments)]
        if max(sizes) > most:
            text_ = f"an event of {max(sizes)} bytes: the server takes at most {most} at once (its maxPayload)"
            raise LocalError(f"{text_}; raise its limit, or send less")

    def write(self, item: Emission) -> None:
        """Hand `item` to the session, which is `free`."""
        try:
            self.check_size(item.text, item.attachments)
        except LocalError as error:  # it was taken while there was no connection
            logger.warning("an event was dropped: %s", error)
            item.settle(error)
            return
        if self._session is not None:
            self._session.send(item.text, item.attachments)
            item.settle()

    def pump(self) -> None:
        """Hand over what waits, as far as the session takes it."""
        for namespace in self.namespaces.values():
            namespace._pump()

    def pump_from_any_thread(self) -> None:
        loop = self._loop
        if loop is None:
            return
        if threading.get_ident() == self._thread:
            self.pump()
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self.pump)

    async def _flushed(self, namespaces: Iterable[Namespace]) -> None:
        """Wait until what they have to send is sent, for a while, and where they are connected.

        And until the server has read it: Node's drops the events that it reads together with a DISCONNECT.
        """
        with contextlib.suppress(TimeoutError, Disconnected, LocalError, ConnectionClosed):
            async with asyncio.timeout(self._address.options.limits.close_timeout_s):
                for namespace in namespaces:
                    while namespace.connected and namespace._outbox:
                        await namespace._outbox.last()
                if self._session is not None:
                    await self._session.taken()

    def _say_goodbye(self, namespace: Namespace) -> None:
        if namespace.connected and self._session is not None:
            self._session.send(*self.packets.encode(socketio.DISCONNECT, namespace.name))

    # -- in ------------------------------------------------------------------------------------------------------------

    def _text(self, text: str) -> None:
        self._packet_bytes += len(text)
        self._took(self._decoder.feed(text))

    def _binary(self, data: bytes) -> None:
        self._packet_bytes += len(data)
        self._took(self._decoder.feed_binary(data))

    def _took(self, packet: socketio.Packet | None) -> None:
        if packet is None:
            return
        size, self._packet_bytes = self._packet_bytes, 0
        namespace = self.namespaces.get(packet.namespace)
        if namespace is None:
            return
        try:
            namespace._took(packet, size)
        except HandshakeError as error:
            self._leave("parse error", error)

    def count_early(self, size: int) -> None:
        """Missed events are held until the server has said that it knows us: `size` bytes more."""
        self._early_bytes += size
        if self._early_bytes > self._options.max_polled_bytes:
            for namespace in self.namespaces.values():
                namespace._pid = None  # without them, there is no recovery
            raise ProtocolError(f"missed events of over {self._options.max_polled_bytes} bytes (max_polled_bytes)")

    def joined(self, namespace: Namespace) -> None:
        self._established = True
        self.pump()

    def left(self, error: BaseException | None) -> None:
        """The server has ended or refused a namespace; without any, the connection ends."""
        if not self._wanted():
            self._leave("io server disconnect", error)

    # -- the life of it ------------------------------------------------------------------------------------------------

    def _wanted(self) -> list[Namespace]:
        return [namespace for namespace in self.namespaces.values() if namespace._wanted]

    def _leave(self, reason: str, error: BaseException | None) -> None:
        if self._leaving is not None and not self._leaving.done():
            self.reason, self._error = reason, error
            self._leaving.set_result(None)

    async def _run(self, retry: bool) -> None:
        coming = asyncio.ensure_future(self._come_back(retry))
        ends: list[asyncio.Future[None]] = [coming, *([] if self._leaving is None else [self._leaving])]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if coming.done() and not coming.cancelled() and coming.exception() is not None:
                self._leave("transport error", coming.exception())
        finally:
            coming.cancel()
            await asyncio.wait([coming])
            await self._finish()

    async def _finish(self) -> None:
        reason, error = self.reason or "io client disconnect", self._error
        self.ended = True
        self.reason = reason
        session, self._session = self._session, None
        if session is not None:
            for namespace in self._wanted():
                if namespace.connected:
                    session.send(*self.packets.encode(socketio.DISCONNECT, namespace.name))
        for namespace in self.namespaces.values():
            namespace._end(reason, error)
        if session is not None:
            await session.close(self._address.options.limits.close_timeout_s)
        for namespace in self.namespaces.values():
            await namespace._handlers.settled(self._address.options.limits.handler_grace_s)
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    async def _come_back(self, retry: bool) -> None:
        """Connect, again and again. Raises the error that ends it for good."""
        delays = Delays(self._options.backoff)
        loop = asyncio.get_running_loop()
        while True:
            try:
                session = await self._attempt()
            except Exception as error:
                if self._gives_up(error, retry):
                    raise
                self._tell(error)
                delay = delays.after_failure(error if isinstance(error, HandshakeError) else OSError())
            else:
                began = loop.time()
                reason = await asyncio.shield(session.over)
                await session.settled()
                self._session = None
                error_ = self._lost(reason, session, retry)
                if error_ is not None:
                    raise error_
                delay = delays.after_connection(loop.time() - began)
            logger.debug("%s: trying again in %.1f s", self._address.shown, delay)
            await asyncio.sleep(delay)

    async def _attempt(self) -> Session:
        """A session, in which every namespace has asked to be let in."""
        auths = [(namespace, await namespace._ask_auth()) for namespace in self._wanted()]
        ears = Ears(self._text, self._binary, self.pump, self._room)
        self._decoder.clear()
        self._packet_bytes = self._early_bytes = 0
        session = Session(self._address, Cookies(), ears, self._options.max_polled_bytes)
        await session.open()
        self._session = session
        for namespace, auth in auths:
            session.send(*namespace._connect_packet(auth))
        self._watch(session)
        return session

    def _watch(self, session: Session) -> None:
        """End the session where the server does not answer in time whether it lets us in."""

        def look() -> None:
            if session is self._session and any(not namespace.connected for namespace in self._wanted()):
                text = f"{self._address.shown} did not answer CONNECT within {within:g} s (connect_timeout_s)"
                session.ended("connect timeout", TimeoutError(text))

        within = self._options.connect_timeout_s
        asyncio.get_running_loop().call_later(within, look)

    async def _room(self) -> None:
        if self._intake is not None:
            await self._intake.room()

    def _lost(self, reason: str, session: Session, retry: bool) -> BaseException | None:
        """The session has ended. Returns the error that ends everything, if it does."""
        for namespace in self._wanted():
            namespace._lost(reason)
        self.reason = reason
        if not self._established:
            error: Exception = HandshakeError(
                f"{self._address.shown}: the session ended before CONNECT was answered: {reason}"
            )
            if isinstance(session.error, OSError | HandshakeError | ProtocolError):
                error = session.error
            if self._gives_up(error, retry):
                return error
            self._tell(error)
        elif not self._options.reconnect:
            return Disconnected(f"{self._address.shown}: disconnected: {reason}", reason=reason)
        return None

    def _gives_up(self, error: Exception, retry: bool) -> bool:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        if self._established:
            return isinstance(error, HandshakeError) and error.status in NEVER
        passing = isinstance(error, OSError | HandshakeError) and may_come_back(error)
        return not (retry and passing)

    def _tell(self, error: Exception) -> None:
        """An attempt failed, and there will be another one."""
        if not isinstance(error, OSError | HandshakeError | ProtocolError):
            logger.error("auth= of %s failed: %s", self._address.shown, type(error).__name__, exc_info=error)
        for namespace in self._wanted():
            namespace._handlers.put("connect_error", [error], 0)


def _size(attachment: bytes, transport: str) -> int:
    return 1 + (len(attachment) + 2) // 3 * 4 if transport == "polling" else len(attachment)
