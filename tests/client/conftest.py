"""For every test of the client: nothing may be left when it is over, and nothing may be logged as an error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from tests.client.fakes import Certificates
from tests.support import Logged, descriptors, until

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "WS_PROXY", "WSS_PROXY", "ALL_PROXY", "REQUEST_METHOD")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy comes from the environment but one that the test sets."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task, no descriptor (the reactor's own among them), no logged error outlives a test."""
    logged = Logged()
    loggers = [logging.getLogger(name) for name in ("portico", "asyncio")]
    for logger in loggers:
        logger.addHandler(logged)
    before = descriptors()
    tasks = asyncio.all_tasks()
    yield
    here = asyncio.current_task()
    await until(lambda: asyncio.all_tasks() - tasks <= {here})
    await until(lambda: descriptors().items() <= before.items())
    for logger in loggers:
        logger.removeHandler(logged)
    assert not logged.records, [record.getMessage() for record in logged.records]


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls"))
