cimport cython
from portico.realtime.members cimport Member
from portico.realtime.outgoing cimport Outgoing
from portico.realtime.sessions cimport Session
from portico.wire cimport socketio
from portico.wire.socketio cimport Packet


@cython.final
cdef class Channel:
    cdef readonly Session session
    cdef readonly dict clients
    cdef public object _decoder, _left

    @cython.locals(client=Member, text=str, event=list, size=Py_ssize_t)
    cpdef receive(self, str message)
    cpdef receive_binary(self, bytes data)
    @cython.locals(client=Member, kind=int)
    cdef _handle(self, Packet packet, Py_ssize_t size)


@cython.locals(size=Py_ssize_t, rest=list)
cdef Py_ssize_t _weight(data) except -1
