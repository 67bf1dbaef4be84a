"""What stands between two ends and fails when told to: bytes torn, late, lost, and every way that TCP can end.

A `Link` relays between two sockets of its own; each direction is a `Flow`. It knows nothing of what it relays.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import deque
from types import TracebackType
from typing import Final, Literal, Self

from portico.errors import LocalError
from portico.testing.pieces import torn

READ_BYTES: Final = 64 * 1024
HELD_BYTES: Final = 256 * 1024  # in transit; with more the sender has to wait

Side = Literal["client", "server"]


class Flow:
    """One direction of a `Link`. ``bytes_in``: taken from the sender; ``bytes_out``: handed to the receiver."""

    def __init__(self, link: Link, source: socket.socket, sink: socket.socket) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._source = source
        self._sink = sink
        self._transit: deque[tuple[float, bytes]] = deque()  # when each is due; b"" is the sender's end
        self._held = 0
        self._delay = 0.0
        self._tearing = False
        self._rng: random.Random | None = None
        self._paused = False
        self._lossy = False
        self._source_ended = False
        self._sink_ended = False
        self._reading = False
        self._handle: asyncio.Handle | None = None
        self._read_on()

    def __repr__(self) -> str:
        return f"<Flow {self.bytes_in} bytes in, {self.bytes_out} out{'' if self.passing else ', not passing'}>"

    @property
    def passing(self) -> bool:
        """Whether what is sent will arrive, however late."""
        return not self._paused and not self._lossy

    # -- faults --------------------------------------------------------------------------------------------------

    def tear(self, seed: int | None = None) -> None:
        """Hand over every byte by itself, or random pieces from `seed`: a receiver in the same event loop that reads
        when it can reads each of them alone."""
        self._tearing = True
        self._rng = None if seed is None else random.Random(seed)

    def delay(self, seconds: float) -> None:
        """From now on each byte arrives so many seconds after it was sent, in order; 0 for at once.

        Raises LocalError for what is no number of 0 or more.
        """
        if not 0 <= seconds < float("inf"):
            raise LocalError(f"delay({seconds!r}): expected seconds, 0 or more")
        self._delay = seconds

    def pause(self) -> None:
        """Take and hand over nothing until `resume`: nothing is lost, and soon the sender has to wait."""
        self._paused = True
        self._stop_reading()
        self._stop_pumping()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._paused = False
        self._read_on()
        self._pump()

    def drop(self) -> None:
        """A black hole: what is in transit and all that comes is lost, the sender's end too. The sender never waits,
        and neither end is told. For good."""
        self._lossy = True
        self._stop_pumping()
        self._transit.clear()
        self._held = 0
        self._read_on()

    def cut(self) -> None:
        """Tell the receiver the end (FIN). What is in transit, and all that comes, is lost."""
        self.drop()
        self._end()

    # -- bytes ---------------------------------------------------------------------------------------------------

    def _read_on(self) -> None:
        """Read from the sender, where there is a reason to: it has not ended, and what it sends has a place to go."""
        ended = self._source_ended or self._source.fileno() < 0
        if not self._reading and not ended and (self._lossy or not self._paused):
            self._reading = True
            self._loop.add_reader(self._source, self._readable)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._source)

    def _readable(self) -> None:
        try:
            data = self._source.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._source_ended = True
            self._stop_reading()
            if not self._lossy:
                self._link.broken()
            return
        self.bytes_in += len(data)
        if not data:
            self._source_ended = True
            self._stop_reading()
        if self._lossy:
            return
        due = self._loop.time() + self._delay
        pieces = torn(data, self._rng) if self._tearing and data else [data]
        self._transit.extend((due, piece) for piece in pieces)
        self._held += len(data)
        if self._held > HELD_BYTES:
            self._stop_reading()
        if self._handle is None:
            self._pump()

    def _pump(self) -> None:
        """Hand over what is due; of torn input one piece, and the next when that one has been read."""
        self._stop_pumping()
        while self._transit and not self._paused:
            due, piece = self._transit[0]
            if due > self._loop.time():
                self._handle = self._loop.call_at(due, self._pump)
                return
            if not piece:
                self._transit.clear()
                self._end()
                return
            try:
                sent = self._sink.send(piece)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sink, self._pump)
                return
            except OSError:
                self.drop()  # the receiver has gone; how, the other flow will see
                return
            self.bytes_out += sent
            self._held -= sent
            if sent == len(piece):
                self._transit.popleft()
            else:
                self._transit[0] = due, piece[sent:]
            if self._held <= HELD_BYTES // 2:
                self._read_on()
            if self._tearing:
                self._handle = self._loop.call_soon(self._next_turn)
                return

    def _next_turn(self) -> None:
        self._handle = self._loop.call_soon(self._pump)

    def _stop_pumping(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._sink.fileno() >= 0 and not self._loop.is_closed():
            self._loop.remove_writer(self._sink)

    def _end(self) -> None:
        if not self._sink_ended:
            self._sink_ended = True
            with contextlib.suppress(OSError):  # it has gone already
                self._sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Relay no more. For the link."""
        self._stop_reading()
        self._stop_pumping()
        self._transit.clear()
        self._lossy = True


