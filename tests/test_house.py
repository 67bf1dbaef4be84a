"""The rules of the house that can be read off the source: which room may import which, and what no room may use."""

from __future__ import annotations

import ast
import importlib.machinery
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

import portico

PACKAGE = pathlib.Path(portico.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
HOT = ("wire/frames", "wire/messages", "net/reactor", "net/stream", "rooms")

LEAVES = {"accounting", "errors", "limits", "codes", "builds", "logs"}
BELOW = LEAVES | {"wire", "net", "websocket", "rooms"}
PUBLIC = BELOW | {"server", "client", "brokers", "realtime", "realtime_client"}

# room -> the rooms that it may import besides itself; "portico" is the package's own __init__, with the public names
ARROWS: dict[str, set[str]] = {
    **dict.fromkeys(LEAVES, LEAVES),
    "wire": LEAVES,
    "net": LEAVES,
    "websocket": LEAVES | {"wire", "net"},
    "rooms": LEAVES | {"wire", "net", "websocket"},
    "brokers": LEAVES,
    "server": BELOW,
    "client": BELOW,
    "realtime": BELOW | {"server", "brokers"},
    "realtime_client": BELOW | {"client"},
    "portico": PUBLIC,
    "demo": PUBLIC | {"portico", "cli"},
    "cli": PUBLIC | {"portico", "demo"},
    "testing": PUBLIC | {"portico", "demo", "cli"},  # anything of ours; and nothing of ours imports it
    "__main__": {"cli"},
}
NO_IO = {"asyncio", "datetime", "logging", "select", "selectors", "signal", "socket", "ssl", "threading", "time"}


def module_name(file: pathlib.Path) -> str:
    parts = ("portico", *file.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str:
    """The room of a module: what comes after ``portico.``, or ``portico`` itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def imports(module: str, text: str, *, package: bool = False) -> Iterator[str]:
    """The absolute name of everything that a module's Python source imports, wherever in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")
            base = base[: len(base) - node.level + package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            # `from portico import codes` names a room, `from portico import Limits` the public names
            submodules = source == "portico"
            for alias in node.names:
                yield f"portico.{alias.name}" if submodules and alias.name in ARROWS else source


def cimports(text: str) -> Iterator[str]:
    """The same for the Cython of a ``.pxd`` or ``.pyx``."""
    for match in re.finditer(r"^ *(?:from +([\w.]+) +c?import|c?import +([\w.]+))", text, re.MULTILINE):
        yield match[1] or match[2]


def wrong_arrows(module: str, imported: Iterator[str]) -> list[str]:
    room = room_of(module)
    if room not in ARROWS:
        return [f"{module} is in no room of the house: give {room!r} a place in ARROWS"]
    allowed = ARROWS[room] | {room}
    wrong = [name for name in imported if name.split(".")[0] == "portico" and room_of(name) not in allowed]
    return [f"{module} imports {name}, but {room} may import only {sorted(allowed)}" for name in wrong]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file: pathlib.Path) -> None:
    module = module_name(file)
    found = imports(module, file.read_text(encoding="utf-8"), package=file.name == "__init__.py")
    assert wrong_arrows(module, found) == []


def test_cimports_go_one_way() -> None:
    files = [file for suffix in ("*.pxd", "*.pyx") for file in PACKAGE.rglob(suffix)]
    assert files
    assert [
        arrow for file in files for arrow in wrong_arrows(module_name(file), cimports(file.read_text(encoding="utf-8")))
    ] == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("portico.errors", "import portico.wire.frames"),
        ("portico.wire.frames", "from portico.net import stream"),
        ("portico.wire.frames", "from portico import websocket"),
        ("portico.wire.frames", "from portico import Limits"),
        ("portico.wire.frames", "from ..net.stream import Stream"),
        ("portico.net.stream", "from portico.wire.frames import Frame"),
        ("portico.websocket", "def late():\n    from portico.rooms import Room"),
        ("portico.server.asgi", "from portico.client import connect"),
        ("portico.client.connect", "from portico.server import serve"),
        ("portico.cli.serve", "from portico.testing import run"),
        ("portico.brokers.memory", "from portico.rooms import Room"),
        ("portico.realtime_client.link", "from portico.server import serve"),
        ("portico.attic", "import portico.codes"),
    ],
)
def test_an_arrow_that_points_the_wrong_way_is_found(module: str, line: str) -> None:
    assert wrong_arrows(module, imports(module, line))


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("portico.limits", "from portico.errors import LocalError"),
        ("portico.wire.frames", "from portico import codes"),
        ("portico.wire.frames", "from . import masking"),
        ("portico.server.asgi", "from portico.wire.http1 import Request"),
        ("portico.cli.serve", "import portico"),
    ],
)
def test_an_arrow_that_points_the_right_way_is_not(module: str, line: str) -> None:
    assert wrong_arrows(module, imports(module, line)) == []


