cimport cython


@cython.final
cdef class Emission:
    cdef object _receipt, _elsewhere
    cdef Py_ssize_t _taken


@cython.locals(emission=Emission)
cpdef Emission taken_by(Py_ssize_t count)
