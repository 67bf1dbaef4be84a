"""Static files: representations, conditions, codings; compared with Starlette's where both have an opinion."""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import AsyncIterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import starlette.applications
import starlette.routing
import starlette.staticfiles
from tests.support import Answer, Peer, get, serving, upgrade

import portico
from portico.server.static import StaticFiles

THEN = 1_700_000_000  # when every file of the tests was last changed
THEN_DATE = formatdate(THEN, usegmt=True)
LARGE = bytes(range(256)) * 4096  # 1 MiB


def write(file: Path, content: bytes = b"x") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (THEN, THEN))
    return file


@pytest.fixture
def assets(tmp_path: Path) -> Path:
    root = tmp_path / "assets"
    write(root / "hello.txt", b"Hello, world!\n")
    write(root / "empty.txt", b"")
    write(root / "large.bin", LARGE)
    write(root / "css" / "a b €.css", b"p{}")
    write(root / "docs" / "index.html", b"<p>docs")
    write(root / "docs" / "sub" / "page.html", b"<p>page")
    write(root / "index.html", b"<p>home")
    write(tmp_path / "secret.txt", b"secret")
    return root


@contextlib.asynccontextmanager
async def files(root: Path, **options: Any) -> AsyncIterator[Peer]:
    """A connection to a server that has `root` at /assets."""
    app = portico.App()
    app.static("/assets", root, **options)
    async with serving(app) as server, await Peer.connect(server) as peer:
        yield peer


async def ask(peer: Peer, target: str, method: str = "GET", **headers: str) -> Answer:
    peer.send(get("/assets" + target, method=method, **headers))
    return await peer.answer(method)


class TestAFile:
    async def test_has_its_bytes_type_length_date_and_tag(self, assets: Path) -> None:
        async with files(assets) as peer:
            answer = await ask(peer, "/hello.txt")
        assert (answer.status, answer.body) == (200, b"Hello, world!\n")
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.header("content-length") == "14"
        assert answer.header("last-modified") == THEN_DATE
        assert answer.header("accept-ranges") == "bytes"
        assert answer.header("x-content-type-options") == "nosniff"
        assert answer.header("vary") is None
        assert (answer.header("etag") or "").startswith('"')

    async def test_large_small_and_empty_come_whole_over_one_connection(self, assets: Path) -> None:
        async with files(assets) as peer:
            for name, content in (("large.bin", LARGE), ("empty.txt", b""), ("large.bin", LARGE)):
                answer = await ask(peer, "/" + name)
                assert (answer.status, answer.body) == (200, content)

    async def test_its_name_may_be_percent_encoded(self, assets: Path) -> None:
        async with files(assets) as peer:
            answer = await ask(peer, "/css/a%20b%20%E2%82%AC.css")
        assert (answer.status, answer.body, answer.header("content-type")) == (200, b"p{}", "text/css; charset=utf-8")

    async def test_head_has_the_head_of_get_and_no_body(self, assets: Path) -> None:
        """RFC 9110 §9.3.2."""
        async with files(assets) as peer:
            for name in ("/hello.txt", "/large.bin", "/none"):
                got, head = await ask(peer, name), await ask(peer, name, "HEAD")
                assert head.status == got.status
                assert [line for line in head.headers if line[0] != "date"] == [
                    line for line in got.headers if line[0] != "date"
                ]

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    async def test_knows_get_and_head_alone(self, assets: Path, method: str) -> None:
        """RFC 9110 §15.5.6: a 405 says what is allowed."""
        async with files(assets) as peer:
            answer = await ask(peer, "/hello.txt", method, content_length="0")
        assert (answer.status, answer.header("allow")) == (405, "GET, HEAD")

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("a.js", "text/javascript; charset=utf-8"),
            ("a.mjs", "text/javascript; charset=utf-8"),
            ("A.HTML", "text/html; charset=utf-8"),
            ("a.json", "application/json"),
            ("a.svg", "image/svg+xml"),
            ("a.wasm", "application/wasm"),
            ("a.woff2", "font/woff2"),
            ("a.webmanifest", "application/manifest+json"),
            ("a.tar.gz", "application/gzip"),
            ("a.js.br", "application/x-brotli"),
            ("a.glb", "model/gltf-binary"),
            ("a.strange", "application/octet-stream"),
            ("noending", "application/octet-stream"),
            ("a:b,c.txt", "text/plain; charset=utf-8"),
        ],
    )
    async def test_type_is_by_its_ending_on_every_machine(self, assets: Path, name: str, kind: str) -> None:
        write(assets / name)
        async with files(assets, content_types={".glb": "model/gltf-binary"}) as peer:
            answer = await ask(peer, "/" + name)
        assert (answer.header("content-type"), answer.header("content-encoding")) == (kind, None)

    async def test_cache_control_is_a_value_or_depends_on_the_path(self, assets: Path) -> None:
        async with files(assets, cache_control="max-age=60") as peer:
            first = await ask(peer, "/hello.txt")
            again = await ask(peer, "/hello.txt", if_none_match="*")
            assert [first.header("cache-control"), again.header("cache-control")] == ["max-age=60"] * 2
            assert (await ask(peer, "/none")).header("cache-control") is None
        async with files(assets, cache_control={"css/a b €.css": "immutable"}.get) as peer:
            assert (await ask(peer, "/css/a%20b%20%E2%82%AC.css")).header("cache-control") == "immutable"
            assert (await ask(peer, "/hello.txt")).header("cache-control") is None

    async def test_is_found_under_a_mount_at_the_root_too(self, assets: Path) -> None:
        app = portico.App()
        app.static("/", assets)
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get("/hello.txt"))
            assert (await peer.answer()).status == 200

    async def test_that_is_being_written_has_no_date_yet(self, assets: Path) -> None:
        """RFC 9110 §8.8.2.2: two versions of one second would share it."""
        os.utime(assets / "hello.txt", (1 << 33, 1 << 33))  # a later time stands for this very second
        async with files(assets) as peer:
            assert (await ask(peer, "/hello.txt")).header("last-modified") is None

    async def test_a_websocket_is_refused(self, assets: Path) -> None:
        async with files(assets) as peer:
            peer.send(upgrade("/assets/hello.txt"))
            await peer.refused(403)


