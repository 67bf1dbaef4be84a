"""What tests of any part share."""

from __future__ import annotations

import signal
import ssl
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from tests.browser import Browser, launched
from tests.certificates import Tls
from tests.support import Logged

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a shell's background; programs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def logged() -> Iterator[Logged]:
    """The warnings and errors that Portico and asyncio log; what a test doesn't take from here is a failure."""
    with Logged.all_expected() as logged:
        yield logged


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A certificate for localhost and 127.0.0.1."""
    return Tls.of_localhost(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server_tls(tls: Tls) -> ssl.SSLContext:
    return tls.server()


@pytest.fixture
def client_tls(tls: Tls) -> ssl.SSLContext:
    return tls.client()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of a file, which share its loop."""
    async with launched() as browser:
        yield browser
