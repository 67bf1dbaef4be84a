cimport cython


@cython.final
cdef class Settings:
    cdef readonly object limits, counters
    cdef public object on_end
    cdef readonly Py_ssize_t max_outbox, max_unread
    cdef readonly double assembly_timeout, close_timeout, ping_interval, ping_timeout