class TestConditions:
    """RFC 9110 §13."""

    async def tag(self, peer: Peer) -> str:
        return (await ask(peer, "/hello.txt")).header("etag") or ""

    async def test_a_known_tag_is_304_with_what_a_cache_needs(self, assets: Path) -> None:
        """§13.1.2, §15.4.5."""
        async with files(assets) as peer:
            tag = await self.tag(peer)
            for value in (tag, "W/" + tag, f'"other", {tag}', "*", f' "a,b" ,W/{tag},, '):
                answer = await ask(peer, "/hello.txt", if_none_match=value)
                assert (answer.status, answer.body, answer.header("etag")) == (304, b"", tag)
                assert answer.header("content-length") is None
            for value in ('"other"', tag.strip('"'), '"a, *"', ""):
                assert (await ask(peer, "/hello.txt", if_none_match=value)).status == 200

    async def test_a_tag_changes_with_the_file(self, assets: Path) -> None:
        async with files(assets) as peer:
            tag = await self.tag(peer)
            (assets / "hello.txt").write_bytes(b"Hello, wurld!\n")
            answer = await ask(peer, "/hello.txt", if_none_match=tag)
        assert (answer.status, answer.body) == (200, b"Hello, wurld!\n")

    @pytest.mark.parametrize(
        ("since", "status"),
        [
            (THEN_DATE, 304),
            (formatdate(THEN + 1, usegmt=True), 304),
            (formatdate(THEN - 1, usegmt=True), 200),
            ("Tuesday, 14-Nov-23 22:13:20 GMT", 304),
            ("Tue Nov 14 22:13:20 2023", 304),
            ("soon", 200),
            ("Tue, 99 Nov 99999999999 22:13:20 GMT", 200),
            ("Tue, 14 Nov 2023 22:13:20 +99999999999999999999", 304),
        ],
    )
    async def test_if_modified_since(self, assets: Path, since: str, status: int) -> None:
        """§13.1.3, with the three forms of a date (§5.6.7); what is no date is ignored."""
        async with files(assets) as peer:
            assert (await ask(peer, "/hello.txt", if_modified_since=since)).status == status

    async def test_a_tag_counts_more_than_a_date(self, assets: Path) -> None:
        """§13.1.3: If-Modified-Since is ignored where If-None-Match is."""
        async with files(assets) as peer:
            answer = await ask(peer, "/hello.txt", if_none_match='"other"', if_modified_since=THEN_DATE)
            assert answer.status == 200

    async def test_what_must_match_and_does_not_is_412(self, assets: Path) -> None:
        """§13.1.1: strong comparison; §13.1.4."""
        async with files(assets) as peer:
            tag = await self.tag(peer)
            for value, status in ((tag, 200), ("*", 200), ("W/" + tag, 412), ('"other"', 412)):
                assert (await ask(peer, "/hello.txt", if_match=value)).status == status
            early = formatdate(THEN - 1, usegmt=True)
            for value, status in ((THEN_DATE, 200), (early, 412)):
                assert (await ask(peer, "/hello.txt", if_unmodified_since=value)).status == status
            assert (await ask(peer, "/hello.txt", if_match=tag, if_unmodified_since=early)).status == 200


