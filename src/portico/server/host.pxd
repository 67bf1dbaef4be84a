cimport cython


@cython.final
cdef class Dates:
    cdef object _second
    cdef bytes _line

    cpdef bytes line(self)


cdef class Host:
    cdef public object access, counters, limits, proxies, site
    cdef public Dates dates
    cdef public dict states
    cdef public set tasks
    cdef public bint stopping
    cdef readonly bint routes
    cdef readonly object only
    cdef readonly double keep_alive, progress_window
    cdef readonly Py_ssize_t max_held, max_pipelined
