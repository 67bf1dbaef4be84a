"""Header fields: RFC 9110 §5 for reading and writing, RFC 6265 for cookies."""

from __future__ import annotations

import pytest

from portico.errors import LocalError
from portico.wire.headers import Headers, check_name, check_value, encode_headers, parse_cookies

RAW = [(b"host", b"a"), (b"x-many", b"one"), (b"x-many", b"two"), (b"connection", b"Keep-Alive, ,\tUpgrade,")]


def test_names_are_found_in_any_case() -> None:
    headers = Headers(RAW)
    assert headers["HOST"] == "a"
    assert "hOsT" in headers
    assert "cookie" not in headers
    assert 5 not in headers


def test_a_name_with_several_lines_has_a_first_value_and_all_values_in_order() -> None:
    headers = Headers(RAW)
    assert headers.get("X-Many") == "one"
    assert headers.get_all("X-Many") == ["one", "two"]
    assert headers.get_all("nothing") == []


def test_a_missing_name_is_a_key_error_that_names_it_or_the_default() -> None:
    headers = Headers(RAW)
    with pytest.raises(KeyError, match="Cookie"):
        headers["Cookie"]
    assert headers.get("Cookie") is None
    assert headers.get("Cookie", "none") == "none"


def test_a_name_that_no_header_can_have_is_just_missing() -> None:
    assert Headers(RAW).get("x-☃") is None


def test_lines_come_back_in_order() -> None:
    headers = Headers(RAW)
    assert list(headers) == list(headers.items())
    assert next(headers.items()) == ("host", "a")
    assert len(headers) == 4


def test_values_are_iso_8859_1() -> None:
    assert Headers([(b"x", b"caf\xe9")])["x"] == "café"


def test_tokens_are_lower_case_and_empty_members_are_ignored() -> None:  # RFC 9110 §5.6.1
    assert Headers(RAW).tokens("Connection") == ["keep-alive", "upgrade"]
    assert Headers([(b"a", b"x"), (b"a", b"y, z")]).tokens("a") == ["x", "y", "z"]
    assert Headers([(b"a", b"")]).tokens("a") == []


def test_a_megabyte_of_commas_and_spaces_is_an_empty_list() -> None:
    assert Headers([(b"a", b", " * 500_000)]).tokens("a") == []
    assert Headers([(b"a", b" " * 1_000_000 + b"x")]).tokens("a") == ["x"]


@pytest.mark.parametrize(
    ("line", "cookies"),
    [
        ("a=1; b=2", {"a": "1", "b": "2"}),
        ("a=1;b=2;", {"a": "1", "b": "2"}),
        ('a="quoted"; b=""', {"a": "quoted", "b": ""}),
        ("a=x=y==", {"a": "x=y=="}),
        ("a=first; a=second", {"a": "first"}),
        ("lonely; =value; a=1", {"a": "1"}),
        ('a="', {"a": '"'}),
        ("", {}),
    ],
)
def test_cookies(line: str, cookies: dict[str, str]) -> None:  # RFC 6265 §4.2.1, §5.4
    assert parse_cookies([line]) == cookies


def test_cookies_of_several_lines_are_one_set() -> None:
    assert parse_cookies(["a=1", "b=2; a=3"]) == {"a": "1", "b": "2"}


def test_a_cookie_line_of_64_kib_is_read_whole() -> None:
    assert parse_cookies(["; " * 32_768 + "a=1"]) == {"a": "1"}
    assert parse_cookies(["a=" + '"' * 65_536]) == {"a": '"' * 65_534}
    assert len(parse_cookies([";".join(f"n{i}=v" for i in range(8_000))])) == 8_000


@pytest.mark.parametrize("name", ["", "a b", "a:", "a\r\nb", "a\n", "ü", "(a)", b"a\x00", "a\t"])
def test_a_name_that_is_no_token_is_refused(name: str | bytes) -> None:  # RFC 9110 §5.1
    with pytest.raises(LocalError, match="token"):
        check_name(name)


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: x", "a\n", "\r", "a\x00b", b"a\x1b", "a\x7f"])
def test_a_value_with_a_control_character_is_refused(value: str | bytes) -> None:  # RFC 9110 §5.5
    with pytest.raises(LocalError, match="control character"):
        check_value(value)


def test_a_value_beyond_iso_8859_1_is_refused_by_name() -> None:
    with pytest.raises(LocalError, match="ISO-8859-1"):
        check_value("☃")


def test_headers_are_written_as_lines() -> None:
    assert encode_headers([("A", "b"), (b"C", b"d\te")]) == b"A: b\r\nC: d\te\r\n"
    assert encode_headers([]) == b""
