"""Server-Sent Events as they go on the wire (WHATWG HTML §9.2.5, §9.2.6), sans I/O: blocks of fields, in UTF-8.

Nothing that is put into a field can begin another one: what would end a line is taken out.
"""

from __future__ import annotations

from typing import Final

CONTENT_TYPE: Final = b"text/event-stream"
COMMENT: Final = b":\n\n"  # dispatches nothing; it shows that the connection lives


def block(event: str, data: bytes) -> bytes:
    """An event without its id: its type, and `data`, which is JSON. To be put behind `identity`."""
    return b"event: %b\ndata: %b\n\n" % (_line(event).encode("utf-8", "replace"), _one_line(data))


def identity(id: str) -> bytes:
    """The field that says how far a stream has come: what ``Last-Event-ID`` names. No NUL may be in it (§9.2.6)."""
    return b"id: %b\n" % _line(id).replace("\0", "").encode("utf-8", "replace")


def retry(milliseconds: int) -> bytes:
    """The field that says how long to wait before coming back."""
    return b"retry: %d\n" % milliseconds


def _line(text: str) -> str:
    """`text` with a space for each character that would end a line."""
    if "\n" in text or "\r" in text:
        return text.replace("\r", " ").replace("\n", " ")
    return text


def _one_line(json: bytes) -> bytes:
    """The same for JSON, where such characters only stand between its tokens."""
    if b"\n" in json or b"\r" in json:
        return json.replace(b"\r", b" ").replace(b"\n", b" ")
    return json
