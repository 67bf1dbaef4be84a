cimport cython


@cython.final
cdef class LengthBody:
    cdef public bint done
    cdef public object left


@cython.final
cdef class UnboundedBody:
    cdef public bint done
    cdef public object left


@cython.final
cdef class ChunkedBody:
    cdef public bint done
    cdef public object left
    cdef int _state
    cdef bytearray _line
    cdef Py_ssize_t _trailer_bytes_left, _fields_left
