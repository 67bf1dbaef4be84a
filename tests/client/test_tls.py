"""wss: (RFC 6455 §4.1, item 5 of the connection's requirements): the right host is verified, by name, or nothing is
sent."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys

import pytest
from tests.client.fakes import Certificates, Fake, Visit
from tests.support import until

import portico

SOON_S = 1.0


async def echo(ws: portico.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def refused(fake: Fake, context: ssl.SSLContext, host: str = "localhost") -> ssl.SSLCertVerificationError:
    """What is said of the certificate; the server has then seen no request."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        await portico.connect(f"wss://{host}:{fake.port}/", ssl=context)
    assert fake.requests == []
    return caught.value


async def pinged(server: portico.Server, context: ssl.SSLContext, host: str = "localhost") -> None:
    """Connect; a ping is answered."""
    sock = socket.create_connection(("127.0.0.1", server.port))
    async with portico.connect(f"wss://{host}/", ssl=context, sock=sock) as ws:
        assert await ws.ping() > 0


async def never(visit: Visit) -> None:
    await visit.head()


async def test_a_host_that_our_authority_vouches_for(certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed())
    message = "x" * 1_000_000
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        uri = f"wss://localhost:{server.port}/"
        async with portico.connect(uri, ssl=certificates.client(), deflate=None) as ws:
            await ws.send(message)
            assert await ws.recv() == message
            assert ws.request.scheme == "wss"


async def test_an_address_is_verified_as_one(certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed("127.0.0.1"))
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        await pinged(server, certificates.client(), "127.0.0.1")
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            await portico.connect(f"wss://localhost:{server.port}/", ssl=certificates.client())


async def test_another_hosts_certificate(certificates: Certificates) -> None:
    async with Fake.running(never, tls=certificates.server(certificates.signed("other.example"))) as fake:
        error = await refused(fake, certificates.client())
    assert "localhost" in str(error)
    assert "Hostname mismatch" in str(error)


async def test_an_expired_certificate(certificates: Certificates) -> None:
    async with Fake.running(never, tls=certificates.server(certificates.signed(expired=True))) as fake:
        assert "certificate has expired" in str(await refused(fake, certificates.client()))


async def test_a_self_signed_certificate(certificates: Certificates) -> None:
    async with Fake.running(never, tls=certificates.server(certificates.self_signed())) as fake:
        assert "self-signed" in str(await refused(fake, certificates.client()))


async def test_an_authority_that_the_system_does_not_know(certificates: Certificates) -> None:
    """Without `ssl` the system's authorities count, and ours is none of them."""
    async with Fake.running(never, tls=certificates.server(certificates.signed())) as fake:
        with pytest.raises(ssl.SSLCertVerificationError, match="issuer certificate"):
            await portico.connect(f"wss://localhost:{fake.port}/")
    assert fake.requests == []


async def test_verification_can_be_left_out_by_the_caller(certificates: Certificates) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    tls = certificates.server(certificates.self_signed("other.example"))
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        await pinged(server, context)


@pytest.mark.parametrize(
    ("host", "seen"),
    [
        ("localhost", "localhost"),
        ("LOCALHOST", "localhost"),
        ("localhost.", "localhost"),  # RFC 6066 §3: without the trailing dot
        ("127.0.0.1", None),  # RFC 6066 §3: an address is no name
    ],
)
async def test_the_server_sees_the_name(host: str, seen: str | None, certificates: Certificates) -> None:
    names: list[str | None] = []
    tls = certificates.server(certificates.signed("127.0.0.1" if seen is None else "localhost"))
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        await pinged(server, certificates.client(), host)
    assert names == [seen]


async def test_an_internationalised_name_is_sent_and_verified_as_ace(certificates: Certificates) -> None:
    names: list[str | None] = []
    tls = certificates.server(certificates.signed("xn--bcher-kva.example"))
    tls.sni_callback = lambda _, name, __: names.append(name)
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        sock = socket.create_connection(("127.0.0.1", server.port))
        async with portico.connect("wss://bücher.example/", ssl=certificates.client(), sock=sock) as ws:
            assert await ws.ping() > 0
            assert ws.request.headers["host"] == "xn--bcher-kva.example"
    assert names == ["xn--bcher-kva.example"]


