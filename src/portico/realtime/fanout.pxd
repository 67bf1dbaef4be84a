cimport cython
from portico.net.stream cimport Stream
from portico.realtime.members cimport Member
from portico.realtime.outgoing cimport Outgoing
from portico.realtime.sessions cimport Session
from portico.websocket.websocket cimport WebSocket


@cython.locals(
    client=Member, session=Session, ws=WebSocket, stream=Stream, small=Py_ssize_t, taken=Py_ssize_t, keyed=bint
)
cpdef Py_ssize_t fan_out(Outgoing out, list clients, bint volatile) except -1
