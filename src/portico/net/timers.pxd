cimport cython


cdef class Timed:
    cdef public double due
    cdef public unsigned int slot, place

    cpdef expired(self, double now)
    cpdef failed(self, error)


@cython.final
cdef class Wheel:
    cdef object _loop, _clock, _handle
    cdef dict _slots
    cdef long _armed, _current

    @cython.locals(slot=long)
    cpdef schedule(self, Timed entry, double due)
    cpdef cancel(self, Timed entry)
    cpdef close(self)
    @cython.locals(entry=Timed, slot=long, current=long)
    cpdef advance(self, double now)
    cdef _expire(self, Timed entry, double now)
    @cython.locals(entries=list)
    cdef _insert(self, Timed entry, long slot)
    @cython.locals(entries=list, last=Timed)
    cdef _remove(self, Timed entry)
    cdef _arm(self)
    cpdef _tick(self)
