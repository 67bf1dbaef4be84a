"""Static files: nothing outside the directory, and nothing in it that is not a file to be served."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import pytest
from tests.server.test_static import ask, files, write
from tests.support import Peer, serving

import portico

SECRET = b"the secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A directory with a secret beside it, and one in a directory whose name begins with its own."""
    root = tmp_path / "www"
    write(root / "file.txt", b"public")
    write(root / "sub" / "file.txt", b"public")
    write(root / ".env", SECRET)
    write(root / ".git" / "config", SECRET)
    write(root / ".well-known" / "security.txt", b"public")
    write(tmp_path / "secret.txt", SECRET)
    write(tmp_path / "www-private" / "secret.txt", SECRET)
    return root


TRAVERSALS = [
    "/../secret.txt",
    "/sub/../../secret.txt",
    "/./../secret.txt",
    "/%2e%2e/secret.txt",
    "/%2e%2e%2fsecret.txt",
    "/..%2fsecret.txt",
    "/.%2e/secret.txt",
    "/%2E%2E/secret.txt",
    "/..%5csecret.txt",
    "/..\\secret.txt",
    "/sub\\..\\..\\secret.txt",
    "/../www-private/secret.txt",
    "/-private/secret.txt",
    "-private/secret.txt",
    "/%252e%252e/secret.txt",
    "/%c0%ae%c0%ae/secret.txt",
    "/..%c0%afsecret.txt",
    "/..%00/secret.txt",
    "/file.txt%00.html",
    "/%00",
    "//etc/passwd",
    "/%2fetc/passwd",
    "/%2f%2fetc/passwd",
    "//%2e%2e/secret.txt",
    "/sub//file.txt",
    "/sub/./file.txt",
    "/sub/../file.txt",
    "/file.txt/",
    "/file.txt/.",
    "/file.txt/..",
    "/file.txt/x",
    "/FILE.TXT",
    "/Sub/file.txt",
    "/file.txt ",
    "/file.txt.",
    "/C:/secret.txt",
    "/C:%5Csecret.txt",
    "/~root/file.txt",
    "/%ff%fe",
    "/%ed%a0%80",
    "/" + "a" * 300,
    "/" + "a/" * 3000,
    "/.env",
    "/%2eenv",
    "/.git/config",
    "/sub",
    "/sub/",
    "/",
    "",
]


@pytest.mark.parametrize("html", [False, True])
async def test_no_path_leads_out_of_the_directory_or_into_a_hidden_file(root: Path, html: bool) -> None:
    app = portico.App()
    app.static("/assets", root, html=html)
    async with serving(app) as server:
        for target in TRAVERSALS:
            async with await Peer.connect(server) as peer:
                peer.send(b"GET /assets%b HTTP/1.1\r\nHost: a\r\n\r\n" % target.encode())
                answer = await peer.answer()
                assert answer.status in (400, 404), target
                assert SECRET not in answer.body


async def test_hidden_files_are_served_where_that_is_wanted(root: Path) -> None:
    async with files(root) as peer:
        assert (await ask(peer, "/.well-known/security.txt")).body == b"public"
    async with files(root, hidden=True) as peer:
        assert (await ask(peer, "/.env")).status == 200
        assert (await ask(peer, "/../secret.txt")).status == 404


