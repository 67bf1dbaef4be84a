cimport cython
from libc.stdint cimport int64_t
from portico.net.reactor cimport Reactor, Source

cdef int READ, WRITE, ERROR
cdef int OPEN, FINISHING, LINGERING, GONE


cdef class Protocol:
    cpdef connected(self)
    cpdef received(self, bytearray data, Py_ssize_t size)
    cpdef eof(self)
    cpdef drained(self)
    cpdef expired(self, double now)
    cpdef failed(self, error)
    cpdef lost(self, cause)


cdef class Nobody(Protocol):
    pass


cdef class Stream(Source):
    cdef object __weakref__
    cdef readonly Reactor reactor
    cdef readonly object sock
    cdef public Protocol protocol
    cdef public object peer
    cdef public Py_ssize_t high_water
    cdef readonly Py_ssize_t buffered
    cdef readonly int64_t bytes_in, bytes_out
    cdef readonly double last_read, opened
    cdef readonly object listener
    cdef object _local
    cdef list _out
    cdef unsigned char _state, _interest
    cdef bint _blocked, _told, _eof, _linger
    cdef int64_t _linger_end, _finish_mark
    cdef double _finish_timeout

    cpdef ready(self, int events)
    cpdef _read(self)
    cpdef _take(self, bytearray buffer, Py_ssize_t size)
    cpdef peek(self)
    cpdef pause(self)
    cpdef resume(self)
    cdef _set_interest(self, int interest)
    cpdef write(self, data)
    @cython.locals(out=list, count=Py_ssize_t, size=Py_ssize_t, sent=Py_ssize_t)
    cpdef flush(self)
    @cython.locals(total=Py_ssize_t, count=Py_ssize_t)
    cdef tuple _join(self, list out)
    cpdef _send(self, data)
    cdef _broken(self, error)
    cpdef _rest(self, data, Py_ssize_t sent)
    cpdef abort(self, cause=*)
    cpdef expired(self, double now)
    cpdef failed(self, error)
    cpdef _shut(self)
    cpdef _shutdown(self)
    cdef _socket_error(self)
    cdef _end(self, cause)
