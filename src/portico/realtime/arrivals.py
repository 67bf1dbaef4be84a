"""What a broker calls on one node, and where that goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from portico.brokers import Gap, Receiver

if TYPE_CHECKING:
    from portico.realtime.realtime import Realtime


class Arrivals(Receiver):
    """The receiver of a `Realtime`: its own ``on_…`` are the application's."""

    def __init__(self, io: Realtime) -> None:
        self._io = io
        self.on_message = io.on_message  # type: ignore[method-assign] # one call less for each

    def on_gap(self, gap: Gap) -> None:
        super().on_gap(gap)
        self._io.on_gap(gap)

    def on_presence(self, channel: str, user: str, joined: bool, info: Any) -> None:
        if self._io.attendance is not None:
            self._io.attendance.on_presence(channel, user, joined, info)