def test_wire_has_no_socket_no_event_loop_no_clock_and_no_log() -> None:
    for file in sorted((PACKAGE / "wire").rglob("*.py")):
        found = {name.split(".")[0] for name in imports(module_name(file), file.read_text(encoding="utf-8"))}
        assert not found & NO_IO, f"{file.name} imports {found & NO_IO}"


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_data_becomes_code_and_no_check_can_be_switched_off(file: pathlib.Path) -> None:
    """No pickle, marshal, shelve, eval or exec; and no assert, which ``python -O`` removes."""
    text = file.read_text(encoding="utf-8")
    assert not {"pickle", "marshal", "shelve"} & {name.split(".")[0] for name in imports(module_name(file), text)}
    for node in ast.walk(ast.parse(text)):
        assert not (isinstance(node, ast.Name) and node.id in ("eval", "exec")), f"line {node.lineno}"
        assert not isinstance(node, ast.Assert), f"line {node.lineno}"


def test_hot_modules_have_a_pxd_and_each_pxd_a_module() -> None:
    augmented = {str(file.relative_to(PACKAGE).with_suffix("")) for file in PACKAGE.rglob("*.pxd")}
    assert set(HOT) <= augmented
    modules = {str(file.relative_to(PACKAGE).with_suffix("")) for file in (*SOURCES, *PACKAGE.rglob("*.pyx"))}
    assert augmented <= modules


def test_no_extension_module_is_left_of_a_module_that_is_not_compiled_any_more() -> None:
    """``PORTICO_PURE=1`` could not refuse it: `make clean`, or delete the file."""
    built = {file.parent / file.name.split(".")[0] for end in ("*.so", "*.pyd") for file in PACKAGE.rglob(end)}
    assert [file for file in built if not any(file.with_suffix(end).exists() for end in (".pxd", ".pyx"))] == []


def test_public_names_exist() -> None:
    assert len(set(portico.__all__)) == len(portico.__all__)
    assert [name for name in portico.__all__ if not hasattr(portico, name)] == []


REPORT = """
import importlib, pathlib, sys, portico
package = pathlib.Path(portico.__file__).parent
hot = [f.relative_to(package).with_suffix("") for f in sorted(package.rglob("*.pxd")) if f.with_suffix(".py").exists()]
names = [".".join(("portico", *f.parts)) for f in hot]
print(portico.compiled, *(importlib.import_module(name).__file__ for name in names))
"""


def build_of(**environment: str) -> tuple[bool, set[bool]]:
    """``portico.compiled`` in a new process, and which of its hot modules are extension modules there."""
    kept = {name: value for name, value in os.environ.items() if name != "PORTICO_PURE"}
    done = subprocess.run([sys.executable, "-c", REPORT], env=kept | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    flag, *files = done.stdout.split()
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return flag == "True", {file.endswith(suffixes) for file in files}


def test_portico_pure_refuses_every_compiled_module() -> None:
    assert build_of(PORTICO_PURE="1") == (False, {False})


def test_the_flag_tells_the_build_and_no_build_is_half_compiled() -> None:
    flag, compiled = build_of()
    assert compiled == {flag}


@pytest.mark.skipif(
    shutil.which("cc") is None or os.environ.get("PORTICO_PURE") == "1",
    reason="about the compiled build, on a machine with a C compiler",
)
def test_a_machine_with_a_compiler_runs_the_compiled_build() -> None:
    assert portico.compiled, "run `pip install -e .`, and read its warnings where a module did not compile"


@pytest.mark.parametrize("page", ["THREAT_MODEL.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_pages_name_files_that_exist(page: str) -> None:
    root = pathlib.Path(__file__).parents[1]
    text = (root / page).read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|bench|docs|scripts|src)/[\w./-]*)", text) + re.findall(r"\]\(([\w./-]+\.md)", text)
    assert named
    assert [name for name in dict.fromkeys(named) if not (root / name).exists()] == []
