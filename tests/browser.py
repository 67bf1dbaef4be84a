"""Chromium, driven by playwright: the real browser of the tests. Where one of the two is missing, they fail and say so.

Chromium is the system's: the path in ``PORTICO_CHROMIUM``, or the first of its usual names on the PATH.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

try:
    from playwright.async_api import Browser, Page, async_playwright, expect
except ImportError as error:
    raise ImportError("the tests need playwright: pip install playwright, or make test, which installs it") from error

PATIENCE_MS: Final = 15_000  # a busy machine's
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def chromium() -> str:
    """The path of Chromium; the test fails where there is none."""
    found = os.environ.get("PORTICO_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.fail("the tests need Chromium: apt-get install chromium, or set PORTICO_CHROMIUM to its path")
    return found


@asynccontextmanager
async def launched() -> AsyncIterator[Browser]:
    """A running browser; what is expected of its pages may take PATIENCE_MS."""
    expect.set_options(timeout=PATIENCE_MS)
    async with async_playwright() as play, await play.chromium.launch(executable_path=chromium(), args=ARGUMENTS) as it:
        yield it


def overhear(page: Page, complaints: list[str]) -> None:
    """Add a page's errors, and those that it writes to its console, to `complaints`."""
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
