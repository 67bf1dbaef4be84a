"""`portico.Certificates`: names (SNI), what is negotiated, and files that change while connections live."""

from __future__ import annotations

import asyncio
import logging
import os
import pathlib
import signal
import ssl
import subprocess
import sys
from typing import Any

import pytest
from tests.certificates import self_signed
from tests.support import GUARD_S, TEXT, Logged, Peer, frame, get, pages, respond, serving, until

import portico

SOON_S = 0.02


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def site() -> portico.App:
    @pages
    async def page(scope: Any, receive: Any, send: Any) -> None:
        await respond(send, scope["scheme"].encode())

    app = portico.App()
    app.websocket("/ws", echo)
    app.mount("/", page)
    return app


async def shown(port: int, name: str | None = "localhost", **options: Any) -> str:
    """The common name of the certificate that a client gets which asks for `name`."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for option, value in options.items():
        setattr(context, option, value)
    async with asyncio.timeout(GUARD_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name or "")
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        text = subprocess.run(
            ["openssl", "x509", "-inform", "DER", "-noout", "-subject"], input=der, check=True, capture_output=True
        ).stdout.decode()
        return text.strip().removeprefix("subject=").removeprefix("CN").lstrip(" =")
    finally:
        writer.close()
        await writer.wait_closed()


def trusting(*certs: pathlib.Path) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for cert in certs:
        context.load_verify_locations(cert)
    return context


class TestNames:
    @pytest.mark.parametrize(
        ("asked", "got"),
        [
            ("localhost", "first"),
            ("one.example", "one"),
            ("ONE.Example", "one"),
            ("also-one.example", "one"),
            ("a.two.example", "two"),
            ("b.a.two.example", "first"),  # a wildcard stands for one label (RFC 9525 §6.3)
            ("two.example", "first"),
            ("unheard.example", "first"),
            (None, "first"),
        ],
    )
    async def test_the_certificate_for_a_name(self, tmp_path: pathlib.Path, asked: str | None, got: str) -> None:
        certificates = portico.Certificates(*self_signed(tmp_path, "first", "localhost"))
        certificates.add(*self_signed(tmp_path, "one", "one.example", "also-one.example"))
        certificates.add(*self_signed(tmp_path, "two", "*.two.example", "one.example"))
        async with serving(site(), ssl=certificates) as server:
            assert await shown(server.port, asked) == got

    async def test_every_name_verifies(self, tmp_path: pathlib.Path) -> None:
        first, second = self_signed(tmp_path, "first", "localhost"), self_signed(tmp_path, "second", "second.example")
        certificates = portico.Certificates(*first)
        certificates.add(*second)
        tls = trusting(first[0], second[0])
        async with serving(site(), ssl=certificates) as server:
            for name in ("localhost", "second.example"):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=tls, server_hostname=name)
                async with Peer(reader, writer) as peer:
                    peer.send(get("/"))
                    assert (await peer.answer()).text == "https"

    async def test_a_file_with_the_chain_and_the_key(self, tmp_path: pathlib.Path) -> None:
        cert, key = self_signed(tmp_path, "first", "localhost")
        both = tmp_path / "both.pem"
        both.write_text(key.read_text() + cert.read_text())
        async with serving(site(), ssl=portico.Certificates(both)) as server:
            assert await shown(server.port) == "first"

    async def test_an_encrypted_key(self, tmp_path: pathlib.Path) -> None:
        pair = self_signed(tmp_path, "first", "localhost", options="-passout pass:secret")
        with pytest.raises(portico.LocalError, match="the private key is encrypted: expected password="):
            portico.Certificates(*pair)  # and nobody is asked on the terminal
        with pytest.raises(portico.LocalError, match="expected a certificate and its key"):
            portico.Certificates(*pair, password="wrong")
        for password in ("secret", b"secret", lambda: "secret"):
            async with serving(site(), ssl=portico.Certificates(*pair, password=password)) as server:
                assert await shown(server.port) == "first"

    def test_files_that_can_t_be_used(self, tmp_path: pathlib.Path) -> None:
        cert, key = self_signed(tmp_path, "first", "localhost")
        _, other = self_signed(tmp_path, "other", "other.example")
        nameless = self_signed(tmp_path, "nameless")
        (tmp_path / "empty").write_text("")
        for pair, said in (
            ((tmp_path / "none", key), "none.*No such file"),
            ((cert, tmp_path / "none"), "No such file"),
            ((cert, other), "key values mismatch"),
            ((tmp_path / "empty", key), "expected a certificate and its key in PEM"),
            ((cert,), "expected a certificate and its key in PEM"),
        ):
            with pytest.raises(portico.LocalError, match=said):
                portico.Certificates(*pair)
        certificates = portico.Certificates(cert, key)
        before = certificates.context
        with pytest.raises(portico.LocalError, match="expected a certificate with names"):
            certificates.add(*nameless)
        assert certificates.context is before
        assert certificates.reload(), "what could not be added is not there"
        for check_s in (0, -1, "2"):
            with pytest.raises(portico.LocalError, match="check_s="):
                portico.Certificates(cert, key, check_s=check_s)  # type: ignore[arg-type] # wrong


class TestTerms:
    @pytest.fixture
    def pair(self, tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
        return self_signed(tmp_path, "first", "localhost")

    async def test_alpn(self, pair: Any) -> None:
        """RFC 7301: HTTP/1.1 of those that a client offers, also for a name of its own."""
        tls = trusting(pair[0])
        tls.set_alpn_protocols(["h2", "http/1.1"])
        async with (
            serving(site(), ssl=portico.Certificates(*pair)) as server,
            await Peer.connect(server, tls=tls) as peer,
        ):
            assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"

    async def test_tls_1_2_is_the_least(self, pair: Any) -> None:
        assert portico.Certificates(*pair).context.minimum_version == ssl.TLSVersion.TLSv1_2
        newer = portico.Certificates(*pair, minimum_version=ssl.TLSVersion.TLSv1_3)
        async with serving(site(), ssl=newer) as server:
            assert await shown(server.port, minimum_version=ssl.TLSVersion.TLSv1_3) == "first"
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await shown(server.port, maximum_version=ssl.TLSVersion.TLSv1_2)

    async def test_clients_that_have_to_show_a_certificate(self, pair: Any, tmp_path: pathlib.Path) -> None:
        known, unknown = self_signed(tmp_path, "known", "known"), self_signed(tmp_path, "unknown", "unknown")
        certificates = portico.Certificates(*pair, client_ca=known[0])

        async def ask(server: portico.Server, tls: ssl.SSLContext) -> str:
            async with await Peer.connect(server, tls=tls) as peer:  # TLS 1.3 tells a client no sooner than it reads
                peer.send(get("/"))
                return (await peer.answer()).text

        async with serving(site(), ssl=certificates) as server:
            tls = trusting(pair[0])
            tls.load_cert_chain(*known)
            assert await ask(server, tls) == "https"
            for client in (None, unknown):
                tls = trusting(pair[0])
                if client is not None:
                    tls.load_cert_chain(*client)
                with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                    await ask(server, tls)


class TestReload:
    async def test_new_connections_get_the_new_one_and_old_ones_live_on(self, tmp_path: pathlib.Path) -> None:
        old = self_signed(tmp_path, "old", "localhost")
        tls = trusting(old[0])
        certificates = portico.Certificates(*old, check_s=None)
        async with (
            serving(site(), ssl=certificates) as server,
            await Peer.connect(server, tls=tls) as ws,
            await Peer.connect(server, tls=tls) as http,
        ):
            await ws.open("/ws")
            new = self_signed(tmp_path, "new", "localhost")
            for before, after in zip(old, new, strict=True):
                os.replace(after, before)
            assert await shown(server.port) == "old"
            assert server.reload_certificates()
            assert await shown(server.port) == "new"
            for _ in range(2):
                ws.send(frame(TEXT, b"still here"))
                assert await ws.frame() == (TEXT, b"still here")
                http.send(get("/"))
                assert (await http.answer()).text == "https"

    async def test_a_handshake_under_way_ends_with_the_old_one(self, tmp_path: pathlib.Path) -> None:
        pair = self_signed(tmp_path, "old", "localhost")
        tls = trusting(pair[0])
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = tls.wrap_bio(incoming, outgoing, server_hostname="localhost")
        async with (
            serving(site(), ssl=portico.Certificates(*pair, check_s=None)) as server,
            await Peer.connect(server) as peer,
        ):
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            hello = outgoing.read()
            peer.send(hello[:50])
            await until(lambda: server.connection_count == 1)
            for before, after in zip(pair, self_signed(tmp_path, "new", "localhost"), strict=True):
                os.replace(after, before)
            assert server.reload_certificates()
            peer.send(hello[50:])
            while True:
                async with asyncio.timeout(GUARD_S):
                    incoming.write(await peer.reader.read(1 << 16))
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    pass

    async def test_a_file_that_changes_is_found(self, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture) -> None:
        pair = self_signed(tmp_path, "old", "localhost")
        async with serving(site(), ssl=portico.Certificates(*pair, check_s=SOON_S)) as server:
            with caplog.at_level(logging.INFO, "portico.net"):
                for before, after in zip(pair, self_signed(tmp_path, "new", "localhost"), strict=True):
                    os.replace(after, before)
                await until(lambda: "certificates reloaded" in caplog.messages)
            assert await shown(server.port) == "new"

    async def test_what_a_link_leads_to_is_what_counts(
        self, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As certbot and Kubernetes do it: only a link, or one above it, is changed."""
        for version in ("old", "new"):
            (tmp_path / version).mkdir()
            for made, name in zip(self_signed(tmp_path / version, version, "localhost"), ("cert", "key"), strict=True):
                made.rename(tmp_path / version / name)
        live, next_one = tmp_path / "live", tmp_path / "next"
        live.symlink_to("old")
        next_one.symlink_to("new")
        certificates = portico.Certificates(live / "cert", live / "key", check_s=SOON_S)
        async with serving(site(), ssl=certificates) as server:
            with caplog.at_level(logging.INFO, "portico.net"):
                next_one.replace(live)
                await until(lambda: "certificates reloaded" in caplog.messages)
            assert await shown(server.port) == "new"

    @pytest.mark.parametrize("broken", ["bad PEM", "another's key", "no key", "empty"])
    async def test_a_bad_file_keeps_the_old_one_and_is_told_once(
        self, tmp_path: pathlib.Path, logged: Logged, broken: str
    ) -> None:
        cert, key = self_signed(tmp_path, "old", "localhost")
        good = cert.read_bytes(), key.read_bytes()
        certificates = portico.Certificates(cert, key, check_s=SOON_S)
        async with serving(site(), ssl=certificates) as server:
            if broken == "bad PEM":
                cert.write_bytes(good[0].replace(b"\nM", b"\n?", 1))
            elif broken == "another's key":
                key.write_bytes(self_signed(tmp_path, "other", "localhost")[1].read_bytes())
            elif broken == "no key":
                key.unlink()
            else:
                cert.write_bytes(b"")
            await until(lambda: logged.records)
            assert await shown(server.port) == "old"
            certificates.check()
            certificates.check()
            record = logged.take("certificates not reloaded, the ones before stay")
            assert record.levelno == logging.ERROR
            assert str(tmp_path) in record.getMessage()
            # and what is mended is loaded again
            before = certificates.context
            for path, content in zip((cert, key), good, strict=True):
                path.write_bytes(content)
            await until(lambda: certificates.context is not before)
            assert await shown(server.port) == "old"

    def test_half_of_a_pair_is_waited_for(self, tmp_path: pathlib.Path, logged: Logged) -> None:
        """Two files can't be replaced at once: what changed between two looks is looked at again."""
        cert, key = self_signed(tmp_path, "old", "localhost")
        new_cert, new_key = self_signed(tmp_path, "new", "localhost")
        certificates = portico.Certificates(cert, key)
        before = certificates.context
        new_cert.replace(cert)
        assert not certificates.check()
        new_key.replace(key)
        assert not certificates.check()
        assert certificates.context is before
        assert certificates.check()
        assert certificates.context is not before
        assert not certificates.check()

    async def test_all_of_them_or_none(self, tmp_path: pathlib.Path, logged: Logged) -> None:
        first, second = self_signed(tmp_path, "first", "localhost"), self_signed(tmp_path, "second", "second.example")
        certificates = portico.Certificates(*first, check_s=None)
        certificates.add(*second)
        async with serving(site(), ssl=certificates) as server:
            for before, after in zip(first, self_signed(tmp_path, "new", "localhost"), strict=True):
                os.replace(after, before)
            second[0].write_text("broken")
            assert not server.reload_certificates()
            logged.take(str(second[0]))
            assert await shown(server.port) == "first"
            assert await shown(server.port, "second.example") == "second"

    async def test_the_end_of_the_server_ends_the_looking(self, tmp_path: pathlib.Path) -> None:
        certificates = portico.Certificates(*self_signed(tmp_path, "old", "localhost"))
        async with serving(site(), ssl=certificates) as server:
            watch = server._watch
            assert watch is not None
            assert watch._handle is not None
            assert not watch._handle.cancelled()
        assert watch._handle.cancelled()

    async def test_without_files_there_is_nothing_to_reload(self) -> None:
        async with serving(site()) as server:
            assert not server.reload_certificates()


