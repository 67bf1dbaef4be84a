cimport cython
from portico.net.stream cimport Stream
from portico.net.timers cimport Timed
from portico.realtime.outgoing cimport Outgoing
from portico.websocket.websocket cimport WebSocket


cdef class Session(Timed):
    cdef readonly object engine, mounted, request, id, channel
    cdef public object user, closed, poll, lag, allowance
    cdef public WebSocket ws, probe
    cdef public bint posting
    cdef public object _queue, _room
    cdef public Py_ssize_t _queued, _unread
    cdef public double _heard, _ping_sent, _next_ping, _probe_by, _connect_by

    @cython.locals(ws=WebSocket, stream=Stream, slow=bint)
    cpdef bint send(self, Outgoing out) except -1
    @cython.locals(stream=Stream)
    cdef bint _fits(self, WebSocket ws, Outgoing out, Py_ssize_t size) except -1
    @cython.locals(missing=Py_ssize_t)
    cdef bint _enqueue(self, Outgoing out) except -1
    @cython.locals(before=Outgoing)
    cdef bint _replace(self, queue, Outgoing out) except -1
    @cython.locals(ws=WebSocket)
    cpdef receive(self, packet)
    cpdef heard(self)
    @cython.locals(ws=WebSocket, stream=Stream)
    cpdef hold(self, Py_ssize_t size)
    @cython.locals(ws=WebSocket)
    cpdef expired(self, double now)
