"""How log records are written: readable or JSON, and nothing that a peer sends can forge a line or steer a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portico import logs

HOSTILE = [
    "\x1b[2J\r\n2026-01-31 23:59:59.123 INFO    portico.access  forged",  # CVE-2020-7694's
    "\x00\x07\x08\x7f\x9b31m",
    "right to left: \u202e\u2066",
    "new lines: \n\v\f\x1c\x85\u2028\u2029end",
]


def record(message: str, *arguments: Any, level: int = logging.INFO, **given: Any) -> logging.LogRecord:
    made = logging.getLogger("shop").makeRecord("shop", level, "shop.py", 1, message, arguments, None, extra=given)
    made.created = 1_750_000_000.5
    return made


def failed(text: str) -> logging.LogRecord:
    """A record with the traceback of a ValueError that says `text`."""
    made = record("it failed", level=logging.ERROR)
    try:
        raise ValueError(text)
    except ValueError as error:
        made.exc_info = (ValueError, error, error.__traceback__)
    return made


def obeyed(text: str) -> list[str]:
    """The characters in `text` that a terminal may act on."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") or c in "\u202e\u2066"]


class TestText:
    def test_a_line_has_time_level_logger_and_message(self) -> None:
        line = logs.TextFormatter().format(record("%d pairs of %s", 2, "shoes"))
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.500 INFO    shop  2 pairs of shoes", line)

    @given(st.text() | st.sampled_from(HOSTILE))
    def test_no_message_has_a_control_character_or_a_line_at_the_margin(self, text: str) -> None:
        first, *others = logs.TextFormatter().format(record("%s", text)).split("\n")
        assert obeyed(first) == []
        assert all(line.startswith("    ") and obeyed(line) == [] for line in others)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_traceback_is_indented_and_escaped_too(self, text: str) -> None:
        first, *others = logs.TextFormatter().format(failed(text)).split("\n")
        assert first.endswith("it failed")
        assert any("ValueError" in line for line in others)
        assert all(line.startswith("    ") and obeyed(line) == [] for line in others)

    def test_what_was_escaped_is_seen(self) -> None:
        assert logs.visible("a\x1b\n\t\x9b\u2028\U000e0001é") == "a\\x1b\\n\\t\\x9b\\u2028\\U000e0001é"


class TestJson:
    def test_a_record_is_one_object_with_the_extras_that_it_was_given(self) -> None:
        line = logs.JsonFormatter().format(record("%d pairs", 2, size=43, level=logging.WARNING))
        assert json.loads(line) == {
            "time": "2025-06-15T15:06:40.500Z",
            "level": "warning",
            "logger": "shop",
            "message": "2 pairs",
            "size": 43,
        }

    @given(st.text(st.characters(exclude_categories=["Cs"])) | st.sampled_from(HOSTILE))
    def test_a_message_comes_back_as_it_was_and_stays_in_its_line(self, text: str) -> None:
        line = logs.JsonFormatter().format(record("%s", text))
        assert json.loads(line)["message"] == text
        assert obeyed(line) == []

    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_traceback_is_one_string(self, text: str) -> None:
        line = logs.JsonFormatter().format(failed(text))
        assert obeyed(line) == []
        assert json.loads(line)["exception"].startswith("Traceback (most recent call last):\n")
        assert text in json.loads(line)["exception"]

    @pytest.mark.parametrize(
        ("value", "written"),
        [
            ({1}, [1]),
            (object, "<class 'object'>"),
            ("\ud800", "\\ud800"),
            (b"\xff", "/w=="),
        ],
        ids=["set", "class", "lone surrogate", "bytes"],
    )
    def test_what_json_has_no_word_for_loses_no_line(self, value: object, written: object) -> None:
        found = json.loads(logs.JsonFormatter().format(record("here", value=value)))
        assert (found["message"], found["value"]) == ("here", written)

    def test_a_cycle_loses_no_line(self) -> None:
        cycle: list[Any] = []
        cycle.append(cycle)
        assert json.loads(logs.JsonFormatter().format(record("here", value=cycle)))["value"] == "[[...]]"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stream:
        yield stream
    os.close(ours)


class TestWhichFormat:
    def test_on_a_terminal_it_is_coloured_text(self, terminal: TextIO) -> None:
        found = logs.formatter("auto", terminal)
        assert isinstance(found, logs.TextFormatter)
        assert "\x1b[33mWARNING\x1b[0m" in found.format(record("careful", level=logging.WARNING))

    @pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
    def test_unless_no_colours_are_wanted(
        self, terminal: TextIO, monkeypatch: pytest.MonkeyPatch, name: str, value: str
    ) -> None:
        monkeypatch.setenv(name, value)
        assert "\x1b" not in logs.formatter("auto", terminal).format(record("plain"))

    def test_elsewhere_it_is_json(self) -> None:
        assert isinstance(logs.formatter("auto", io.StringIO()), logs.JsonFormatter)

    def test_it_may_be_said(self, terminal: TextIO) -> None:
        assert isinstance(logs.formatter("json", terminal), logs.JsonFormatter)
        found = logs.formatter("text", io.StringIO())
        assert "\x1b" not in found.format(record("no terminal, no colours"))


class TestHandler:
    def test_each_record_is_one_line(self) -> None:
        stream = io.StringIO()
        logger = logging.Logger("shop")
        logger.addHandler(logs.Handler(logs.JsonFormatter(), stream))
        logger.info("one")
        logger.error("two %s", "words")
        assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["one", "two words"]

    def test_where_nobody_reads_any_more_nothing_is_raised(self, capsys: pytest.CaptureFixture[str]) -> None:
        """A log is no reason to end, or to fill another one."""
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb", buffering=0) as raw:
            stream = io.TextIOWrapper(raw, write_through=True)
            handler = logs.Handler(logs.TextFormatter(), stream)
            handler.handle(record("lost: a broken pipe"))
            stream.detach()
            handler.handle(record("lost: there is no file any more"))
        assert capsys.readouterr() == ("", "")
