cimport cython

cdef bytes _SPANS, _WIDTHS

@cython.locals(at=Py_ssize_t, begin=Py_ssize_t, size=Py_ssize_t, first=int)
cdef bytes _without_extensions(bytes data)
@cython.locals(first=int, width=int, length=Py_ssize_t, place=Py_ssize_t)
cdef Py_ssize_t _span(bytes data, Py_ssize_t at, Py_ssize_t size) except -1
