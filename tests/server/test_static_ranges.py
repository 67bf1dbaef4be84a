"""Static files: ranges (RFC 9110 §14), and a large file for a slow reader."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import tracemalloc
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.test_static import THEN, THEN_DATE, ask, files, write
from tests.support import GUARD_S, Answer, Peer, get, serving

import portico
from portico.server.conditional import MAX_RANGES, ranges
from portico.wire.headers import Headers

DIGITS = b"0123456789"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / "digits.txt", DIGITS)
    write(tmp_path / "empty.txt", b"")
    return tmp_path


def parts(answer: Answer) -> list[tuple[str, bytes]]:
    """Content-Range and bytes of each part of a multipart/byteranges, read by Python's own parser of MIME."""
    head = b"content-type: %b\r\n\r\n" % (answer.header("content-type") or "").encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + answer.body)
    assert message.get_content_type() == "multipart/byteranges"
    assert not message.defects
    found = []
    for part in message.iter_parts():
        assert part.get_content_type() == "text/plain"
        found.append((part["content-range"], part.get_payload(decode=True)))
    return found


class TestOneRange:
    @pytest.mark.parametrize(
        ("wanted", "start", "end"),
        [
            ("bytes=0-0", 0, 1),
            ("bytes=2-5", 2, 6),
            ("bytes=9-9", 9, 10),
            ("bytes=4-", 4, 10),
            ("bytes=-1", 9, 10),
            ("bytes=-10", 0, 10),
            ("bytes=-11", 0, 10),
            ("bytes=5-100", 5, 10),
            ("bytes=5-" + "9" * 5000, 5, 10),
            ("bytes=-" + "9" * 5000, 0, 10),
            ("BYTES=1-2", 1, 3),
            ("bytes= 1-2 ", 1, 3),
            ("bytes=,1-2,", 1, 3),
            ("bytes=1-2,2-4", 1, 5),
            ("bytes=1-2,3-4", 1, 5),
            ("bytes=5-6,1-9", 1, 10),
            ("bytes=1-2,77-", 1, 3),
            ("bytes=1-2,-0", 1, 3),
        ],
    )
    async def test_is_206_with_its_place(self, root: Path, wanted: str, start: int, end: int) -> None:
        """§15.3.7.1; of several that can be joined, or of which one can be had, there is one."""
        async with files(root) as peer:
            answer = await ask(peer, "/digits.txt", range=wanted)
        assert (answer.status, answer.body) == (206, DIGITS[start:end])
        assert answer.header("content-range") == f"bytes {start}-{end - 1}/10"
        assert answer.header("content-type") == "text/plain; charset=utf-8"
        assert answer.header("etag")

    @pytest.mark.parametrize(
        "wanted", ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=10-11,12-13", "bytes=" + "9" * 5000 + "-"]
    )
    async def test_that_cannot_be_had_is_416_with_the_length(self, root: Path, wanted: str) -> None:
        """§15.5.17."""
        async with files(root) as peer:
            answer = await ask(peer, "/digits.txt", range=wanted)
        assert (answer.status, answer.header("content-range"), answer.body) == (416, "bytes */10", b"")

    @pytest.mark.parametrize(
        "wanted",
        [
            "bytes=5-4",
            "bytes=1-2,5-4",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=1_0-",
            "bytes 1-2",
            "bytes",
            "lines=1-2",
            "bytes=" + ",".join(["0-0"] * (MAX_RANGES + 1)),
        ],
    )
    async def test_malformed_in_another_unit_or_too_many_are_ignored(self, root: Path, wanted: str) -> None:
        """§14.2."""
        async with files(root) as peer:
            answer = await ask(peer, "/digits.txt", range=wanted)
        assert (answer.status, answer.body) == (200, DIGITS)

    async def test_is_for_get_alone_and_for_what_is_not_empty(self, root: Path) -> None:
        """§14.2."""
        async with files(root) as peer:
            assert (await ask(peer, "/digits.txt", "HEAD", range="bytes=0-1")).header("content-length") == "10"
            assert (await ask(peer, "/empty.txt", range="bytes=0-")).status == 200

    async def test_conditions_come_first(self, root: Path) -> None:
        """§13.2.2."""
        async with files(root) as peer:
            assert (await ask(peer, "/digits.txt", range="bytes=0-1", if_none_match="*")).status == 304
            assert (await ask(peer, "/digits.txt", range="bytes=0-1", if_match='"other"')).status == 412

    async def test_if_range_names_the_version(self, root: Path) -> None:
        """§13.1.5: strong comparison, and exactly the date."""
        async with files(root) as peer:
            tag = (await ask(peer, "/digits.txt")).header("etag") or ""
            later = formatdate(THEN + 1, usegmt=True)
            for value, status in (
                (tag, 206),
                (THEN_DATE, 206),
                ("W/" + tag, 200),
                ('"other"', 200),
                (later, 200),
                ("x", 200),
            ):
                assert (await ask(peer, "/digits.txt", range="bytes=0-1", if_range=value)).status == status, value


