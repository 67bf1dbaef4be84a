"""How log records are written: readable lines for a terminal, JSON lines for a collector.

Whatever a record holds, it can't forge another one: control characters are escaped in both formats, and what goes on
over several lines, as a traceback does, is indented in the one and one JSON string in the other. Imports no room.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from contextlib import suppress
from typing import Any, Final, Literal, TextIO

import msgspec

Format = Literal["text", "json"]

_PLAIN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "fields"}
_COLOURS: Final = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
_NAMED: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# What a terminal may obey and JSON lets through, besides DEL: controls from U+0080 on, what turns text's direction.
_OBEYED: Final = re.compile("[\x80-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_encoder: Final = msgspec.json.Encoder(enc_hook=repr)


def visible(text: str) -> str:
    """`text` in one line, with an escape like ``\\x1b`` in the place of everything that is no printable character."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _NAMED.get(c) or _escape(c) for c in text)


def _escape(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def indented(text: str) -> str:
    """`text` of several lines, of which each but the first begins with four spaces and holds no control character."""
    return "\n    ".join(visible(line.expandtabs(4)) for line in text.splitlines())


def json_lines(items: list[dict[str, Any]]) -> str:
    """Each of `items` as one line of JSON; what JSON has no word for is written as its `repr`."""
    try:
        text = _encoder.encode_lines(items).decode()
    except (TypeError, ValueError, RecursionError):  # keys that are no strings, lone surrogates, cycles
        plain = [{str(name): visible(_shown(value)) for name, value in item.items()} for item in items]
        text = _encoder.encode_lines(plain).decode()
    if not text.isascii():
        text = _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    return text.replace("\x7f", "\\u007f")


def _shown(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


class Clock:
    """Log times as text, each second formatted once."""

    def __init__(self) -> None:
        self._local = self._utc = (-1, "")

    def local(self, when: float) -> str:
        """As in ``2026-01-31 23:59:59.123``, in the machine's own time zone."""
        second = int(when)
        if self._local[0] != second:
            self._local = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._local[1]}.{int(when % 1 * 1000):03d}"

    def utc(self, when: float) -> str:
        """As in ``2026-01-31T22:59:59.123Z`` (RFC 3339)."""
        second = int(when)
        if self._utc[0] != second:
            self._utc = second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._utc[1]}.{int(when % 1 * 1000):03d}Z"


CLOCK: Final = Clock()


class TextFormatter(logging.Formatter):
    """``2026-01-31 23:59:59.123 INFO    portico.server  message``, with a traceback below, indented.

    `colours`: whether the level is coloured, as a terminal shows it.
    """

    def __init__(self, *, colours: bool = False) -> None:
        super().__init__()
        self.colours = colours

    def begin(self, when: float, level: str, name: str) -> str:
        """What stands before a message."""
        if self.colours:
            return f"\x1b[2m{CLOCK.local(when)}\x1b[0m \x1b[{_COLOURS.get(level, '0')}m{level:7}\x1b[0m {name}  "
        return f"{CLOCK.local(when)} {level:7} {name}  "

    def format(self, record: logging.LogRecord) -> str:
        text = indented(record.getMessage())
        if record.exc_info:
            text += "\n    " + indented(self.formatException(record.exc_info))
        if record.stack_info:
            text += "\n    " + indented(record.stack_info)
        return self.begin(record.created, visible(record.levelname), visible(record.name)) + text


class JsonFormatter(logging.Formatter):
    """One JSON object: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``, then what was given as
    ``extra={…}``, then ``exception`` (the traceback as one string) where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        item: dict[str, Any] = {
            "time": CLOCK.utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        item |= getattr(record, "fields", {})
        item |= {name: value for name, value in record.__dict__.items() if name not in _PLAIN}
        if record.exc_info:
            item["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            item["stack"] = record.stack_info
        return json_lines([item])[:-1]


class Handler(logging.Handler):
    """Writes records to `stream` (stderr), in one write each, or many lines at once with `write`."""

    formatter: TextFormatter | JsonFormatter

    def __init__(self, formatter: TextFormatter | JsonFormatter, stream: TextIO | None = None) -> None:
        super().__init__()
        self.formatter = formatter
        self._stream = stream  # None: whatever sys.stderr is at the moment; it escapes what its encoding has not

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.formatter.format(record) + "\n"
        except Exception:  # a message that doesn't fit its arguments: logging says where that is
            self.handleError(record)
        else:
            self.write(text)

    def write(self, lines: str) -> None:
        """Write `lines`, which are whole. Where nobody reads them any more, they are lost, and nothing else is."""
        stream = self._stream or sys.stderr
        self.acquire()
        try:
            with suppress(OSError, ValueError):  # closed at the other end, or at ours
                stream.write(lines)
                stream.flush()
        finally:
            self.release()


def formatter(kind: Format | Literal["auto"], stream: TextIO) -> TextFormatter | JsonFormatter:
    """The formatter of `kind` for `stream`; "auto" is text on a terminal and JSON elsewhere.

    Text is coloured on a terminal, unless ``NO_COLOR`` is set (https://no-color.org) or ``TERM`` is "dumb".
    """
    terminal = stream.isatty()
    if kind == "json" or (kind == "auto" and not terminal):
        return JsonFormatter()
    return TextFormatter(colours=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")


def set_up(kind: Format | Literal["auto"], level: str) -> None:
    """Let the root logger write what is at `level` or above to stderr, in the format `kind`; warnings too."""
    root = logging.getLogger()
    root.addHandler(Handler(formatter(kind, sys.stderr)))
    root.setLevel(level.upper())
    logging.captureWarnings(True)
