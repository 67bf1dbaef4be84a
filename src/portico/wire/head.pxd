cimport cython


@cython.final
cdef class HeadReader:
    cdef object _grammar
    cdef Py_ssize_t _max_bytes, _scanned
    cdef bytearray _partial
    cdef int _empty_lines
    cdef bint _line_passed

    cpdef bint fresh(self)
