cimport cython
from portico.net.stream cimport Stream
from portico.websocket.websocket cimport WebSocket
from portico.wire.frames cimport encode_frame
from portico.wire.messages cimport Messages


@cython.final
cdef class Room:
    cdef object __weakref__
    cdef int _policy
    cdef set _members
    cdef tuple _last
    cdef public long dropped

    cpdef add(self, WebSocket ws)
    cpdef discard(self, WebSocket ws)
    @cython.locals(ws=WebSocket, wire=Messages, stream=Stream, size=Py_ssize_t, taken=Py_ssize_t, policy=int)
    cpdef Py_ssize_t send(self, message) except -1
    cdef _packed(self, codec, int opcode, bytes payload, frame, dict made)
    @cython.locals(stream=Stream, missing=Py_ssize_t)
    cdef bint _send_slow(self, WebSocket ws, int opcode, bytes payload, frame) except -1
    cdef _masked(self, codec, int opcode, bytes payload)
