cimport cython
from portico.net.stream cimport Protocol, Stream


cdef class Owner(Protocol):
    cdef readonly Stream stream
    cdef readonly object closed

    cpdef taken(self, Py_ssize_t cost)


@cython.locals(text=str)
cdef Py_ssize_t weight(message) except -1


@cython.final
cdef class Inbox:
    cdef public object _asyncio_future_blocking
    cdef readonly Py_ssize_t cost
    cdef public bint iterating, reading_on
    cdef public object task
    cdef Owner _ws
    cdef object _queue, _callback, _context

    cpdef put(self, message)
    cpdef wake(self)
    cpdef wake_later(self)
    cpdef send(self, value)