DEFAULT = """
import asyncio, sys, portico
async def main():
    async with portico.connect(f"wss://localhost:{sys.argv[1]}/") as ws:
        print(await ws.recv())
asyncio.run(main())
"""


async def test_by_default_the_systems_authorities_verify_and_alpn_is_http_1_1(certificates: Certificates) -> None:
    """RFC 7301. The system's authorities are the ones in SSL_CERT_FILE here; a process of its own reads that."""
    tls = certificates.server(certificates.signed())
    tls.set_alpn_protocols(["h2", "http/1.1"])  # a server that would rather speak HTTP/2

    async def script(visit: Visit) -> None:
        chosen = visit.writer.get_extra_info("ssl_object").selected_alpn_protocol()
        await visit.switch(bytes([0x81, len(chosen)]) + chosen.encode() + b"\x88\x02\x03\xe8")
        await visit.reader.readexactly(8)

    async with Fake.running(script, tls=tls) as fake:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            DEFAULT,
            str(fake.port),
            env={**os.environ, "SSL_CERT_FILE": str(certificates.authority)},
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate()
    assert (process.returncode, out) == (0, b"http/1.1\n")


async def test_a_client_certificate_goes_along(certificates: Certificates) -> None:
    tls = certificates.server(certificates.signed())
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(str(certificates.authority))
    context = certificates.client()
    async with Fake.running(never, tls=tls) as fake:
        with pytest.raises((ssl.SSLError, portico.HandshakeError)) as caught:
            await portico.connect(f"wss://localhost:{fake.port}/", ssl=context)
        assert not isinstance(caught.value, ssl.SSLCertVerificationError)
    context.load_cert_chain(certificates.signed("client.example"))
    async with portico.serve(echo, "127.0.0.1", 0, ssl=tls) as server:
        await pinged(server, context)


async def test_a_port_that_speaks_no_tls() -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.read(1)
        visit.send(b"HTTP/1.1 400 This is HTTP\r\n\r\n")
        await visit.gone()

    async with Fake.running(script) as fake:
        with pytest.raises(ssl.SSLError, match=r"(?i)wrong.version.number"):
            await portico.connect(f"wss://localhost:{fake.port}/")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_ends_in_the_tls_handshake(reset: bool) -> None:
    async def script(visit: Visit) -> None:
        await visit.reader.read(1)
        if reset:
            visit.reset()

    async with Fake.running(script) as fake:
        with pytest.raises((ssl.SSLError, portico.HandshakeError)) as caught:
            await portico.connect(f"wss://localhost:{fake.port}/")
    assert "EOF" in str(caught.value) or "reset" in str(caught.value)


async def test_tls_and_the_answer_share_one_deadline(certificates: Certificates) -> None:
    """The TLS handshake does not renew it."""

    async def script(visit: Visit) -> None:
        await visit.gone()

    async with Fake.running(script, tls=certificates.server(certificates.signed())) as fake:
        with pytest.raises(TimeoutError, match="did not answer the opening handshake"):
            await portico.connect(f"wss://localhost:{fake.port}/", ssl=certificates.client(), open_timeout_s=SOON_S)
        await until(lambda: fake.count)


async def test_a_message_behind_the_answer_in_one_record_is_not_lost(certificates: Certificates) -> None:
    """What TLS holds already is not shown by the descriptor."""
    frames = b"".join(b"\x82\x7e\x10\x00" + bytes([number]) * 4096 for number in range(20))

    async def script(visit: Visit) -> None:
        await visit.switch(frames + b"\x88\x02\x03\xe8")
        await visit.reader.readexactly(8)

    async with Fake.running(script, tls=certificates.server(certificates.signed())) as fake:
        ws = await portico.connect(f"wss://localhost:{fake.port}/", ssl=certificates.client())
        assert [message async for message in ws] == [bytes([number]) * 4096 for number in range(20)]
        await ws.close()