class TestLinks:
    async def test_within_the_directory_are_followed(self, root: Path) -> None:
        (root / "file-link").symlink_to("file.txt")
        (root / "sub-link").symlink_to(root / "sub")
        (root / "sub" / "up").symlink_to("../file.txt")
        async with files(root) as peer:
            for target in ("/file-link", "/sub-link/file.txt", "/sub/up", "/sub-link/up"):
                assert (await ask(peer, target)).body == b"public"

    async def test_out_of_it_are_not_unless_that_is_wanted(self, root: Path) -> None:
        (root / "out.txt").symlink_to("../secret.txt")
        (root / "abs.txt").symlink_to(root.parent / "secret.txt")
        (root / "twice.txt").symlink_to("out.txt")
        (root / "dir").symlink_to("..")
        (root / "beside").symlink_to("../www-private")
        targets = ("/out.txt", "/abs.txt", "/twice.txt", "/dir/secret.txt", "/beside/secret.txt")
        async with files(root) as peer:
            for target in targets:
                assert (await ask(peer, target)).status == 404, target
        async with files(root, follow_symlinks=True) as peer:
            for target in targets:
                assert (await ask(peer, target)).body == SECRET, target
            assert (await ask(peer, "/../secret.txt")).status == 404

    async def test_packed_ones_are_held_to_the_same_rule(self, root: Path) -> None:
        (root / "file.txt.gz").symlink_to("../secret.txt")
        async with files(root) as peer:
            answer = await ask(peer, "/file.txt", accept_encoding="gzip")
        assert (answer.body, answer.header("content-encoding")) == (b"public", None)

    async def test_an_index_or_a_404_page_too(self, root: Path) -> None:
        (root / "index.html").symlink_to("../secret.txt")
        (root / "404.html").symlink_to("../secret.txt")
        async with files(root, html=True) as peer:
            answer = await ask(peer, "/")
        assert (answer.status, answer.body) == (404, b"Not found.\n")

    async def test_broken_ones_and_circles_are_not_found(self, root: Path) -> None:
        (root / "broken").symlink_to("nothing")
        (root / "circle").symlink_to("circle")
        for follow in (False, True):
            async with files(root, follow_symlinks=follow) as peer:
                for target in ("/broken", "/circle", "/circle/x"):
                    assert (await ask(peer, target)).status == 404

    async def test_the_directory_itself_may_be_one_and_point_elsewhere_later(self, root: Path) -> None:
        """A release is put in place by exchanging a link."""
        write(root.parent / "next" / "file.txt", b"the next")
        (root.parent / "current").symlink_to("www")
        async with files(root.parent / "current") as peer:
            assert (await ask(peer, "/file.txt")).body == b"public"
            (root.parent / "new").symlink_to("next")
            os.replace(root.parent / "new", root.parent / "current")
            assert (await ask(peer, "/file.txt")).body == b"the next"

    async def test_exchanged_while_it_is_looked_up_gets_nobody_out(self, root: Path) -> None:
        """A race of a look-up with somebody who exchanges a file, or a directory, for a link and back."""
        (root / "out").symlink_to("../www-private")
        (root / "there").mkdir()
        write(root / "there" / "secret.txt", b"public")
        over = threading.Event()

        def exchange() -> None:
            while not over.is_set():
                os.rename(root / "there", root / "aside")
                os.rename(root / "out", root / "there")
                os.rename(root / "there", root / "out")
                os.rename(root / "aside", root / "there")

        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            async with files(root) as peer:
                for _ in range(300):
                    answer = await ask(peer, "/there/secret.txt")
                    assert (answer.status, answer.body) in ((200, b"public"), (404, b"Not found.\n"))
        finally:
            over.set()
            thread.join()


class TestSpecialFiles:
    async def test_are_not_found_and_nobody_waits_for_them(self, root: Path) -> None:
        """A FIFO without a writer would block whoever opens it."""
        os.mkfifo(root / "fifo")
        (root / "file.txt.gz").mkdir()
        os.mkfifo(root / "file.txt.br")
        with socket.socket(socket.AF_UNIX) as sock:
            here = os.getcwd()
            os.chdir(root)  # the path of a Unix socket is at most about a hundred bytes long
            try:
                sock.bind("socket")
            finally:
                os.chdir(here)
            async with files(root) as peer:
                for name in ("fifo", "socket"):
                    assert (await ask(peer, "/" + name)).status == 404
                answer = await ask(peer, "/file.txt", accept_encoding="gzip, br")
                assert (answer.body, answer.header("content-encoding")) == (b"public", None)

    async def test_devices_are_not_found_behind_a_link(self, root: Path) -> None:
        (root / "zero").symlink_to("/dev/zero")
        async with files(root, follow_symlinks=True) as peer:
            assert (await ask(peer, "/zero")).status == 404


async def test_a_directory_that_is_gone_is_not_found(root: Path) -> None:
    async with files(root) as peer:
        os.rename(root, root.parent / "gone")
        assert (await ask(peer, "/file.txt")).status == 404
