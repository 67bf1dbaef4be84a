cimport cython
from portico.net.stream cimport Stream
from portico.websocket cimport WebSocket
from portico.wire.frames cimport encode_frame
from portico.wire.messages cimport Messages


@cython.final
cdef class Room:
    cdef object __weakref__
    cdef int _policy
    cdef set _members
    cdef public long dropped

    cpdef add(self, WebSocket ws)
    cpdef discard(self, WebSocket ws)
    @cython.locals(ws=WebSocket, wire=Messages, stream=Stream, size=Py_ssize_t, taken=Py_ssize_t, policy=int)
    cpdef Py_ssize_t send(self, message) except -1
    cdef _droppable(self, bytes frame)
    cdef _packed(self, codec, int opcode, bytes payload, frame, dict made)
    @cython.locals(stream=Stream, missing=Py_ssize_t)
    cdef bint _send_slow(self, WebSocket ws, message, frame) except -1
