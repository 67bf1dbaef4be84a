cimport cython
from portico.realtime.channel cimport Channel
from portico.realtime.sessions cimport Session
from portico.websocket.websocket cimport WebSocket


@cython.locals(session=Session, channel=Channel, text=str)
cpdef receive(WebSocket ws, message)
