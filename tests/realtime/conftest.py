"""What the tests of Realtime share."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.support import Logged


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What is logged at WARNING and above must be expected by the test."""
    handler = Logged()
    loggers = [logging.getLogger(name) for name in ("portico", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield handler
    for logger in loggers:
        logger.removeHandler(handler)
    assert not handler.records, [record.getMessage() for record in handler.records]
