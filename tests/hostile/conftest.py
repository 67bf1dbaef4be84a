"""One victim for all attacks of a module, first a server and then a client, and a neighbour beside each of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.hostile.attacker import Neighbour
from tests.hostile.target import Target, target

import portico

# How long the neighbour may wait for an echo, on a machine that is busy attacking. A turn of the victim reads once from
# each connection; 50 times 64 KiB of the smallest frames take the interpreted build some seconds.
NEIGHBOUR_S = 10.0 if portico.compiled else 20.0


@pytest.fixture(scope="module", params=["server", "client"])
def victim(request: pytest.FixtureRequest) -> Iterator[Target]:
    with target(client=request.param == "client") as running:
        yield running


@pytest.fixture
def neighbour(victim: Target) -> Iterator[Neighbour]:
    """It echoes before, during and after the test, and closes in good order."""
    with Neighbour(victim) as neighbour:
        yield neighbour
    assert neighbour.worst_s < NEIGHBOUR_S