class TestPrecompressed:
    """RFC 9110 §12.5.3, §8.4."""

    @pytest.fixture
    def packed(self, assets: Path) -> Path:
        write(assets / "app.js", b"let plain")
        write(assets / "app.js.br", b"BR")
        write(assets / "app.js.zst", b"ZSTD")
        write(assets / "app.js.gz", gzip.compress(b"let plain", mtime=0))
        write(assets / "old.js", b"old")
        write(assets / "old.js.gz", b"GZ")
        return assets

    @pytest.mark.parametrize(
        ("accept", "coding"),
        [
            ("gzip, deflate, br, zstd", "br"),
            ("gzip, deflate, zstd", "zstd"),
            ("gzip", "gzip"),
            ("x-gzip", "gzip"),
            ("GZIP;Q=0.5", "gzip"),
            ("br;q=0.5, gzip;q=0.8", "gzip"),
            ("br;q=0, gzip", "gzip"),
            ("gzip;q=0.5, identity", None),
            ("gzip, identity;q=0.5", "gzip"),
            ("gzip;q=1.000, br;q=0.999", "gzip"),
            ("*", "br"),
            ("*, br;q=0", "zstd"),
            ("*;q=0", None),
            ("identity", None),
            ("deflate", None),
            ("br;q=2", None),
            ("br;q=high, gzip", "gzip"),
            ("", None),
        ],
    )
    async def test_the_best_accepted_one_is_sent(self, packed: Path, accept: str, coding: str | None) -> None:
        async with files(packed) as peer:
            answer = await ask(peer, "/app.js", accept_encoding=accept)
            assert answer.header("content-encoding") == coding
            assert answer.header("content-type") == "text/javascript; charset=utf-8"
            assert answer.header("vary") == "accept-encoding"
            assert answer.body[:2] == {"br": b"BR", "zstd": b"ZS", "gzip": b"\x1f\x8b", None: b"le"}[coding]

    async def test_only_what_is_there(self, packed: Path) -> None:
        async with files(packed) as peer:
            answer = await ask(peer, "/old.js", accept_encoding="br, gzip;q=0.1")
            assert (answer.header("content-encoding"), answer.body) == ("gzip", b"GZ")

    async def test_each_coding_has_its_own_tag_and_ranges(self, packed: Path) -> None:
        """§8.8.3.3, §14.2: ranges are of the selected representation."""
        async with files(packed) as peer:
            tags = [(await ask(peer, "/app.js", accept_encoding=a)).header("etag") for a in ("br", "gzip", "identity")]
            assert len(set(tags)) == 3
            answer = await ask(peer, "/app.js", accept_encoding="zstd", range="bytes=1-2")
            assert (answer.status, answer.body, answer.header("content-range")) == (206, b"ST", "bytes 1-2/4")
            assert answer.header("content-encoding") == "zstd"
            assert (await ask(peer, "/app.js", accept_encoding="br", if_none_match=tags[0] or "")).status == 304
            assert (await ask(peer, "/app.js", accept_encoding="gzip", if_none_match=tags[0] or "")).status == 200

    async def test_is_nothing_without_the_plain_file_and_can_be_switched_off(self, packed: Path) -> None:
        (packed / "old.js").unlink()
        async with files(packed) as peer:
            assert (await ask(peer, "/old.js", accept_encoding="gzip")).status == 404
        async with files(packed, precompressed=False) as peer:
            answer = await ask(peer, "/app.js", accept_encoding="gzip")
            assert (answer.body, answer.header("vary")) == (b"let plain", None)


class TestHtml:
    @pytest.mark.parametrize(
        ("target", "body"), [("/", b"<p>home"), ("/docs/", b"<p>docs"), ("/docs/index.html", b"<p>docs")]
    )
    async def test_a_directory_is_its_index(self, assets: Path, target: str, body: bytes) -> None:
        async with files(assets, html=True) as peer:
            answer = await ask(peer, target)
        assert (answer.status, answer.body, answer.header("content-type")) == (200, body, "text/html; charset=utf-8")

    async def test_a_directory_without_its_slash_is_redirected_within_this_host(self, assets: Path) -> None:
        write(assets / "a:b ?" / "index.html")
        async with files(assets, html=True) as peer:
            for target, location in (
                ("/docs", "./docs/"),
                ("/docs?a=1&b", "./docs/?a=1&b"),
                ("", "./assets/"),
                ("/a:b%20%3F", "./a%3Ab%20%3F/"),
            ):
                answer = await ask(peer, target)
                assert (answer.status, answer.header("location")) == (307, location)
            assert (await ask(peer, "//docs")).status == 404  # "//docs/" in a Location would be another host
            assert (await ask(peer, "/docs/sub")).status == 404

    async def test_what_is_not_found_has_the_404_page(self, assets: Path) -> None:
        write(assets / "404.html", b"<p>lost")
        async with files(assets, html=True) as peer:
            for target in ("/none", "/docs/none/", "/../secret.txt"):
                answer = await ask(peer, target)
                assert (answer.status, answer.body) == (404, b"<p>lost")
                assert answer.header("content-type") == "text/html; charset=utf-8"

    async def test_a_directory_is_nothing_without_html(self, assets: Path) -> None:
        async with files(assets) as peer:
            for target in ("", "/", "/docs", "/docs/", "/docs/index.html/"):
                assert (await ask(peer, target)).status == 404


