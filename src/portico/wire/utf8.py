"""UTF-8 as it arrives (RFC 3629; RFC 6455 §8.1): a bad byte is refused when it comes, not at the message's end."""

from __future__ import annotations

from codecs import utf_8_decode


def check_piece(pending: bytes, piece: bytes) -> bytes:
    """Check `piece`, which follows the unfinished code point `pending` (b"" at first).

    Returns the unfinished code point at the end, at most three bytes, to be passed in with the next piece; at the end
    of the text it has to be empty. Raises UnicodeDecodeError at the first byte that no valid text could have there.
    """
    data = pending + piece if pending else piece
    used = utf_8_decode(data, "strict", False)[1]
    rest = data[used:]
    if len(rest) == 2 and rest[0] == 0xED and rest[1] >= 0xA0:  # half of a surrogate, for which Python would wait
        raise UnicodeDecodeError("utf-8", data, used, used + 1, "invalid continuation byte")
    return rest
