"""nginx and HAProxy, each a process of its own on the loopback, with the configurations of ``docs/deployment.md``."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from tests.support import wait_for

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "deployment.md"
PATHS = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
STREAM_MODULES = [
    pathlib.Path(directory, "ngx_stream_module.so")
    for directory in ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
]

NGINX = """
{user}
{modules}
daemon off;
worker_processes 1;
error_log stderr;
pid {directory}/nginx.pid;
events {{ worker_connections 512; }}
{kind} {{
    {paths}
    {block}
}}
"""
NGINX_PATHS = "\n".join(
    f"    {name}_temp_path {{directory}}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def documented(language: str, name: str) -> str:
    """A block of code of the page on deployment."""
    text = PAGE.read_text(encoding="utf-8")
    [block] = re.findall(rf"^```{language} {name}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(block)


def put(text: str, *changes: tuple[str, str]) -> str:
    """`text` with other ports and files; each has to be there once."""
    for before, after in changes:
        assert text.count(before) == 1, f"{before!r} is {text.count(before)} times in:\n{text}"
        text = text.replace(before, after)
    return text


@contextlib.contextmanager
def nginx(directory: pathlib.Path, kind: str, block: str, port: int) -> Iterator[None]:
    """nginx with `block` in its section `kind`, listening on `port`."""
    binary = _binary("nginx")
    modules = ""
    if kind == "stream":
        built_in = "--with-stream " in subprocess.run([binary, "-V"], capture_output=True, text=True, check=True).stderr
        found = [module for module in STREAM_MODULES if module.exists()]
        if not found and not built_in:
            pytest.fail("the tests need nginx's module for streams: apt-get install libnginx-mod-stream")
        modules = f"load_module {found[0]};" if found else ""
    config = directory / "nginx.conf"
    config.write_text(
        NGINX.format(
            user="user root;" if os.geteuid() == 0 else "",  # so that it can read what the test has made
            modules=modules,
            directory=directory,
            kind=kind,
            paths=NGINX_PATHS.format(directory=directory) + "\n    access_log off;" if kind == "http" else "",
            block=block,
        )
    )
    with _running([binary, "-e", "stderr", "-p", str(directory), "-c", str(config)], directory, port):
        yield


@contextlib.contextmanager
def haproxy(directory: pathlib.Path, text: str, port: int) -> Iterator[None]:
    config = directory / "haproxy.cfg"
    config.write_text(text)
    with _running([_binary("haproxy"), "-db", "-f", str(config)], directory, port):
        yield


def _binary(name: str) -> str:
    found = shutil.which(name, path=PATHS)
    if found is None:
        pytest.fail(f"the tests need {name}: apt-get install {name}")
    return found


@contextlib.contextmanager
def _running(command: list[str], directory: pathlib.Path, port: int) -> Iterator[None]:
    said = directory / "said"
    with said.open("w") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_for(process, port, said)
        yield
    finally:
        process.terminate()
        process.wait()
