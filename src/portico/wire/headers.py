"""Header fields: reading a head's lines by name, and writing lines that can't split a message.

Owns the checks of RFC 9110 §5 for names and values. Reading is linear in the text, whatever the peer sent. Nothing here
decides what a field means for a connection: that is `http1` and `handshake`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from portico.errors import LocalError

Raw = list[tuple[bytes, bytes]]
"""A head's lines as they came: names in lower case, values without the white space around them."""

HeaderLines = Iterable[tuple[str | bytes, str | bytes]]
"""Lines that an application wants to be sent."""

TOKEN_CHARS = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
_NAME = re.compile(rb"[" + TOKEN_CHARS + rb"]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_TOKEN = re.compile(r"[" + TOKEN_CHARS.decode() + r"]+")


class Headers:
    """The fields of a head: read-only, names in any case, a name may have several values.

    ``headers["name"]`` and ``get`` give the first value of a name, ``get_all`` every one. Text is ISO-8859-1, as it is
    on the wire (RFC 9110 §5.5).
    """

    __slots__ = ("raw",)

    def __init__(self, raw: Raw) -> None:
        self.raw = raw

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of `name`, or `default`."""
        wanted = _wanted(name)
        for each, value in self.raw:
            if each == wanted:
                return value.decode("latin-1")
        return default

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, one for each line, in the order they came."""
        wanted = _wanted(name)
        return [value.decode("latin-1") for each, value in self.raw if each == wanted]

    def tokens(self, name: str) -> list[str]:
        """The members of the comma lists in all lines of `name`, in lower case; empty ones don't count
        (RFC 9110 §5.6.1)."""
        wanted = _wanted(name)
        return [token.decode("latin-1") for each, value in self.raw if each == wanted for token in split_tokens(value)]

    def items(self) -> Iterator[tuple[str, str]]:
        """Every line as name and value, in the order they came."""
        return ((name.decode("latin-1"), value.decode("latin-1")) for name, value in self.raw)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return self.items()

    def __getitem__(self, name: str) -> str:
        value = self.get(name)
        if value is None:
            raise KeyError(name)
        return value

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"

    def __eq__(self, other: object) -> bool:
        return self.raw == other.raw if isinstance(other, Headers) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # equal by value, over a list


def _wanted(name: str) -> bytes:
    # A name that ISO-8859-1 can't write is in no head; "?" keeps the look-up from raising.
    return name.lower().encode("latin-1", "replace")


def split_tokens(value: bytes) -> list[bytes]:
    """The members of one comma list, in lower case, without empty ones (RFC 9110 §5.6.1)."""
    if b"," not in value:
        token = value.strip(b" \t").lower()
        return [token] if token else []
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]


def is_token(text: str) -> bool:
    """Whether `text` is a token (RFC 9110 §5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def parse_cookies(header_values: Iterable[str]) -> dict[str, str]:
    """The cookies in these values of ``Cookie`` lines, read as servers do (RFC 6265 §4.2.1, leniently).

    Of two with one name the first counts: the more specific path is sent first (RFC 6265 §5.4). The double quotes
    around a value are removed; a part without ``=`` is ignored.
    """
    cookies: dict[str, str] = {}
    for line in header_values:
        for part in line.split(";"):
            name, equals, value = part.partition("=")
            name = name.strip()
            if equals and name and name not in cookies:
                value = value.strip()
                if len(value) >= 2 and value[0] == value[-1] == '"':
                    value = value[1:-1]
                cookies[name] = value
    return cookies


def check_name(name: str | bytes) -> bytes:
    """`name` as bytes; raises LocalError where it is not a token (RFC 9110 §5.1)."""
    try:
        raw = name.encode("ascii") if isinstance(name, str) else bytes(name)
    except UnicodeEncodeError:
        raw = b""
    if _NAME.fullmatch(raw) is None:
        raise LocalError(f"header name {name!r}: expected a token (RFC 9110 §5.1): letters, digits and !#$%&'*+-.^_`|~")
    return raw


def check_value(value: str | bytes) -> bytes:
    """`value` as bytes; raises LocalError where it has a control character, so that no value can end its line
    and begin another (RFC 9110 §5.5)."""
    try:
        raw = value.encode("latin-1") if isinstance(value, str) else bytes(value)
    except UnicodeEncodeError:
        raise LocalError(f"header value {value!r}: expected characters of ISO-8859-1; encode others first") from None
    if _VALUE.fullmatch(raw) is None:
        raise LocalError(f"header value {value!r}: expected no CR, LF, NUL or other control character")
    return raw


def encode_headers(headers: HeaderLines) -> bytes:
    """These lines as they go on the wire, each ended by CRLF; raises LocalError as `check_name` and `check_value`."""
    return b"".join([b"%b: %b\r\n" % (check_name(name), check_value(value)) for name, value in headers])
