"""The pages that tell how to test and how to compare passwords: their examples run as they stand; we do as we say."""

from __future__ import annotations

import ast
import base64
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import portico
from portico.testing import pair

ROOT = pathlib.Path(__file__).parents[1]
PAGES = ROOT / "docs"
SECRET = re.compile(r"passw|secret|credential|digest|signature|token$", re.IGNORECASE)


def blocks(page: str) -> list[str]:
    """The examples in Python of a page."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def test_the_examples_of_the_page_on_testing_run(tmp_path: pathlib.Path) -> None:
    """Each of them a file of tests, without any plugin or configuration of ours."""
    examples = blocks("testing.md")
    for number, example in enumerate(examples):
        assert "def test_" in example
        (tmp_path / f"test_example_{number}.py").write_text(example, encoding="utf-8")
    command = [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-rA"]
    done = subprocess.run([*command, "."], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    for number in range(len(examples)):
        assert f"PASSED test_example_{number}.py" in done.stdout


def test_the_page_on_testing_names_all_that_there_is() -> None:
    import portico.testing as there

    text = (PAGES / "testing.md").read_text(encoding="utf-8")
    unnamed = [name for name in there.__all__ if not re.search(rf"\b{name}\b", text)]
    assert set(unnamed) <= {"Flow", "Pair", "VirtualLoop", "Violation"}, "their docstrings have to do"


# -- passwords (CVE-2021-33880: HTTP Basic credentials compared with ==) ----------------------------------------------


def comparing() -> Any:
    """The `authenticate` of the page."""
    [example] = [example for example in blocks("coming-from-websockets.md") if "basic_auth" in example]
    names: dict[str, Any] = {}
    exec(example, names)
    return names["authenticate"]


@pytest.mark.parametrize("given", ["ann:wrong", "ann:", "bob:sésame", "bob:", ":", "ann:sésam", "ann:sésame!", None])
async def test_a_wrong_password_is_turned_away(given: str | None) -> None:
    with pytest.raises(portico.HandshakeError) as caught:
        async with opened(given):
            pass
    assert caught.value.status == 401


async def test_the_right_one_is_let_in() -> None:
    async with opened("ann:sésame") as (_, server):
        assert server.user == "ann"


def opened(given: str | None) -> Any:
    headers = {"Authorization": "Basic " + base64.b64encode(given.encode()).decode()} if given is not None else {}
    return pair(client={"headers": headers}, server={"authenticate": comparing()})


def early(text: str) -> Iterator[str]:
    """The comparisons with == or != of what is named like a secret: they end at the first difference."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            names = {each.id for side in sides for each in [side] if isinstance(each, ast.Name)}
            names |= {each.attr for each in sides if isinstance(each, ast.Attribute)}
            if any(SECRET.search(name) for name in names):
                yield f"line {node.lineno}: {ast.unparse(node)}"


def test_an_early_comparison_is_found() -> None:
    assert list(early("user == x\npassword == y\nif a.token != b: pass")) == [
        "line 2: password == y",
        "line 3: a.token != b",
    ]


@pytest.mark.parametrize("page", ["coming-from-websockets.md", "testing.md"])
def test_no_example_compares_a_secret_early(page: str) -> None:
    assert [found for example in blocks(page) if "hmac" in example for found in early(example)] == []


def test_no_source_compares_a_secret_early() -> None:
    sources = sorted((ROOT / "src").rglob("*.py"))
    assert len(sources) > 50
    found = {str(file.relative_to(ROOT)): list(early(file.read_text(encoding="utf-8"))) for file in sources}
    assert {file: lines for file, lines in found.items() if lines} == {}