CHILD = """
import asyncio, sys, portico
from portico.server.server import until_signal

async def main():
    async def echo(ws):
        async for message in ws:
            await ws.send(message)
    async with portico.serve(echo, port=0, ssl=portico.Certificates(*sys.argv[1:], check_s=None)) as server:
        asyncio.get_running_loop().call_soon(print, server.port)  # once signals are heard
        await until_signal(server)

asyncio.run(main())
"""


async def test_sighup_reloads_without_dropping_a_connection(tmp_path: pathlib.Path) -> None:
    """In a process of its own, with a good pair and then with a bad one."""
    pair = self_signed(tmp_path, "old", "localhost")
    tls = trusting(pair[0])
    arguments = ["-u", "-c", CHILD, *map(str, pair)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(3 * GUARD_S):
            port = int(await process.stdout.readline())
            async with await Peer.connect(port, tls=tls) as ws:
                await ws.open()
                for before, after in zip(pair, self_signed(tmp_path, "new", "localhost"), strict=True):
                    os.replace(after, before)
                process.send_signal(signal.SIGHUP)
                while await shown(port) != "new":
                    pass
                pair[0].write_text("broken")
                process.send_signal(signal.SIGHUP)
                assert b"certificates not reloaded" in await process.stderr.readline()
                assert await shown(port) == "new"
                ws.send(frame(TEXT, b"still here"))
                assert await ws.frame() == (TEXT, b"still here")
                process.terminate()
                await ws.closed_with(1001)
        assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
