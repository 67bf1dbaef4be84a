"""Events, rooms and recovery over sessions that belong to no transport: Engine.IO 4 and Socket.IO 5, the server.

``sessions`` (one client's session), ``engine`` (all of them; WebSocket), ``polling``, ``refusals``; above those
``channel`` (what a session's packets mean), ``clients``, ``namespaces``, ``emissions`` (whom an event is for),
``recovery``, ``handlers`` (the application's functions), ``events`` (what nodes exchange), ``outgoing`` (packets
encoded once), and ``realtime``, which holds it together.
"""

from portico.realtime.clients import Client
from portico.realtime.emissions import Emission, Selection
from portico.realtime.namespaces import Namespace
from portico.realtime.realtime import Realtime
from portico.realtime.recovery import Recovery

__all__ = ["Client", "Emission", "Namespace", "Realtime", "Recovery", "Selection"]
