cimport cython


cdef class Timed:
    cdef public double due
    cdef public long slot

    cpdef expired(self, double now)


@cython.final
cdef class Wheel:
    cdef object _loop, _handle
    cdef dict _slots
    cdef long _armed

    @cython.locals(slot=long)
    cpdef schedule(self, Timed entry, double due)
    cpdef cancel(self, Timed entry)
    cpdef close(self)
    @cython.locals(entry=Timed, slot=long, current=long)
    cpdef advance(self, double now)
    cdef _expire(self, Timed entry, double now)
    cdef _insert(self, Timed entry, long slot)
    @cython.locals(entries=set)
    cdef _remove(self, Timed entry)
    cdef _arm(self)
    cpdef _tick(self)
