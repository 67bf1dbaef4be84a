"""Tests for everybody: the real protocol code on simulated time, without a port, over links that fail when told to.

::

    from portico.testing import Link, pair, run

    def test_a_silent_peer_is_given_up() -> None:
        async def main() -> None:
            with Link() as link:
                async with pair(link=link) as (client, server):
                    link.drop()
                    with pytest.raises(portico.ConnectionClosed) as caught:
                        await server.recv()  # 45 s later, and at once
            assert caught.value.close.code == 1011

        run(main())

Nothing here is a mock: sockets, event loop and protocol are the ones that serve in production. Only the clock is ours,
and what stands between the two ends.
"""

from portico.testing.brokers import BROKER_CHECKS, check_broker
from portico.testing.clock import Stalled, VirtualLoop, run
from portico.testing.cluster import Cluster, Violation
from portico.testing.link import Flow, Link
from portico.testing.pairs import Pair, pair
from portico.testing.pieces import cuts, torn

__all__ = [
    "BROKER_CHECKS",
    "Cluster",
    "Flow",
    "Link",
    "Pair",
    "Stalled",
    "Violation",
    "VirtualLoop",
    "check_broker",
    "cuts",
    "pair",
    "run",
    "torn",
]
