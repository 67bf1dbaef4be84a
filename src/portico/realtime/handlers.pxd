cimport cython


@cython.final
cdef class Handler:
    cdef readonly object function, rate
    cdef readonly bint concurrent, waits
    cdef readonly Py_ssize_t least, most
    cdef dict _checks, _plain

    @cython.locals(count=Py_ssize_t)
    cpdef list check(self, list args)
