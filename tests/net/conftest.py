"""Fixtures for the tests of `net`: the running loop's reactor, and a certificate for TLS."""

from __future__ import annotations

import pathlib
import ssl
import subprocess
from collections.abc import AsyncIterator

import pytest

from portico.net.reactor import Epoll, Reactor, Selected


@pytest.fixture(params=[Epoll, Selected])
async def reactor(request: pytest.FixtureRequest) -> AsyncIterator[Reactor]:
    """The running loop's, on either readiness set; a test that leaves a source in it fails."""
    reactor = Reactor.running(request.param)
    yield reactor
    left = reactor.sources()
    reactor.close_if_idle()
    assert left == []


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A file with a key and its self-signed certificate for localhost."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = subprocess.run(
        ["openssl", "req", "-x509", *kind, *subject, "-keyout", file, "-out", file.with_suffix(".crt")],
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


@pytest.fixture
def server_tls(certificate: pathlib.Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def client_tls(certificate: pathlib.Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))
