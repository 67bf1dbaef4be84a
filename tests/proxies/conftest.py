"""Fixtures for the tests with real proxies: a certificate for the way to them; nothing above INFO may be logged."""

from __future__ import annotations

import logging
import pathlib
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from tests.support import Logged


@dataclass
class Tls:
    """A certificate for localhost, and who trusts it."""

    cert: pathlib.Path
    key: pathlib.Path
    both: pathlib.Path
    client: ssl.SSLContext


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    where = tmp_path_factory.mktemp("tls")
    cert, key, both = where / "cert.pem", where / "key.pem", where / "both.pem"
    kind = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    names = "-addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    subprocess.run(
        f"openssl req -x509 {kind} {names} -keyout {key} -out {cert}".split(), check=True, capture_output=True
    )
    both.write_text(cert.read_text() + key.read_text())
    return Tls(cert, key, both, ssl.create_default_context(cafile=str(cert)))


@pytest.fixture(autouse=True)
def logged() -> Iterator[Logged]:
    """The warnings and errors that Portico and asyncio log; what a test doesn't take from here is a failure."""
    handler = Logged()
    loggers = [logging.getLogger(name) for name in ("portico", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
    assert not handler.records, [record.getMessage() for record in handler.records]
