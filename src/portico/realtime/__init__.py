"""Events, rooms and recovery over sessions that belong to no transport: Engine.IO 4 and Socket.IO 5, the server.

``sessions`` (one client's session), ``engine`` (all of them; WebSocket), ``polling``, ``refusals``; above those
``channel`` (what a session's packets mean), ``clients``, ``namespaces``, ``emissions`` (whom an event is for),
``recovery``, ``history`` and its ``feeds``, ``following`` and its ``streams``, ``presence`` and its ``places``, ``handlers`` (the application's functions), ``events`` (what nodes
exchange), ``outgoing`` (packets encoded once), and ``realtime``, which holds it together. Who may do what, and how much:
``tickets``, ``identity``, ``rates``, ``unidentified``.
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