class TestMaking:
    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"cache_control": 60}, "expected a header value"),
            ({"cache_control": "no\r\nx: y"}, "control character"),
            ({"content_types": {"glb": "model/gltf-binary"}}, "expected an ending"),
            ({"content_types": {".glb": "a\nb"}}, "control character"),
        ],
    )
    def test_a_wrong_value_is_refused(self, tmp_path: Path, options: dict[str, Any], what: str) -> None:
        with pytest.raises(portico.LocalError, match=what):
            portico.App().static("/assets", tmp_path, **options)

    def test_so_is_what_is_no_directory_and_a_path_that_is_taken(self, assets: Path) -> None:
        app = portico.App()
        for name in ("hello.txt", "nothing"):
            with pytest.raises(portico.LocalError, match="expected a directory"):
                app.static("/assets", assets / name)
        app.static("/assets", assets)
        with pytest.raises(portico.LocalError, match="mounted there already"):
            app.static("/assets/", assets)


class TestAsStarlettes:
    """The answers of `starlette.staticfiles` to the same requests, where there is no better one."""

    REQUESTS: tuple[tuple[str, str, dict[str, str]], ...] = (
        ("GET", "/hello.txt", {}),
        ("HEAD", "/hello.txt", {}),
        ("GET", "/large.bin", {}),
        ("GET", "/empty.txt", {}),
        ("GET", "/css/a%20b%20%E2%82%AC.css", {}),
        ("GET", "/none", {}),
        ("GET", "/", {}),
        ("GET", "/docs/", {}),
        ("GET", "/docs/sub/page.html", {}),
        ("GET", "/hello.txt", {"if_none_match": "*"}),
        ("GET", "/hello.txt", {"if_none_match": '"other"', "if_modified_since": THEN_DATE}),
        ("GET", "/hello.txt", {"if_modified_since": THEN_DATE}),
        ("GET", "/hello.txt", {"if_modified_since": formatdate(THEN - 1, usegmt=True)}),
        ("GET", "/hello.txt", {"range": "bytes=0-4"}),
        ("GET", "/hello.txt", {"range": "bytes=7-"}),
        ("GET", "/hello.txt", {"range": "bytes=-3"}),
        ("GET", "/hello.txt", {"range": "bytes=-300"}),
        ("GET", "/hello.txt", {"range": "bytes=0-1,1-4, 5-6"}),
        ("GET", "/hello.txt", {"range": "bytes=3-1000"}),
        ("GET", "/hello.txt", {"range": "bytes=14-"}),
        ("GET", "/hello.txt", {"range": "bytes=0-4", "if_range": THEN_DATE}),
        ("GET", "/hello.txt", {"range": "bytes=0-4", "if_range": '"other"'}),
        ("GET", "/large.bin", {"range": "bytes=65535-800000"}),
        ("GET", "/%2e%2e/secret.txt", {}),
        ("GET", "/hello.txt%00", {}),
        ("GET", "/" + "a" * 300, {}),
    )
    SAME = ("content-type", "content-length", "content-range", "last-modified", "accept-ranges")

    async def test_answers_are_the_same(self, assets: Path) -> None:
        theirs: Any = starlette.applications.Starlette(
            routes=[starlette.routing.Mount("/theirs", starlette.staticfiles.StaticFiles(directory=assets, html=True))]
        )
        app = portico.App()
        app.static("/assets", assets, html=True)
        app.mount("/", theirs)
        async with serving(app) as server, await Peer.connect(server) as peer:
            for method, target, headers in self.REQUESTS:
                both = []
                for mount in ("/assets", "/theirs"):
                    peer.send(get(mount + target, method=method, **headers))
                    answer = await peer.answer(method)
                    kept = [answer.body, *(answer.header(name) for name in self.SAME)] if answer.status < 400 else []
                    both.append((answer.status, kept))
                assert both[0] == both[1], (method, target, headers)

    async def test_ours_serves_under_a_starlette_mount(self, assets: Path) -> None:
        app: Any = starlette.applications.Starlette(
            routes=[starlette.routing.Mount("/deep/files", StaticFiles(assets, html=True))]
        )
        async with serving(app) as server, await Peer.connect(server) as peer:
            peer.send(get("/deep/files/hello.txt") + get("/deep/files/docs"))
            assert (await peer.answer()).body == b"Hello, world!\n"
            assert (await peer.answer()).header("location") == "./docs/"
