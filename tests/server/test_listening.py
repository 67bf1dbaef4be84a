"""Several places at once, and what they may be: `bind=`, lists of hosts and of sockets; files of Unix sockets."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
import stat
from typing import Any

import pytest
from tests.support import GUARD_S, Peer, descriptors, free_port, pages, respond, until

import portico


@pages
async def page(scope: Any, receive: Any, send: Any) -> None:
    await respond(send, b"page")


async def answers(family: int, address: Any) -> bool:
    """Whether Portico answers at this address."""
    with socket.socket(family) as probe:
        probe.settimeout(GUARD_S)
        probe.connect(address)
        probe.setblocking(False)
        async with Peer(*await asyncio.open_connection(sock=probe.dup())) as peer:
            peer.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            return (await peer.answer()).text == "page"


class TestSeveral:
    async def test_several_addresses_and_a_unix_socket(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "s"
        async with portico.serve(page, bind=["127.0.0.1:0", "[::1]:0", f"unix:{path}"]) as server:
            first, second, third = server.addresses
            assert (first[0], second[0], third) == ("127.0.0.1", "::1", str(path))
            assert server.port == first[1]
            assert await answers(socket.AF_INET, first)
            assert await answers(socket.AF_INET6, second)
            assert await answers(socket.AF_UNIX, third)
            await until(lambda: server.accepted == 3)

    async def test_one_alone(self) -> None:
        async with portico.serve(page, bind="127.0.0.1:0") as server:
            assert await answers(socket.AF_INET, server.addresses[0])

    async def test_several_hosts_have_one_port(self) -> None:
        async with portico.serve(page, ["127.0.0.1", "::1", "127.0.0.1"], 0) as server:
            assert server.addresses == [("127.0.0.1", server.port), ("::1", server.port)]

    @pytest.mark.parametrize("everywhere", [":0", "*:0"])
    async def test_every_address(self, everywhere: str) -> None:
        async with portico.serve(page, bind=everywhere) as server:
            assert {address[0] for address in server.addresses} == {"0.0.0.0", "::"}
            assert await answers(socket.AF_INET, ("127.0.0.1", server.port))

    async def test_several_sockets(self) -> None:
        socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        async with portico.serve(page, sock=socks) as server:
            assert len(server.addresses) == 2
            for address in server.addresses:
                assert await answers(socket.AF_INET, address)

    async def test_all_of_them_or_none(self, tmp_path: pathlib.Path) -> None:
        """Nothing stays open and no file stays behind where the last one can't be had."""
        before = descriptors()
        port = free_port()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            number = taken.getsockname()[1]
            places = [f"127.0.0.1:{port}", f"unix:{tmp_path}/s", f"127.0.0.1:{number}"]
            with pytest.raises(
                portico.LocalError, match=rf"cannot listen on 127\.0\.0\.1 port {number}: Address already"
            ):
                await portico.serve(page, bind=places)
        assert descriptors() == before
        assert os.listdir(tmp_path) == []
        async with portico.serve(page, bind=f"127.0.0.1:{port}"):
            pass

    @pytest.mark.parametrize(
        "entry",
        [
            "",
            "127.0.0.1",
            "8000",
            "::1:8000",
            "[::1]",
            "127.0.0.1:",
            "127.0.0.1:http",
            "127.0.0.1:65536",
            "http://127.0.0.1:8000",
            "unix:",
            "fd://",
            "fd://x",
            "systemd:",
            8000,
            ("127.0.0.1", 8000),
        ],
    )
    def test_what_is_no_place(self, entry: Any) -> None:
        with pytest.raises(portico.LocalError, match=r"expected HOST:PORT .*unix:PATH, fd://NUMBER, systemd"):
            portico.serve(page, bind=[entry])

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"bind": []}, "at least one address"),
            ({"bind": ["a:1"], "port": 9000}, "name every address in bind="),
            ({"bind": ["a:1"], "host": None}, "name every address in bind="),
            ({"bind": ["a:1"], "uds": "/tmp/x"}, "bind= and uds= exclude each other"),
            ({"host": []}, "at least one name"),
            ({"host": ["127.0.0.1", 1]}, "host=1: expected"),
            ({"sock": [1]}, "expected a socket"),
            ({"uds_mode": 0o660}, "uds_mode= without a Unix socket"),
            ({"uds": "/tmp/x", "uds_mode": "660"}, "expected the bits of a mode"),
            ({"uds": "/tmp/x", "uds_mode": 0o1777}, "expected the bits of a mode"),
        ],
    )
    def test_what_makes_no_sense_together(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises(portico.LocalError, match=said):
            portico.serve(page, **options)

    async def test_what_is_connected_is_no_place(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as sock:
            accepted, _ = server.accept()
            with accepted, pytest.raises(portico.LocalError, match="expected a bound socket, not a connected one"):
                await portico.serve(page, sock=sock)

    async def test_a_descriptor_that_is_no_socket(self, tmp_path: pathlib.Path) -> None:
        with (tmp_path / "file").open("w") as file, pytest.raises(portico.LocalError, match="expected a socket"):
            await portico.serve(page, bind=f"fd://{file.fileno()}")


class TestUnix:
    @pytest.mark.parametrize("by", ["uds", "bind"])
    @pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
    async def test_the_mode(self, tmp_path: pathlib.Path, by: str, mode: int) -> None:
        path = tmp_path / "s"
        place: dict[str, Any] = {"uds": path} if by == "uds" else {"bind": [f"unix:{path}"]}
        async with portico.serve(page, uds_mode=mode, **place):
            assert stat.S_IMODE(path.stat().st_mode) == mode
            assert await answers(socket.AF_UNIX, str(path))

    async def test_what_another_has_put_there_is_left_there(self, tmp_path: pathlib.Path) -> None:
        """A successor that was started before this one's end has its own file at the path."""
        path = tmp_path / "s"
        async with portico.serve(page, uds=path) as old:
            path.unlink()
            async with portico.serve(page, uds=path):
                await old.close()
                assert await answers(socket.AF_UNIX, str(path))
        assert not path.exists()

    async def test_the_working_directory_may_change(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "else").mkdir()
        monkeypatch.chdir(tmp_path)
        async with portico.serve(page, bind="unix:s"):
            monkeypatch.chdir(tmp_path / "else")
        assert os.listdir(tmp_path) == ["else"]
