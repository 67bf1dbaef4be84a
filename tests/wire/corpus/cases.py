"""The corpus of requests beside this file, read: what is sent, and what has to become of it. README.md says how."""

from __future__ import annotations

import pathlib
import re
import tomllib
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)

_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|\{([0-9]+)\*((?:\\\{[^{}]*\}|[^{}])*)\}|([rnt\\]))|(\\)")
_PLAIN = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}
_REQUEST_LINE = re.compile(rb"(?:\r\n)*([^\r\n]+)\r\n")


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request, or several in a row; README.md explains the fields."""

    group: str
    name: str
    status: int
    sent: bytes
    see: str
    says: str = ""
    why: str = ""
    stage: str = "head"
    requests: int = 0
    closes: bool = False
    upgrade: int = 0
    body: bytes | None = None

    @property
    def id(self) -> str:
        return f"{self.group}: {self.name}"

    @property
    def accepted(self) -> bool:
        return self.status == 200

    @property
    def switching(self) -> bytes | None:
        """The same malformed or odd lines in a request to switch to WebSocket; None where that makes no sense."""
        line = _REQUEST_LINE.match(self.sent)
        if not self.upgrade or line is None:
            return None
        first = self.sent[: line.start(1)] + re.sub(rb"\APOST ", b"GET ", line[1]) + b"\r\n"
        return first + UPGRADE + self.sent[line.end() :]


def unescape(text: str) -> bytes:
    r"""The bytes that `text` stands for: ``\r \n \t \\ \x00`` and ``\{3*ab}``, which is ab three times. A line's end in
    the file stands for nothing."""
    found = bytearray()
    at = 0
    text = text.replace("\n", "")
    for match in _ESCAPE.finditer(text):
        found += text[at : match.start()].encode("ascii")
        at = match.end()
        octet, count, repeated, plain, unknown = match.groups()
        if unknown:
            raise ValueError(f"unknown escape in {text[match.start() : at + 10]!r}")
        if octet:
            found.append(int(octet, 16))
        elif count:
            found += int(count) * unescape(repeated)
        else:
            found += _PLAIN[plain]
    return bytes(found + text[at:].encode("ascii"))


def _case(group: str, name: str, fields: dict[str, object]) -> Case:
    for key in ("sent", "body"):
        if key in fields:
            fields[key] = unescape(str(fields[key]))
    accepted = fields["status"] == 200
    fields.setdefault("requests", int(accepted))
    if "upgrade" not in fields:
        first = re.match(rb"(?:\r\n)*(?:GET|POST) \S+ HTTP/1\.1\r\n", fields["sent"])  # type: ignore[arg-type]
        framed = "body" in fields or fields.get("stage") == "body"  # a request to switch has no body
        fields["upgrade"] = 400 if framed else fields["status"] if not accepted else 101 if first else 0
    return Case(group=group, name=name, **fields)  # type: ignore[arg-type]


def read() -> list[Case]:
    """Every case, by file and in the order of each file."""
    cases = []
    for path in sorted(HERE.glob("*.toml")):
        group = tomllib.loads(path.read_text(encoding="utf-8"))
        default = {key: value for key, value in group.items() if not isinstance(value, dict) and key != "about"}
        named = {name: fields for name, fields in group.items() if isinstance(fields, dict)}
        cases += [_case(path.stem, name, {**default, **fields}) for name, fields in named.items()]
    return cases


CASES = read()
