"""The package is built without a C compiler, too, and works (setup.py). What is built is the same from both builds, so
one of them tests it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import portico

ROOT = Path(__file__).parents[1]
SHIPPED = ["src", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"]
USED = """
import asyncio, portico

async def echo(ws):
    async for message in ws:
        await ws.send(message)

async def main():
    async with portico.serve(echo, port=0) as server:
        async with portico.connect(f"ws://127.0.0.1:{server.port}/") as ws:
            await ws.send("here")
            assert await ws.recv() == "here"

asyncio.run(main())
print(portico.compiled, portico.__file__)
"""


if portico.compiled:

    @pytest.mark.parametrize(
        "environment", [{"CC": "false"}, {"PORTICO_BUILD": "pure"}], ids=["no compiler", "not wanted"]
    )
    def test_a_wheel_without_a_compiler_works(environment: dict[str, str], tmp_path: Path) -> None:
        tree = tmp_path / "tree"
        tree.mkdir()
        for name in SHIPPED:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__", "*.egg-info")
                shutil.copytree(ROOT / name, tree / name, ignore=ignored)
            else:
                shutil.copy(ROOT / name, tree / name)
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            str(tmp_path),
            ".",
        ]
        done = subprocess.run(command, cwd=tree, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        [wheel] = tmp_path.glob("portico-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            assert not [name for name in archive.namelist() if name.endswith(".so")]
            archive.extractall(tmp_path / "installed")
        plain = {name: value for name, value in os.environ.items() if name != "PORTICO_PURE"}
        used = subprocess.run(
            [sys.executable, "-c", USED],
            cwd=tmp_path,
            env=plain | {"PYTHONPATH": str(tmp_path / "installed")},
            capture_output=True,
            text=True,
        )
        assert used.returncode == 0, used.stderr
        assert used.stdout.split() == ["False", str(tmp_path / "installed" / "portico" / "__init__.py")]
