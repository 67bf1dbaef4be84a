"""Real applications run on Portico and, with the same assertions, on uvicorn: what they rely on must be the same."""

from __future__ import annotations

import pytest
from tests.apps.hosts import HOSTS, Host


@pytest.fixture(params=sorted(HOSTS))
def host(request: pytest.FixtureRequest) -> Host:
    """``async with host(app) as site``: the application on one of the servers."""
    return HOSTS[request.param]
