"""WebSocket close codes (RFC 6455 §7.4) and how a connection ended."""

from __future__ import annotations

from typing import Final, Literal

NORMAL: Final = 1000
GOING_AWAY: Final = 1001
PROTOCOL_ERROR: Final = 1002
UNSUPPORTED_DATA: Final = 1003
NO_STATUS: Final = 1005  # reserved: the peer's close frame carried no code
ABNORMAL: Final = 1006  # reserved: the connection ended without a close frame
INVALID_PAYLOAD: Final = 1007
POLICY_VIOLATION: Final = 1008
MESSAGE_TOO_BIG: Final = 1009
MANDATORY_EXTENSION: Final = 1010
INTERNAL_ERROR: Final = 1011
SERVICE_RESTART: Final = 1012
TRY_AGAIN_LATER: Final = 1013
BAD_GATEWAY: Final = 1014

MEANINGS: Final = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status received",
    1006: "abnormal closure",
    1007: "invalid payload",
    1008: "policy violation",
    1009: "message too big",
    1010: "mandatory extension",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake",
}

By = Literal["peer", "us", "network"]


def may_be_sent(code: int) -> bool:
    """Whether `code` may stand in a close frame: 1000-1003, 1007-1014 and 3000-4999 (RFC 6455 §7.4.2, IANA)."""
    return 3000 <= code <= 4999 or 1000 <= code <= 1003 or 1007 <= code <= 1014


class Close:
    """How a WebSocket connection ended.

    - ``code``: the close code; 1005 where the peer's close frame had none, 1006 where no close frame came.
    - ``reason``: the text beside the code, at most 123 bytes of UTF-8.
    - ``clean``: whether both close frames were exchanged (RFC 6455 §7.1.4).
    - ``by``: who began: ``"peer"``, ``"us"`` or ``"network"`` (TCP ended first).
    - ``cause``: the exception behind it, or None.
    """

    __slots__ = ("by", "cause", "clean", "code", "reason")

    def __init__(
        self,
        code: int,
        reason: str = "",
        *,
        clean: bool = False,
        by: By = "network",
        cause: BaseException | None = None,
    ) -> None:
        self.code = code
        self.reason = reason
        self.clean = clean
        self.by: By = by
        self.cause = cause

    def __str__(self) -> str:
        meaning = MEANINGS.get(self.code, "application's own code" if self.code >= 3000 else "unknown code")
        reason = f": {self.reason}" if self.reason else ""
        how = "" if self.clean else ", not cleanly"
        return f"{self.code} ({meaning}{how}, by {self.by}){reason}"

    def __repr__(self) -> str:
        return f"Close({self.code}, {self.reason!r}, clean={self.clean}, by={self.by!r}, cause={self.cause!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Close):
            return NotImplemented
        return (self.code, self.reason, self.clean, self.by) == (other.code, other.reason, other.clean, other.by)

    def __hash__(self) -> int:
        return hash((self.code, self.reason, self.clean, self.by))
