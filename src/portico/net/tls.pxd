cimport cython
from portico.net.reactor cimport Reactor
from portico.net.stream cimport Protocol, Stream

cdef int READ, WRITE


cdef class TlsStream(Stream):
    cdef bint _handshaking

    cpdef ready(self, int events)
    cpdef expired(self, double now)
    cdef _shake(self)
    @cython.locals(size=Py_ssize_t)
    cpdef _read(self)
    cpdef _send(self, data)
    cpdef _shut(self)
    cpdef _shutdown(self)
