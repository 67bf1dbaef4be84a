cimport cython
from portico.net.stepping cimport Stepped
from portico.net.stream cimport Protocol, Stream


cdef class Owner(Protocol):
    cdef readonly Stream stream
    cdef readonly object closed

    cpdef taken(self, Py_ssize_t cost)


@cython.locals(text=str)
cdef Py_ssize_t weight(message) except -1


@cython.final
cdef class Inbox(Stepped):
    cdef readonly Py_ssize_t cost
    cdef public bint iterating, reading_on
    cdef public object task
    cdef Owner _ws
    cdef object _queue

    cpdef put(self, message)
    cpdef wake(self)
