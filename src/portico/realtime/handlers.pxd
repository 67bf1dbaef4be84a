cimport cython


@cython.final
cdef class Handler:
    cdef readonly object function, rate
    cdef readonly bint concurrent, waits
    cdef readonly Py_ssize_t least, most
    cdef list _checks

    @cython.locals(count=Py_ssize_t, index=Py_ssize_t)
    cpdef bint fits(self, list call) except -1
    @cython.locals(count=Py_ssize_t)
    cpdef check(self, list call)
    @cython.locals(index=Py_ssize_t)
    cpdef convert(self, list call)
