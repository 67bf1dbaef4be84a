"""The Socket.IO side of a session: what its packets mean, and which clients it has in which namespaces."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from portico.errors import ProtocolError
from portico.realtime import unidentified
from portico.realtime.outgoing import Outgoing
from portico.realtime.rates import too_many
from portico.wire import socketio
from portico.wire.formats import JSON, MSGPACK, Decoder
from portico.wire.socketio import ACK, CONNECT, CONNECT_ERROR, DISCONNECT, EVENT, Packet

if TYPE_CHECKING:
    from portico.realtime.clients import Client
    from portico.realtime.sessions import Session

MAX_NAMESPACES: Final = 100  # in one session
LONG_EVENT: Final = 256  # bytes; what is in a shorter one is not looked at: its weight is that of its bytes


class Channel:
    """One session's packets in and out. ``clients``: by namespace."""

    __slots__ = ("_decoder", "_left", "clients", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clients: dict[str, Client] = {}
        self._left: set[str] | None = None  # namespaces that had a client: what still comes for those is late
        # Of JSON there is one for a packet with attachments alone.
        self._decoder: Decoder | None = MSGPACK.decoder(0) if session.engine.io.packets.whole else None

    # -- in ------------------------------------------------------------------------------------------------------------

    def receive(self, message: str) -> None:
        """A text message of Engine.IO came, with its type."""
        decoder = self._decoder
        try:
            if decoder is None and message.startswith("42["):  # what most are
                client = self.clients.get("/")
                if client is not None:
                    event = socketio.event(message[2:])
                    size = len(message)
                    client._receive(event, None, _weight(event) if size > LONG_EVENT else size)
                    return
            text = message[1:]
            if decoder is None:
                if not text.startswith(("5", "6")):
                    self._handle(socketio.Decoder.whole(text), len(text))
                    return
                decoder = self._decoder = JSON.decoder(self.session.max_payload_bytes)
            packet = decoder.feed(text)
            if packet is not None:
                self._handle(packet, len(text))
            elif decoder.assembling not in self.clients and not self._is_late(decoder.assembling):
                raise ProtocolError("a packet with attachments for a namespace that is not connected")
        except ProtocolError as error:
            self.session.fail(error)

    def receive_binary(self, data: bytes) -> None:
        """An attachment came."""
        decoder = self._decoder
        try:
            if decoder is None:
                raise ProtocolError("attachment where none was expected")
            size = decoder.held + len(data)
            packet = decoder.feed_binary(data)
            if packet is not None:
                if not self.session.engine.io.packets.whole:
                    self._decoder = None
                self._handle(packet, size)
        except ProtocolError as error:
            self.session.fail(error)

    def _handle(self, packet: Packet, size: int) -> None:
        client = self.clients.get(packet.namespace)
        kind = packet.type
        if client is None:
            if kind == CONNECT:
                if unidentified.afford(self.session, size):
                    self._connect(packet)
            elif not self._is_late(packet.namespace):
                raise ProtocolError("a packet for a namespace that is not connected")
        elif kind == EVENT:
            client._receive(packet.data, packet.id, _weight(packet.data) if size > LONG_EVENT else size)
        elif kind == ACK:
            client._acknowledged(packet.id, packet.data)
        elif kind == DISCONNECT:
            client._end("client namespace disconnect")
        elif kind == CONNECT:
            raise ProtocolError("CONNECT to a namespace that is connected")
        elif kind == CONNECT_ERROR:
            raise ProtocolError("CONNECT_ERROR from a client")

    def _connect(self, packet: Packet) -> None:
        engine = self.session.engine
        io = engine.io
        wait = engine.waiting.attempt(self.session.request, engine.reactor)
        if wait:
            engine.counters.refused["rate"] += 1
            self.refuse(packet.namespace, {"message": unidentified.TOO_OFTEN, "data": too_many(wait)})
            return
        if len(self.clients) >= MAX_NAMESPACES:
            self.refuse(packet.namespace, {"message": f"a connection may have {MAX_NAMESPACES} namespaces"})
            return
        namespace = io.find(packet.namespace)
        if namespace is None:
            self.refuse(packet.namespace, {"message": "Invalid namespace"})
            return
        client = self.clients[packet.namespace] = namespace.arrive(self.session, packet.data or {})
        client._begin()

    def _is_late(self, namespace: str | None) -> bool:
        return self._left is not None and namespace in self._left

    # -- out -----------------------------------------------------------------------------------------------------------

    def send(self, kind: int, namespace: str, data: object = None, id: int | None = None) -> bool:
        """Send a packet that is for this client alone. Raises LocalError for data that can't be sent."""
        text, attachments = self.session.engine.io.packets.encode(kind, namespace, id, data)
        return self.session.send(Outgoing(b"4" + text if text else b"", attachments))

    def refuse(self, namespace: str, data: dict[str, object]) -> None:
        """Answer a CONNECT with an error (Socket.IO v5, §Connection to a namespace)."""
        self.send(CONNECT_ERROR, namespace, data)

    # -- the end -------------------------------------------------------------------------------------------------------

    def drop(self, client: Client) -> None:
        """A client has left its namespace; the session goes on."""
        name = client.namespace.name
        if self.clients.pop(name, None) is not None:
            if self._left is None or len(self._left) > 1000:
                self._left = set()
            self._left.add(name)

    def end(self, reason: str) -> None:
        """The session has ended."""
        self._decoder = None
        for client in list(self.clients.values()):
            client._end(reason)
        self.clients.clear()


def _weight(data: Any) -> int:
    """Of an event's data in memory, about: two bytes of text may become a list of 56. However deep it is nested."""
    size = 0
    rest = [data]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            size += 56 + len(value) * (1 if value.isascii() else 4)
        elif isinstance(value, bytes):
            size += 40 + len(value)
        elif isinstance(value, list):
            size += 56 + 8 * len(value)
            rest.extend(value)
        elif isinstance(value, dict):
            size += (230 if value else 64) + 30 * len(value)
            rest.extend(value)
            rest.extend(value.values())
        else:
            size += 32
    return size
