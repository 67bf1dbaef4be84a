"""Events, rooms and recovery over sessions that belong to no transport: Engine.IO 4 and Socket.IO 5, the server.

``sessions`` (one client's session), ``engine`` (all of them), ``transport`` (WebSocket), ``polling`` and ``polls``
(the usual ones), ``origins``, ``refusals``; above those ``channel`` (what a session's packets mean), ``clients`` and
``namespaces`` on their compiled ``members``, ``emissions`` (whom an event is for), ``outgoing`` and ``fanout``
(encoded once, for many), ``handlers`` and ``runners`` (the application's functions), ``events`` and ``arrivals``
(what nodes exchange), ``recovery``, ``slow``. Rooms that are kept: ``history``, ``feeds``, ``following`` and
``streams``. Who is there: ``presence``, ``places``. Who may do what, and how much: ``tickets``, ``identity``,
``rates``, ``unidentified``. ``realtime`` holds it together.
"""

from portico.realtime.clients import Client
from portico.realtime.emissions import Emission, Selection
from portico.realtime.history import History, HistoryGap, Past, RoomEvent
from portico.realtime.identity import Identity
from portico.realtime.namespaces import Namespace
from portico.realtime.presence import Presence
from portico.realtime.rates import Rate
from portico.realtime.realtime import Realtime
from portico.realtime.recovery import Recovery
from portico.realtime.room import Room
from portico.realtime.slow import Slow
from portico.realtime.unidentified import Unidentified

__all__ = ["History", "HistoryGap", "Identity", "Past", "Rate", "RoomEvent", "Unidentified"]
__all__ += ["Client", "Emission", "Namespace", "Presence", "Realtime", "Recovery", "Room", "Selection", "Slow"]