class Link:
    """Relays bytes both ways between two ends, and fails when told to. For a running loop; ``with`` closes it.

    ::

        with Link() as link:
            async with pair(handler, link=link) as (client, server):
                link.tear(seed)  # or delay, pause, drop, cut, reset, half_open

    - ``client``, ``server``: the two ends' sockets, each for whoever plays that side, who owns it from then on.
    - ``to_client``, ``to_server``: the two directions, for a fault in one of them alone.
    - `tcp`: whether the ends are TCP sockets on the loopback, which `reset` needs, in place of ``socket.socketpair()``.
    - `between`: two connected sockets to relay between, the client's side and the server's, in place of new ones; they
      are the link's, then.
    """

    def __init__(self, *, tcp: bool = False, between: tuple[socket.socket, socket.socket] | None = None) -> None:
        self._ends: tuple[socket.socket, socket.socket] | None = None
        if between is None:
            client, near = _connected(tcp)
            far, server = _connected(tcp)
            self._ends = client, server
        else:
            near, far = between
        for sock in (near, far):
            sock.setblocking(False)
        self._sockets = near, far
        self.to_server = Flow(self, near, far)
        self.to_client = Flow(self, far, near)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Link to_server={self.to_server!r} to_client={self.to_client!r}>"

    @property
    def client(self) -> socket.socket:
        """The client's end. Raises LocalError for a link between given sockets."""
        return self._outer()[0]

    @property
    def server(self) -> socket.socket:
        """The server's end. Raises LocalError for a link between given sockets."""
        return self._outer()[1]

    def _outer(self) -> tuple[socket.socket, socket.socket]:
        if self._ends is None:
            raise LocalError("a link between given sockets has no ends of its own")
        return self._ends

    @property
    def passing(self) -> bool:
        """Whether what is sent will arrive, both ways, however late."""
        return self.to_server.passing and self.to_client.passing

    # -- faults, both ways ---------------------------------------------------------------------------------------

    def tear(self, seed: int | None = None) -> None:
        """Hand over every byte by itself, or random pieces from `seed`."""
        self.to_server.tear(seed)
        self.to_client.tear(seed)

    def delay(self, seconds: float) -> None:
        """From now on each byte arrives so many seconds after it was sent, in order; 0 for at once.

        Raises LocalError for what is no number of 0 or more.
        """
        self.to_server.delay(seconds)
        self.to_client.delay(seconds)

    def pause(self) -> None:
        """Take and hand over nothing until `resume`: nothing is lost, and soon the senders have to wait."""
        self.to_server.pause()
        self.to_client.pause()

    def resume(self) -> None:
        """Go on after `pause`."""
        self.to_server.resume()
        self.to_client.resume()

    def drop(self) -> None:
        """A black hole: nothing passes any more, and nobody is told. For good."""
        self.to_server.drop()
        self.to_client.drop()

    def cut(self) -> None:
        """Tell both ends the other's end (FIN). What is in transit is lost."""
        self.to_server.cut()
        self.to_client.cut()

    def half_open(self, gone: Side) -> None:
        """The connection of the end called `gone` is over (it sees FIN), and the other end is not told (RFC 9293
        §3.5.1): what that one sends vanishes, as if the machine at the other end had been switched off.

        Raises LocalError for another name than "client" or "server".
        """
        if gone not in ("client", "server"):
            raise LocalError(f"half_open({gone!r}): expected 'client' or 'server'")
        to_gone, from_gone = self.to_client, self.to_server
        if gone == "server":
            to_gone, from_gone = from_gone, to_gone
        to_gone.cut()
        from_gone.drop()

    def reset(self) -> None:
        """End TCP with RST at both ends. What is in transit is lost.

        Raises LocalError where the ends are not TCP sockets: a Unix socket has no RST.
        """
        if any(sock.family == socket.AF_UNIX for sock in self._sockets):
            raise LocalError("reset() on Unix sockets, which have no RST: expected Link(tcp=True)")
        self._close(reset=True)

    # -- the end -------------------------------------------------------------------------------------------------

    def broken(self) -> None:
        """One of the ends has reset its connection, and the other is told. For the flows."""
        if any(sock.family == socket.AF_UNIX for sock in self._sockets):
            self.cut()
        else:
            self.reset()

    def close(self) -> None:
        """Relay no more, and close the link's sockets; the ends see FIN. Harmless when called again."""
        self._close(reset=False)

    def _close(self, *, reset: bool) -> None:
        self.to_server.close()
        self.to_client.close()
        for sock in self._sockets:
            if reset and sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()


def _connected(tcp: bool) -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    if not tcp:
        return socket.socketpair()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for sock in (one, other):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other
