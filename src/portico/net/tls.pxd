cimport cython
from portico.net.reactor cimport Reactor
from portico.net.stream cimport Protocol, Stream

cdef int READ, WRITE


cdef class TlsStream(Stream):
    cdef bint _handshaking, _crossed
    cdef object _tls

    cpdef ready(self, int events)
    cpdef expired(self, double now)
    cdef _shake(self)
    @cython.locals(size=Py_ssize_t)
    cpdef _read(self)
    cdef _read_pending(self)
    cpdef resume(self)
    @cython.locals(size=Py_ssize_t, sent=Py_ssize_t)
    cpdef Py_ssize_t _send(self, data) except -1
    @cython.locals(count=Py_ssize_t, size=Py_ssize_t)
    cpdef _cut(self, list out, Py_ssize_t sent)
    cpdef _wait_writable(self)
    cpdef _shut(self)
