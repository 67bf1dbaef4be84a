"""For every test of the server: what it logs at WARNING and above must be expected by the test, or it fails."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from tests.support import Logged


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
