"""docs/realtime.md: its blocks are Python, its names exist, the defaults that it tells are those of the code, and the
program that it begins with does what it says, with the page's side beside it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from typing import Any

import pytest
from tests.blocks import DOCS, blocks
from tests.support import until

import portico
from portico.realtime import History, Presence, Recovery, Unidentified
from portico.realtime.clients import Client

PAGE = "realtime.md"
TEXT = (DOCS / PAGE).read_text(encoding="utf-8")
PYTHON = [block for block in blocks(PAGE) if block.language == "python"]

DEFAULTS: dict[str, Any] = {
    **{name: each.default for name, each in inspect.signature(portico.Realtime.__init__).parameters.items()},
    **{
        each.name: each.default
        for kind in (Unidentified, Presence, History, Recovery)
        for each in dataclasses.fields(kind)
        if each.name not in ("max_bytes", "rooms", "max_payload_bytes", "age_s")
    },
}
SIZES = {"KiB": 1024, "MiB": 1024 * 1024}


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.section)
def test_every_block_is_python_and_imports_what_there_is(block: Any) -> None:
    tree = compile(block.text, PAGE, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("portico"):
            exec(compile(ast.Module([node], []), PAGE, "exec"), {})


def test_every_name_of_the_module_exists() -> None:
    for path in set(re.findall(r"\bportico((?:\.\w+)+)\b", TEXT)):
        found: Any = portico
        for name in path[1:].split("."):
            assert hasattr(found, name), f"portico{path}"
            found = getattr(found, name)
    its = {name for name in Client.__slots__ if not name.startswith("_")}
    for owner, name in set(re.findall(r"\b(io|client)\.(\w+)\b", TEXT)):
        there = portico.Realtime() if owner == "io" else Client
        assert hasattr(there, name) or (owner == "client" and name in its), f"{owner}.{name}"


def test_the_defaults_in_its_tables_are_those_of_the_code() -> None:
    seen = set()
    for names, told in re.findall(r"^\| (`[^|]+`)[^|]*\| ([^|]+) \|", TEXT, re.MULTILINE):
        options = re.findall(r"`(\w+)`", names)
        values = [number(value) for value in re.findall(r"\d[\d,.]*(?: [KM]iB)?", told)]
        for option, value in zip(options, values, strict=False):
            if option in DEFAULTS and isinstance(DEFAULTS[option], int | float):
                ours = (DEFAULTS[option], getattr(Unidentified(), option, None))
                assert value in ours, f"{option}: the page says {told}, the code {ours}"
                seen.add(option)
    assert {"max_outbox_bytes", "max_unread_bytes", "ping_interval_s", "ping_timeout_s", "leave_after_s"} <= seen


def number(told: str) -> float:
    value, _, unit = told.strip(",.").partition(" ")
    return float(value.replace(",", "")) * SIZES.get(unit, 1)


async def test_the_first_program_does_what_it_says() -> None:
    source = PYTHON[0].text.replace("portico.run(app)", "")
    program: dict[str, Any] = {}
    exec(compile(source, PAGE, "exec"), program)
    async with portico.serve(program["app"], "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(portico.ConnectError, match="wrong token") as refused:
            await portico.RealtimeClient(url, auth={"token": "guessed"}).connect()
        assert refused.value.data == {"need": "token"}
        async with (
            portico.RealtimeClient(url, auth={"token": "right"}) as one,
            portico.RealtimeClient(url, auth={"token": "right"}) as other,
        ):
            heard: list[Any] = []
            one.on("chat", lambda text: heard.append(("one", text)))
            other.on("chat", lambda text: heard.append(("other", text)))
            assert await one.call("chat", "hello", timeout=5) == "sent"
            assert await other.call("chat", "bye", timeout=5) == "sent"
            await until(lambda: len(heard) == 2)
            assert heard == [("other", "hello"), ("one", "bye")]
