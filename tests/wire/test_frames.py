"""How frames are written, and the payload of close frames (RFC 6455 §5.2, §5.5.1, §5.7, §7.4)."""

from __future__ import annotations

import pytest
from tests.wire import raw

from portico.errors import LocalError, ProtocolError
from portico.wire import frames
from portico.wire.frames import close_payload, encode_frame, encode_masked_frame, parse_close

SENDABLE = [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999]
NOT_SENDABLE = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535]

LENGTHS = [
    (0, b"\x82\x00"),
    (1, b"\x82\x01"),
    (125, b"\x82\x7d"),
    (126, b"\x82\x7e\x00\x7e"),
    (255, b"\x82\x7e\x00\xff"),
    (256, b"\x82\x7e\x01\x00"),
    (65535, b"\x82\x7e\xff\xff"),
    (65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
]


@pytest.mark.parametrize(("length", "header"), LENGTHS)
def test_a_length_is_written_in_its_shortest_form_in_network_byte_order(length: int, header: bytes) -> None:  # §5.2
    payload = bytes(i & 0xFF for i in range(length))
    assert encode_frame(0x82, payload) == header + payload


@pytest.mark.parametrize(("length", "header"), LENGTHS)
def test_a_masked_frame_has_the_same_length_the_mask_bit_and_the_key(length: int, header: bytes) -> None:  # §5.2, §5.3
    payload = bytes(i & 0xFF for i in range(length))
    masked = bytes((header[0], header[1] | 0x80)) + header[2:] + b"\x37\xfa\x21\x3d"
    assert encode_masked_frame(0x82, payload, 0x37FA213D) == masked + raw.mask(payload)


def test_the_first_byte_is_written_as_given() -> None:  # §5.2
    for first in range(256):
        assert encode_frame(first, b"x") == bytes((first, 1, 120))
        assert encode_masked_frame(first, b"", 1) == bytes((first, 0x80, 0, 0, 0, 1))


def test_the_examples_of_the_rfc() -> None:  # §5.7
    assert encode_frame(0x81, b"Hello") == bytes.fromhex("810548656c6c6f")
    assert encode_masked_frame(0x81, b"Hello", 0x37FA213D) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert encode_frame(0x01, b"Hel") + encode_frame(0x80, b"lo") == bytes.fromhex("010348656c80026c6f")
    assert encode_frame(0x89, b"Hello") == bytes.fromhex("890548656c6c6f")
    assert encode_masked_frame(0x8A, b"Hello", 0x37FA213D) == bytes.fromhex("8a8537fa213d7f9f4d5158")
    assert encode_frame(0x82, bytes(256))[:4] == bytes.fromhex("827e0100")
    assert encode_frame(0x82, bytes(65536))[:10] == bytes.fromhex("827f0000000000010000")


def test_the_ready_made_headers_are_those_of_whole_messages() -> None:  # §5.2
    assert [header + b"x" * i for i, header in enumerate(frames.TEXT_HEADERS)] == [
        encode_frame(0x81, b"x" * i) for i in range(126)
    ]
    assert [header + b"x" * i for i, header in enumerate(frames.BINARY_HEADERS)] == [
        encode_frame(0x82, b"x" * i) for i in range(126)
    ]


@pytest.mark.parametrize("code", SENDABLE)
def test_a_close_payload_is_the_code_in_network_byte_order_and_the_reason(code: int) -> None:  # §5.5.1
    assert close_payload(code, "why") == code.to_bytes(2, "big") + b"why"
    assert close_payload(code) == code.to_bytes(2, "big")
    assert parse_close(close_payload(code, "warum: ß €")) == (code, "warum: ß €")


@pytest.mark.parametrize("code", [*NOT_SENDABLE[:6], *NOT_SENDABLE[7:], -1, 65536, 1 << 40])
def test_a_code_that_must_not_be_sent_is_refused(code: int) -> None:  # §7.4.1, §7.4.2
    with pytest.raises(LocalError, match=f"close code {code}: expected 1000-1003"):
        close_payload(code, "x")


@pytest.mark.parametrize("code", [1006, 1015])
def test_the_reserved_codes_are_refused_without_a_reason_too(code: int) -> None:  # §7.4.1
    with pytest.raises(LocalError):
        close_payload(code)


def test_1005_stands_for_an_empty_payload_and_has_no_reason() -> None:  # §7.4.1
    assert close_payload(1005) == b""
    with pytest.raises(LocalError):
        close_payload(1005, "x")


def test_a_reason_has_at_most_123_bytes_of_utf_8() -> None:  # §5.5: 125 with the code
    assert len(close_payload(1000, "x" * 123)) == 125
    assert len(close_payload(1000, "€" * 41)) == 125
    for reason in ("x" * 124, "€" * 41 + "x", "€" * 42):
        with pytest.raises(LocalError, match="expected at most 123 bytes"):
            close_payload(1000, reason)


def test_a_reason_that_utf_8_can_not_hold_is_refused() -> None:  # §5.5.1
    with pytest.raises(LocalError, match="UTF-8"):
        close_payload(1000, "\ud800")


def test_an_empty_close_payload_means_1005() -> None:  # §7.1.5
    assert parse_close(b"") == (1005, "")


@pytest.mark.parametrize("payload", [b"\x00", b"\x03", b"\xff"])
def test_a_close_payload_of_one_byte_is_a_protocol_error(payload: bytes) -> None:  # §5.5.1: a 2-byte integer
    with pytest.raises(ProtocolError) as caught:
        parse_close(payload)
    assert caught.value.close_code == 1002


def test_every_code_is_accepted_or_refused_as_the_registry_says() -> None:  # §7.4.1, §7.4.2, IANA
    allowed = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}
    for code in range(65536):
        if code in allowed:
            assert parse_close(code.to_bytes(2, "big")) == (code, "")
        else:
            with pytest.raises(ProtocolError) as caught:
                parse_close(code.to_bytes(2, "big"))
            assert caught.value.close_code == 1002


@pytest.mark.parametrize("reason", [b"\xff", b"ok \xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_a_close_reason_that_is_not_utf_8_is_refused_with_1007(reason: bytes) -> None:  # §5.5.1, §8.1
    with pytest.raises(ProtocolError) as caught:
        parse_close(b"\x03\xe8" + reason)
    assert caught.value.close_code == 1007
