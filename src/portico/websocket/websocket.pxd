cimport cython
from portico.net.stream cimport Stream
from portico.websocket.driver cimport Driver


cdef class WebSocket(Driver):
    @cython.locals(stream=Stream)
    cpdef write(self, message)
    @cython.locals(stream=Stream)
    cpdef send(self, message)
    cpdef drained(self)
    cpdef too_slow(self)
    cpdef recv(self)
