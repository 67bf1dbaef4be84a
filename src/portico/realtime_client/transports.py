"""The two transports of an Engine.IO session: HTTP long polling, and a WebSocket.

Each tells its `Session` of every packet that came, of being able to take more, and once of its end. A message for the
server is a text and the attachments that belong to it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

from portico.errors import ConnectionClosed, HandshakeError, ProtocolError
from portico.realtime_client.exchange import Asker
from portico.realtime_client.handshake import refusal
from portico.websocket import WebSocket
from portico.wire import engineio

BATCH_BYTES: Final = 64 * 1024  # of packets in one POST, where the server takes so much

BATCH_PACKETS: Final = 16  # python-engineio takes no more in one POST


class Owner(Protocol):
    """What a transport tells."""

    def took(self, packet: str | bytes) -> None:
        """A packet came: str with its type first, bytes for a binary message. Raises ProtocolError."""

    def writable(self) -> None:
        """It takes more messages."""

    def ended(self, reason: str, error: BaseException | None = None) -> None:
        """It is over."""

    async def room(self) -> None:
        """Wait until there is room for more of what comes."""


class Transport:
    """What both have in common: `run` is their reading, in a task of the session's."""

    name = ""

    @property
    def free(self) -> bool:
        """Whether it takes another message now."""
        raise NotImplementedError

    def send(self, text: bytes, attachments: list[bytes]) -> None:
        """Send a message."""
        raise NotImplementedError

    def control(self, packet: str) -> None:
        """Send a packet that is no message."""
        raise NotImplementedError

    async def run(self) -> None:
        """Read until the end."""
        raise NotImplementedError

    async def taken(self) -> None:
        """Wait until the server has read what was sent. Raises ConnectionClosed."""
        raise NotImplementedError

    async def close(self) -> None:
        """End in good order, with everything written that was sent."""
        raise NotImplementedError

    def abort(self) -> None:
        """End now."""
        raise NotImplementedError


class Socket(Transport):
    """A WebSocket."""

    name = "websocket"

    def __init__(self, owner: Owner, ws: WebSocket) -> None:
        self._owner = owner
        self._ws = ws
        self._waiting: deque[str | bytes] = deque()  # of a message that did not fit at once
        self._writing: asyncio.Task[None] | None = None

    @property
    def free(self) -> bool:
        return self._writing is None

    def send(self, text: bytes, attachments: list[bytes]) -> None:
        messages: list[str | bytes] = [*attachments]
        if text:
            messages.insert(0, (b"4" + text).decode())
        if len(messages) == 1 and self._ws.buffered <= self._ws.stream.high_water:
            self._ws.write(messages[0])
            return
        self._waiting.extend(messages)
        self._writing = asyncio.get_running_loop().create_task(self._write())

    async def _write(self) -> None:
        """Send what waits, piece by piece: the server may be slow."""
        try:
            while self._waiting:
                await self._ws.send(self._waiting.popleft())
        except ConnectionClosed:
            return
        finally:
            self._writing = None
        self._owner.writable()

    def control(self, packet: str) -> None:
        self._ws.write(packet)

    async def run(self) -> None:
        async for packet in self._ws:
            if packet == "":
                raise ProtocolError("an empty packet")
            self._owner.took(packet)
            await self._owner.room()
        closed = self._ws.closed
        self._owner.ended("transport close", None if closed is None else closed.cause)

    async def taken(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._ws.ping()  # the pong comes when all before the ping has been read

    async def close(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._ws.close(1000)

    def abort(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
        self._ws.stream.abort()


class Polling(Transport):
    """HTTP long polling: a GET that waits for what comes, and a POST at a time for what goes."""

    name = "polling"

    def __init__(self, owner: Owner, asker: Asker, sid: str, timeout_s: float, max_payload: int, where: str) -> None:
        self._owner = owner
        self._asker = asker
        self._sid = sid
        self._timeout_s = timeout_s
        self._max = max_payload
        self._where = where
        self._batch: deque[bytes] = deque()
        self._batched = 0
        self._posting: asyncio.Task[None] | None = None
        self._paused = False
        self._quiet = asyncio.Event()  # paused, and no request is under way
        self._resumed = asyncio.Event()
        self._getting = False

    @property
    def free(self) -> bool:
        return not self._paused and self._batched < min(self._max or BATCH_BYTES, BATCH_BYTES)

    def send(self, text: bytes, attachments: list[bytes]) -> None:
        if text:
            self._put(b"4" + text)
        for attachment in attachments:
            self._put(engineio.encode_binary(attachment))

    def control(self, packet: str) -> None:
        self._put(packet.encode())

    def _put(self, packet: bytes) -> None:
        self._batch.append(packet)
        self._batched += len(packet) + 1
        if self._posting is None:
            self._posting = asyncio.get_running_loop().create_task(self._post())

    async def _post(self) -> None:
        """Send what there is: as much in a request as the server takes, one request after the other."""
        try:
            while self._batch:
                body = self._take()
                answer = await self._asker.ask("POST", self._sid, self._timeout_s, body)
                if answer.status != 200:
                    raise refusal(answer.status, answer.headers.items(), answer.body, self._where)
                if not self._batch:
                    self._owner.writable()
        except (OSError, HandshakeError) as error:
            self._owner.ended("transport error", error)
        finally:
            self._posting = None
            self._tell_quiet()

    def _take(self) -> bytes:
        packets = [self._batch.popleft()]
        size = len(packets[0])
        most = self._max or BATCH_BYTES
        while self._batch and len(packets) < BATCH_PACKETS and size + 1 + len(self._batch[0]) <= most:
            packets.append(self._batch.popleft())
            size += 1 + len(packets[-1])
        self._batched -= size + 1
        return b"\x1e".join(packets)

    async def run(self) -> None:
        try:
            while True:
                while self._paused:
                    self._tell_quiet()
                    await self._resumed.wait()
                self._getting = True
                try:
                    answer = await self._asker.ask("GET", self._sid, self._timeout_s)
                finally:
                    self._getting = False
                if answer.status != 200:
                    raise refusal(answer.status, answer.headers.items(), answer.body, self._where)
                for packet in engineio.decode_payload(answer.body):
                    self._owner.took(packet)
                self._tell_quiet()
                await self._owner.room()
        except (OSError, HandshakeError) as error:
            self._owner.ended("transport error", error)

    # -- the upgrade ---------------------------------------------------------------------------------------------------

    async def pause(self) -> None:
        """Ask no more; returns when no request is under way. What came with the last one has been told."""
        self._paused = True
        self._resumed.clear()
        self._tell_quiet()
        await self._quiet.wait()

    def resume(self) -> None:
        """Go on after `pause`: there was no upgrade."""
        self._paused = False
        self._quiet.clear()
        self._resumed.set()

    def _tell_quiet(self) -> None:
        if self._paused and not self._getting and self._posting is None and not self._batch:
            self._quiet.set()

    # -- the end -------------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        await self.taken()  # a server may act on the end before it acts on what came with it
        self.control(engineio.CLOSE)
        await self.taken()
        self.abort()

    async def taken(self) -> None:
        while self._posting is not None:
            await asyncio.wait([self._posting])

    def abort(self) -> None:
        if self._posting is not None:
            self._posting.cancel()
        self._asker.close()
