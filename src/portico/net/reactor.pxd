cimport cython
from portico.net.timers cimport Timed, Wheel



cdef class Source(Timed):
    cdef public int fd
    cdef public bint in_dirty

    cpdef ready(self, int events)
    cpdef flush(self)
    cpdef failed(self, error)


@cython.final
cdef class Reactor:
    cdef readonly object loop
    cdef readonly object poller, clock
    cdef readonly bytearray buffer
    cdef readonly Wheel wheel
    cdef public bint in_turn
    cdef readonly double turn_time
    cdef readonly int count
    cdef int read_bit, write_bit
    cdef list _sources, _dirty
    cdef dict _again
    cdef bint _flush_scheduled, _closed

    cpdef add(self, Source source, int fd, int interest)
    cpdef change(self, Source source, int interest)
    cpdef remove(self, Source source)
    cdef int _bits(self, int interest)
    @cython.locals(fd=int, bits=int, events=int, write_bit=int, read_bit=int, sources=list, source=Source)
    cpdef turn(self)
    cpdef mark(self, Source source)
    cpdef again(self, Source source)
    @cython.locals(source=Source)
    cdef _serve_again(self)
    cdef _fail(self, Source source, error)
    cpdef soon(self, Source source, callback)
    cpdef _act(self, Source source, callback)
    cpdef _flush_later(self)
    cdef _end_turn(self)
    @cython.locals(source=Source, dirty=list, done=Py_ssize_t)
    cdef _flush_dirty(self)
