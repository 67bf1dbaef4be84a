"""Node.js and npm's packages, those in tests/interop/node: where one of them is missing, tests fail and say so."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

NODE: Final = Path(__file__).parent / "interop" / "node"
MODULES: Final = NODE / "node_modules"


def node_js(*packages: str) -> str:
    """The path of Node.js, whose programs need these packages."""
    found = shutil.which("node")
    if found is None:
        pytest.fail("the tests need Node.js: apt-get install nodejs npm")
    for package in packages:
        if not (MODULES / package).is_dir():
            pytest.fail(f"the tests need npm's {package}: run make test, or npm ci in {NODE}")
    return found


async def said(script: str, *arguments: str, packages: tuple[str, ...] = ()) -> Any:
    """What a script of tests/interop/node prints, which is JSON."""
    process = await asyncio.create_subprocess_exec(
        node_js(*packages), str(NODE / script), *arguments, stdout=asyncio.subprocess.PIPE
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{script} ended with {process.returncode}"
    return json.loads(output)
