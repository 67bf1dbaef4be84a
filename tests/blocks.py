"""The examples of a page in `docs/`, as files: what a line like "`app.py`:" names is the block behind it.

A block of ``diff`` changes the file that the last such line, or one like "In `app.py`:", has named.
"""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass

DOCS = pathlib.Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"^(?:In )?`([\w./-]+)`[^\n]*:$", re.MULTILINE)


@dataclass
class Block:
    """One block of a page: its language, its text, and the file that it is of, "" for none."""

    language: str
    text: str
    file: str
    section: str


def blocks(page: str) -> list[Block]:
    """All of them, in order."""
    text = (DOCS / page).read_text(encoding="utf-8")
    found = []
    file = section = ""
    end = 0
    for fence in FENCE.finditer(text):
        between = text[end : fence.start()]
        for heading in re.findall(r"^##+ (.*)$", between, re.MULTILINE):
            section, file = heading, ""
        names = NAMED.findall(between)
        if names:
            file = names[-1]
        directly = (names and between.rstrip().endswith(":")) or fence[1] == "diff"
        found.append(Block(fence[1], fence[2], file if directly else "", section))
        end = fence.end()
    return found


def write(folder: pathlib.Path, some: list[Block]) -> None:
    """Write the files of these blocks, and change those that are there already as their diffs say."""
    for block in some:
        if not block.file:
            continue
        path = folder / block.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if block.language == "diff":
            path.write_text(changed(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
        else:
            path.write_text(block.text, encoding="utf-8")


def changed(text: str, diff: str) -> str:
    """`text` with a hunk of a unified diff applied, wherever it fits: that has to be one place."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] or "\n" for line in lines if not line.startswith("+"))
    after = "".join(line[1:] or "\n" for line in lines if not line.startswith("-"))
    assert text.count(before) == 1, f"this fits in {text.count(before)} places:\n{before}"
    return text.replace(before, after)
