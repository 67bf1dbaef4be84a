"""For every test of the client: nothing may be left when it is over, and no proxy comes from the environment."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.client.fakes import Certificates, nothing_left_behind

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY", "ALL_PROXY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy but one that the test sets."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    async with nothing_left_behind():
        yield


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))
