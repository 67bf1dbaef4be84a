"""The formats in which Socket.IO packets are written: ``"json"``, which every client speaks, and ``"msgpack"``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from portico.errors import LocalError
from portico.wire import msgpackets, socketio

Name = Literal["json", "msgpack"]
Decoder = socketio.Decoder | msgpackets.Decoder


class Format:
    """One of them. ``encode`` makes a packet: the text of an Engine.IO message, empty for none, and the binary messages
    after it. ``whole``: each packet is one binary message."""

    __slots__ = ("_decoder", "encode", "name", "whole")

    def __init__(self, name: Name, encode: Callable[..., tuple[bytes, list[bytes]]], *, whole: bool) -> None:
        self.name = name
        self.encode = encode
        self.whole = whole
        self._decoder = msgpackets.Decoder()

    def decoder(self, max_bytes: int) -> Decoder:
        """What puts the packets of one session together, of at most `max_bytes` each."""
        return self._decoder if self.whole else socketio.Decoder(max_bytes)

    def event(self, namespace: str, id: int | None, json: bytes, attachments: list[bytes]) -> tuple[bytes, list[bytes]]:
        """An event whose name and arguments were encoded already, by `socketio.encode_args`."""
        if self.whole:
            return self.encode(socketio.EVENT, namespace, id, socketio.decode_args(json, attachments))
        return socketio.head(socketio.EVENT, namespace, id, len(attachments)) + json, attachments


JSON: Final = Format("json", socketio.encode, whole=False)
MSGPACK: Final = Format("msgpack", msgpackets.encode, whole=True)
_BY_NAME: Final = {"json": JSON, "msgpack": MSGPACK}


def format_named(name: Any, whose: str) -> Format:
    """The format `name`; raises LocalError, in the name of `whose`, where there is none."""
    found = _BY_NAME.get(name) if isinstance(name, str) else None
    if found is None:
        raise LocalError(f"{whose}(packets={name!r}): expected 'json' or 'msgpack'")
    return found
