"""For every test with real proxies: what is logged at WARNING and above must be expected by the test, or it fails."""

from __future__ import annotations

import pytest
from tests.support import Logged


@pytest.fixture(autouse=True)
def all_expected(logged: Logged) -> None:
    """`logged`, for whoever doesn't ask for it, too."""
