cimport cython
from libc.stdint cimport int64_t
from portico.net cimport _calls as calls
from portico.net.reactor cimport Reactor, Source

cdef int READ, WRITE, ERROR
cdef int OPEN, FINISHING, LINGERING, BROKEN, GONE


cdef class Protocol:
    cpdef connected(self)
    cpdef received(self, bytearray data, Py_ssize_t size)
    cpdef eof(self)
    cpdef broken(self)
    cpdef drained(self)
    cpdef resumed(self)
    cpdef expired(self, double now)
    cpdef failed(self, error)
    cpdef lost(self, cause)


cdef class Nobody(Protocol):
    pass


cdef class Stream(Source):
    cdef readonly Reactor reactor
    cdef readonly object sock
    cdef public Protocol protocol
    cdef public object peer
    cdef public unsigned int high_water
    cdef unsigned char _state, _interest, _told, _blocked
    cdef readonly Py_ssize_t buffered
    cdef readonly int64_t bytes_in, bytes_out
    cdef readonly double last_read, opened
    cdef readonly object listener
    cdef object _out
    cdef int64_t _finish_mark
    cdef float _finish_timeout
    cdef unsigned char _eof, _linger

    cpdef bint is_open(self)
    cpdef ready(self, int events)
    @cython.locals(size=Py_ssize_t)
    cpdef _read(self)
    @cython.locals(protocol=Protocol)
    cpdef _take(self, bytearray buffer, Py_ssize_t size)
    cpdef peek(self)
    cpdef pause(self)
    @cython.locals(protocol=Protocol)
    cpdef resume(self)
    cdef _set_interest(self, int interest)
    cpdef write(self, data)
    @cython.locals(out=list)
    cdef _append(self, data)
    cdef list _entries(self)
    cpdef send_file(self, int fd, int64_t offset, int64_t count)
    cdef _break(self, error)
    cpdef flush(self)
    cpdef flush_within(self)
    @cython.locals(count=Py_ssize_t, taken=Py_ssize_t, size=Py_ssize_t, sent=Py_ssize_t, more=bint, protocol=Protocol)
    cdef _flush(self)
    @cython.locals(total=Py_ssize_t, count=Py_ssize_t)
    cdef tuple _join(self, list out)
    cpdef Py_ssize_t _send(self, data) except -1
    @cython.locals(before=int64_t)
    cpdef _end_broken(self, error, int state=*)
    @cython.locals(index=Py_ssize_t)
    cpdef _cut(self, list out, Py_ssize_t sent)
    cpdef _wait_writable(self)
    cpdef abort(self, cause=*, bint reset=*)
    @cython.locals(protocol=Protocol)
    cpdef expired(self, double now)
    @cython.locals(protocol=Protocol)
    cpdef failed(self, error)
    cpdef _shut(self)
    cpdef _shutdown(self)
    cdef _hung_up(self)
    @cython.locals(protocol=Protocol)
    cdef _end(self, cause)
