"""What the tests of `net` share: the running loop's reactor."""

from __future__ import annotations

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