class TestSeveralRanges:
    async def test_come_as_multipart_in_ascending_order(self, root: Path) -> None:
        """§15.3.7.2, §14.6."""
        async with files(root) as peer:
            answer = await ask(peer, "/digits.txt", range="bytes=8-, 0-1, 4-4, 90-")
            assert answer.status == 206
            assert answer.header("content-range") is None
            assert parts(answer) == [("bytes 0-1/10", b"01"), ("bytes 4-4/10", b"4"), ("bytes 8-9/10", b"89")]

    async def test_of_a_large_file_come_in_pieces(self, root: Path) -> None:
        content = bytes(range(256)) * 2000
        write(root / "large.txt", content)
        async with files(root) as peer:
            answer = await ask(peer, "/large.txt", range="bytes=1-199999,300000-")
            first, second = answer.body.split(b"\r\n\r\n", 1)[1], answer.body.rsplit(b"\r\n\r\n", 1)[1]
            assert first.startswith(content[1:200000] + b"\r\n--")
            assert second.startswith(content[300000:] + b"\r\n--")
            assert answer.body.endswith(b"--\r\n")

    @given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=MAX_RANGES))
    def test_are_joined_to_exactly_the_bytes_that_were_asked_for(self, pairs: list[tuple[int, int]]) -> None:
        spans = [(min(pair), max(pair)) for pair in pairs]
        value = "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)
        got = ranges(Headers([(b"range", value.encode())]), 10, '"e"', None)
        assert got is not None
        assert {i for start, end in got for i in range(start, end)} == {
            i for first, last in spans for i in range(first, last + 1) if i < 10
        }
        flat = [edge for span in got for edge in span]
        assert flat == sorted(set(flat)), "each once, in order, and apart"


async def test_a_large_file_for_a_slow_reader_is_not_in_memory(root: Path) -> None:
    """Pieces are read as fast as they are taken; other requests are answered meanwhile."""
    with (root / "huge.bin").open("wb") as file:
        file.truncate(1 << 28)
    app = portico.App()
    app.static("/assets", root)
    async with serving(app) as server, await Peer.connect(server) as other:
        await ask(other, "/digits.txt")
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            peers = [await Peer.connect(server, receive_buffer=4096) for _ in range(4)]
            for peer in peers:
                peer.send(get("/assets/huge.bin"))
                assert (await peer.head()).header("content-length") == str(1 << 28)
                for _ in range(64):  # a MiB, of which this test itself must not hold much
                    await peer.exactly(1 << 14)
            assert (await ask(other, "/digits.txt")).body == DIGITS
            held = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
        assert held < 4 * (1 << 20), held
        for peer in peers:
            peer.reset()
        async with asyncio.timeout(GUARD_S):
            while server.connection_count > 1:
                await asyncio.sleep(0.001)
