cimport cython


@cython.final
cdef class Finished:
    pass
